"""Measuring: what things cost on this machine (`speed`, `store`), and what the method is worth beside the others (`continual`, `multi`) and its parts (`ablations`)."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

from ..concept import Concept
from ..images import load_images

ROOT = Path(__file__).parents[2]


def concept_in(folder: Path) -> Concept:
    """The concept that `folder` holds: pictures and `concept.json`."""
    about = json.loads((folder / "concept.json").read_text())
    return Concept(about["name"], about["class_word"], load_images([folder / i for i in about["images"]]))


def ready_concepts(limit: int) -> list[Concept]:
    """The first ready concepts in `assets/concepts`."""
    found = sorted((ROOT / "assets/concepts").glob("*/concept.json"))[:limit]
    if not found:
        raise ValueError(f"`{ROOT / 'assets/concepts'}` holds no ready concept to teach: restore assets/ from the repository")
    return [concept_in(f.parent) for f in found]


def requested(args, what: str, names: tuple[str, ...], start):
    """(`start` with what the shell's `args` say of `names`, the command that asks for it)."""
    chosen = {n: tuple(v) if isinstance(v, list) else v for n in names if (v := getattr(args, n)) is not None}
    said = [f"--{k} {shlex.join(v) if isinstance(v, tuple) else v}" for k, v in chosen.items()] + ["--quick"] * args.quick
    return replace(start, **chosen), " ".join([f"python -m cns bench {what}", *said])


def row(what: str, value: float, unit: str) -> None:
    """One aligned line."""
    print(f"{what:<58}{value:>14,.1f} {unit}" if unit != "bytes" else f"{what:<58}{value:>14,} {unit}", flush=True)
