"""The shell's door: `python -m cns teach|generate|inspect|info|bench`. Exit 0: done; 2: bad input, said in one line."""

import argparse
import json
import sys
from dataclasses import fields
from pathlib import Path

from tqdm import tqdm


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        args.run(args)
    except (ValueError, OSError, FloatingPointError, ModuleNotFoundError) as error:
        print(f"cns {args.command}: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cns", description="Teach one image model one thing after another.")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name, run, text, session=True):
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        sub.add_argument("--base", help="folder or Hub id of a Stable Diffusion pipeline (default: the embedded starter)")
        if session is not None:
            sub.add_argument("--session", type=Path, required=session, metavar="DIR", help="folder of the session")
        return sub

    sub = command("teach", _teach, "Teach a thing from 1 to 10 images; the session is made if it is not there.")
    sub.add_argument("--name", required=True, help="its token becomes <name>")
    sub.add_argument("--class", dest="class_word", required=True, metavar="WORD", help='what kind of thing it is, such as "dog face"')
    sub.add_argument("--steps", type=int, help="training steps (default: the base's own)")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--more", action="store_true", help="the name is taught already: teach it more pictures")
    sub.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    sub = command("generate", _generate, "Draw pictures of a prompt, with what a session knows or with the untouched base.", session=False)
    sub.add_argument("--prompt", required=True)
    for option, kind in (("count", int), ("seed", int), ("steps", int), ("guidance", float), ("negative", str)):
        sub.add_argument(f"--{option}", type=kind)
    sub.add_argument("--out", type=Path, required=True, metavar="DIR")
    sub = command("inspect", _inspect, "Write the figures of every concept in a session.")
    sub.add_argument("--out", type=Path, required=True, metavar="DIR")
    sub = command("info", _info, "Say what a session knows and what it changed.")
    sub.add_argument("--json", action="store_true")
    sub = command("bench", _bench, "Measure on this machine.", session=None)
    sub.add_argument("what", choices=["speed", "store"])
    return parser


def _open(args):
    """(base, session or None)"""
    from . import Session, load_base

    base = load_base(args.base)
    return base, Session.load(args.session, base) if args.session else None


def _teach(args):
    from . import Concept, Session, TeachSettings, check, load_base, load_images, teach

    changes = {"seed": args.seed, "preview_every": 0} | ({"steps": args.steps} if args.steps is not None else {})
    concept = Concept(args.name, args.class_word, load_images(args.images))
    base = load_base(args.base)
    session = Session.load(args.session, base) if (args.session / "session.json").exists() else None
    check(base, session, concept, args.more)
    settings = TeachSettings.of(base, **changes)
    with tqdm(total=settings.steps, unit="step", desc=concept.token) as bar:
        for event in teach(base, session, concept, settings, more=args.more):
            bar.update(event.step - bar.n)
            bar.set_postfix_str(f"loss {event.loss:.4f}" if event.loss is not None else event.stage)
    event.session.save(args.session)
    stats = event.learned.stats
    print(f"{concept.token} taught: {stats['neurons']:,} neurons ({stats['share_of_model']:.2%} of the model), {_score(stats)}")


def _score(stats) -> str:
    return f"CLIP-I {stats['clip_i_before']:.3f} -> {stats['clip_i']:.3f}" if stats["clip_i"] is not None else "no CLIP to score it"


def _generate(args):
    from . import GenerateSettings, check_prompt, generate

    given = {f.name: getattr(args, f.name) for f in fields(GenerateSettings) if getattr(args, f.name) is not None}
    settings = GenerateSettings(**given)
    base, session = _open(args)
    if cut := check_prompt(base, session, args.prompt):
        print(f"cns generate: the prompt is too long, these words are not read: {' '.join(cut)}", file=sys.stderr)
    args.out.mkdir(parents=True, exist_ok=True)
    for i in tqdm(range(settings.count), unit="picture"):
        one = GenerateSettings(**{**given, "count": 1, "seed": settings.seed + i})
        path = args.out / f"{settings.seed + i}.png"
        generate(base, args.prompt, session, one)[0].save(path)
        tqdm.write(str(path))


def _inspect(args):
    from . import figures

    base, session = _open(args)
    args.out.mkdir(parents=True, exist_ok=True)
    if not session.concepts:
        raise ValueError(f"the session in `{args.session}` knows nothing yet: teach something first")
    drawn = {"overlap": figures.overlap(session)}
    for c in session.concepts:
        drawn |= {f"{c.name}-funnel": figures.funnel(base, session, c.name), f"{c.name}-location": figures.location(session, c.name)}
    for name, figure in tqdm(drawn.items(), unit="figure"):
        figure.savefig(args.out / f"{name}.png", facecolor="white")
        tqdm.write(str(args.out / f"{name}.png"))


def _info(args):
    base, session = _open(args)
    summary = session.summary(base)
    if args.json:
        print(json.dumps(summary, indent=1))
        return
    print(f"base {summary['base']} (revision {summary['revision']})")
    print(f"changed {summary['changed_weights']:,} weights ({summary['changed_share']:.2%} of the model), {summary['bytes']:,} bytes")
    for c in summary["concepts"]:
        print(f"{c['token']} {c['class_word']}: {c['neurons']:,} neurons, {c['steps']} steps in {c['seconds']:.0f} s, {_score(c)}")


def _bench(args):
    if args.what == "store":
        from .bench_store import store

        store(args.base)
        return
    from .bench import speed

    speed(args.base)


if __name__ == "__main__":
    sys.exit(main())
