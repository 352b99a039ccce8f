"""What the shell can be asked for: every command with its options, as a parser; `__main__` does what is asked."""

import argparse
import os
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """Of `python -m cns`: `command` names the command, `what` the kind of a bench."""
    top = argparse.ArgumentParser(prog="python -m cns", description="Teach one image model one thing after another.")
    commands = top.add_subparsers(dest="command", required=True)
    for added in (_teach, _generate, _look, _own, _carry, _bench):
        added(commands)
    return top


def _command(commands, name: str, text: str, session: bool | None = True):
    """`session`: whether its folder must be named, or None where there is none."""
    sub = commands.add_parser(name, help=text, description=text)
    sub.add_argument("--base", help="folder or Hub id of a Stable Diffusion (1, 2, XL, 3), PixArt, Sana or FLUX.1 pipeline (default: the embedded starter)")
    if session is not None:
        sub.add_argument("--session", type=Path, required=session, metavar="DIR", help="folder of the session")
    return sub


def _teach(commands):
    sub = _command(commands, "teach", "Teach a thing from 1 to 10 images; the session is made if it is not there.")
    sub.add_argument("--name", required=True, help="its token becomes <name>")
    sub.add_argument("--class", dest="class_word", required=True, metavar="WORD", help='what kind of thing it is, such as "dog face"')
    sub.add_argument("--steps", type=int, help="training steps (default: the base's own)")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--more", action="store_true", help="the name is taught already: teach it more pictures")
    sub.add_argument("--job", metavar="MACHINE", help="teach on HF Jobs, such as t4-small, paid by the account of HF_TOKEN")
    sub.add_argument("--space", default=os.environ.get("CNS_SPACE"), metavar="OWNER/NAME", help="the Space whose code the job runs (also CNS_SPACE)")
    sub.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="a file; this and the session may also lie at `hub:owner/name/folder`, in a private dataset repo")


def _generate(commands):
    sub = _command(commands, "generate", "Draw pictures of a prompt, with what a session knows or with the untouched base.", session=False)
    sub.add_argument("--prompt", required=True)
    for option, kind in (("count", int), ("seed", int), ("steps", int), ("guidance", float), ("negative", str)):
        sub.add_argument(f"--{option}", type=kind)
    sub.add_argument("--strength", dest="strengths", action="append", default=[], metavar="NAME=X", help="a concept's strength, 0 to 1.5; repeatable")
    sub.add_argument(
        "--region", dest="regions", action="append", default=[], metavar='"L,T,R,B: WORDS"',
        help="words for a box, given as fractions of the canvas; repeatable, later ones lie over earlier ones",
    )  # fmt: skip
    sub.add_argument("--layout", type=Path, metavar="FILE", help="regions from a JSON file, under those of --region")
    sub.add_argument("--preset", metavar="NAME", help='boxes "side by side", "foreground and background" or "grid", with words by --words, from the back to the front')
    sub.add_argument("--words", action="append", default=[], help="of the preset's next box; repeatable")
    sub.add_argument("--save-layout", type=Path, metavar="FILE", help="write all the regions as such a file")
    sub.add_argument("--together", type=float, metavar="X", help="with regions: the share of the steps that draw all of them, the rest draws each alone; 0 to 1 (default: the base's own)")
    sub.add_argument("--image", type=Path, metavar="FILE", help="a picture to start from")
    sub.add_argument("--image-strength", type=float, metavar="X", help="how much of it is drawn anew, 0.05 to 1 (default: 0.6)")
    sub.add_argument("--vary", metavar="WHAT[=X,X,...]", help="a table: each seed with several values of guidance, image_strength or a concept's strength, such as rex=0,0.5,1,1.5")
    sub.add_argument("--overlay", action="store_true", help="also write, for each word of the first picture, where it acted")
    sub.add_argument("--out", type=Path, required=True, metavar="DIR")


def _look(commands):
    sub = _command(commands, "inspect", "Write the figures of a session, as PNG and their data as CSV.")
    sub.add_argument("--out", type=Path, required=True, metavar="DIR")
    sub.add_argument("--draw", action="store_true", help="also draw the causal probes and the forgetting matrix (takes a while)")
    sub.add_argument("--seed", type=int, help="of the probes (default: the concept's own)")
    sub = _command(commands, "info", "Say what a session knows and what it changed.")
    sub.add_argument("--json", action="store_true")


