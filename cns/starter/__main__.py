"""`python -m cns.starter train|export|concepts|evaluate`: make the embedded base and the ready concepts again from the art."""

import argparse
import sys
from pathlib import Path

import torch

ASSETS = Path(__file__).parents[2] / "assets"


def main():
    parser = argparse.ArgumentParser(prog="python -m cns.starter", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache/cns-starter", help="art, checkpoints (default %(default)s)")
    sub = parser.add_subparsers(dest="command", required=True)
    train = sub.add_parser("train", help="train a stage, or all but `decoder` in turn; goes on from its checkpoint")
    train.add_argument("--stage", choices=("ae", "decoder", "clip", "judge", "unet", "all"), default="all")
    train.add_argument("--minutes", type=float, default=60, help="budget of one stage, or of all: two thirds of it for unet")
    train.add_argument("--anew", action="store_true", help="start from nothing, not from a checkpoint's or the committed starter's weights")
    train.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    train.add_argument("--threads", type=int, default=torch.get_num_threads())
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--decay", action="store_true", help="let the learning rate fall to nothing over the last third")
    export = sub.add_parser("export", help="write the checkpoints as a pipeline folder")
    export.add_argument("--out", type=Path, default=ASSETS / "starter")
    concepts = sub.add_parser("concepts", help="draw the ready concepts and the benchmark's")
    concepts.add_argument("--out", type=Path, default=ASSETS, help="folder of `concepts` and `bench`")
    evaluate = sub.add_parser("evaluate", help="print the exported starter's marks and draw a contact sheet")
    evaluate.add_argument("--out", type=Path, default=ASSETS / "starter.png", help="the contact sheet")
    evaluate.add_argument("--count", type=int, default=500, help="captions to draw")
    args = parser.parse_args()
    try:
        {"train": _train, "export": _export, "concepts": _concepts, "evaluate": _evaluate}[args.command](args)
    except (OSError, RuntimeError, ModuleNotFoundError) as error:
        sys.exit(f"cns.starter {args.command}: {error}")


def _train(args):
    from .train import STAGES

    torch.set_num_threads(args.threads)
    share = {"ae": 1 / 9, "clip": 1 / 9, "judge": 1 / 9, "unet": 2 / 3} if args.stage == "all" else {args.stage: 1}
    for name, part in share.items():
        STAGES[name](args.work, args.device, args.seed, args.anew).train(args.minutes * part, args.decay)


def _export(args):
    from .export import export

    export(args.work, args.out)


def _concepts(args):
    from .concepts import make

    make(args.work, args.out)


def _evaluate(args):
    from .evaluate import evaluate

    evaluate(args.work, args.out, args.count)


if __name__ == "__main__":
    main()