def _own(commands):
    sub = _command(commands, "forget", "Take a concept out again: its share of the weights and its token.")
    sub.add_argument("--name", required=True)
    sub = _command(commands, "rename", "Call a concept by another name.")
    sub.add_argument("--name", required=True)
    sub.add_argument("--to", required=True, metavar="NAME")
    sub = _command(commands, "reorder", "Put the concepts into another order; the weights stay as they are.")
    sub.add_argument("names", nargs="+", metavar="NAME", help="every concept once")
    sub = _command(commands, "merge", "Make one session of two that were taught on the same base.")
    sub.add_argument("--with", dest="other", type=Path, required=True, metavar="DIR", help="folder of the other session")
    sub.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder for both")


def _carry(commands):
    out = _command(commands, "export", "Write a session for other programs.")
    hub = _command(commands, "push", "Export a session to a model repo on the Hub, with a card that shows what it draws; HF_TOKEN must be set.")
    for sub in (out, hub):
        sub.add_argument("kind", choices=["pipeline", "patch", "lora", "session"], help="see README.md")
        sub.add_argument("--rank", type=int, default=16, help="of the LoRA's matrices (default: 16)")
    out.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder")
    hub.add_argument("--repo", required=True, metavar="OWNER/NAME", help="made when it is not there")
    hub.add_argument("--public", action="store_true", help="make the new repo public (default: private)")
    sub = _command(commands, "import", "Make a session of a folder that was exported.")
    sub.add_argument("folder", type=Path, metavar="DIR")


def _bench(commands):
    kinds = _command(commands, "bench", "Measure on this machine.", session=None).add_subparsers(dest="what", required=True)
    sub = kinds.add_parser("speed", help="what teaching, drawing and keeping cost here; with --base sd15-random or sdxl-random beside other ways, at true size")
    sub.add_argument("--base", default=argparse.SUPPRESS, help="as above, or sd15-random, or sdxl-random")
    sub.add_argument("--size", type=int, metavar="N", help="of the random bases' pictures [pixels] (default: 128 on a CPU, else their own)")
    sub.add_argument("--steps", type=int, metavar="N", help="to measure with on the random bases (default: 2 on a CPU, else 50)")
    sub.add_argument("--diffusers", type=Path, metavar="DIR", help="a checkout of diffusers: sd15-random beside its scripts for Custom Diffusion and DreamBooth-LoRA, too")
    kinds.add_parser("store", help="what keeping sessions costs")
    sub = kinds.add_parser("load", help="a crowd of visitors and teachers on one process: waiting, mixing, memory, files")
    _numbers(sub, visitors="who draw", teachers="who teach at the same time", requests="pictures in all")
    sub = kinds.add_parser("continual", help="CNS against the field's baselines over a stream of concepts; goes on where it stopped")
    sub.add_argument("--methods", nargs="+", metavar="NAME", help="such as cns finetune_kv lora_sum (default: all)")
    _numbers(sub, concepts="length of the stream", seeds="how many", orders="of the stream", steps="to teach a concept")
    _kept(sub)
    sub = kinds.add_parser("ablations", help="CNS with one thing changed at a time, over a short stream; goes on where it stopped")
    sub.add_argument("--variants", nargs="+", metavar="NAME", help="in quotes, such as \"values only\" (default: all)")
    _numbers(sub, concepts="length of the stream", steps="to teach a concept")
    _kept(sub)
    sub = kinds.add_parser("search", help="the search for each baseline's learning rate, on things that `continual` does not use")
    sub.add_argument("--methods", nargs="+", metavar="NAME", help="default: all")
    _numbers(sub, steps="to teach a concept")
    sub = kinds.add_parser("multi", help="several taught things in one picture, with and without regions; goes on where it stopped")
    sub.add_argument("--methods", nargs="+", metavar="NAME", help="default: cns lora_sum base")
    _numbers(sub, concepts="taught", pairs="drawn", triples="drawn", seeds="pictures of each", steps="to teach a concept")
    _kept(sub)


def _numbers(sub, **texts: str):
    """An option for a whole number by each name, with its help."""
    for name, text in texts.items():
        sub.add_argument(f"--{name}", type=int, metavar="N", help=text)


def _kept(sub):
    """Where a bench that goes on where it stopped keeps what it found."""
    sub.add_argument("--quick", action="store_true", help="a smoke run of few concepts and methods")
    sub.add_argument("--results", type=Path, metavar="DIR", help="for results and finished units (default: assets/results)")
