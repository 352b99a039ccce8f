"""What each part of CNS is worth: the shipped settings with one thing changed, over the same short stream, in one table.

A variant changes settings (`TeachSettings`), replaces the chosen neurons, or gives the base other calibration prompts. A
finished variant is a JSON file in the results folder and is not run again while all it depends on stays the same.
"""

import copy
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..base import load_base
from ..baselines import PAPER, method
from ..response import called
from ..selection import is_key
from . import requested
from .continual import RESULTS, stream, unit
from .report import scores
from .scoring import Eyes, Plan

LOOK = Plan(prompts=4, seeds=1, drift=12, pairs=2, triples=1)
Masks = dict[str, Tensor]
HEADS = {"clip_i": "CLIP-I", "judge_i": "second CLIP", "clip_t": "CLIP-T", "forgetting": "forgetting", "drift": "drift"}


def random_anywhere(masks: Masks) -> Masks:
    """As many entries, drawn from all matrices together."""
    sizes = [m.numel() for m in masks.values()]
    flat = torch.zeros(sum(sizes), dtype=torch.bool)
    flat[torch.randperm(sum(sizes), generator=torch.Generator().manual_seed(0))[: sum(int(m.sum()) for m in masks.values())]] = True
    return {n: part.view(masks[n].shape) for n, part in zip(masks, flat.split(sizes))}


def random_within(masks: Masks) -> Masks:
    """As many entries in each matrix."""
    luck = torch.Generator().manual_seed(0)
    return {n: m.flatten()[torch.randperm(m.numel(), generator=luck)].view(m.shape) for n, m in masks.items()}


def whole_rows(masks: Masks) -> Masks:
    """In each matrix the rows with most chosen entries, all of their columns, about as many entries in all."""
    out = {}
    for n, m in masks.items():
        rows = m.sum(1).argsort(descending=True)[: round(int(m.sum()) / m.shape[1])]
        out[n] = torch.zeros_like(m)
        out[n][rows] = True
    return out


def only(what: str) -> Callable[[Masks], Masks]:
    """Chosen entries of "keys", or of "values", alone."""
    return lambda masks: {n: m if is_key(n) == (what == "keys") else torch.zeros_like(m) for n, m in masks.items()}


@dataclass(frozen=True)
class Variant:
    """One row: what is changed of CNS as shipped."""

    changes: dict = field(default_factory=dict)  # settings
    choose: Callable[[Masks], Masks] | None = None  # other neurons
    calibration: int | None = None  # number of calibration prompts


def _swept(name: str, values, says: str) -> dict[str, Variant]:
    return {f"{says} {v:g}": Variant({name: v}) for v in values}


VARIANTS: dict[str, Variant] = {
    "as shipped": Variant(),
    "no general subtraction": Variant({"general_share": 1.01}),
    "random entries of all matrices": Variant(choose=random_anywhere),
    "random entries of the same matrices": Variant(choose=random_within),
    "whole rows": Variant(choose=whole_rows),
    "keys only": Variant(choose=only("keys")),
    "values only": Variant(choose=only("values")),
    "the paper's score": Variant({"score": "response"}),
    "the paper's method": Variant(PAPER),
    "token without room": Variant({"room": 0}),
    **_swept("response", (0.0, 500.0, 50_000.0), "responses held still by"),
    **_swept("base_share", (0.05, 0.1, 0.4), "base share"),
    **{f"no general subtraction, base share {v:g}": Variant({"base_share": v, "general_share": 1.01}) for v in (0.022, 0.08, 0.4, 0.85)},
    **_swept("general_share", (0.3, 0.6), "general from a share of prompts of"),
    "weights tied to the base by 0.001": Variant({"lambda_base": 1e-3}),
    "shared weights tied by 0.01": Variant({"lambda_previous": 1e-2}),
    **{f"{n} calibration prompts": Variant(calibration=n) for n in (8, 16, 128, 256)},
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """What to run."""

    variants: tuple[str, ...] = tuple(VARIANTS)
    concepts: int = 3  # length of the stream, 2 to 20
    seed: int = 0
    steps: int | None = None  # of teaching a concept; None: the base's own
    plan: Plan = LOOK

    def __post_init__(self):
        if not 2 <= self.concepts <= 20:
            raise ValueError(f"`concepts` is {self.concepts}: choose 2 to 20")
        if unknown := set(self.variants) - set(VARIANTS):
            raise ValueError(f"variant `{min(unknown)}` is unknown: choose of {', '.join(f'`{v}`' for v in VARIANTS)}")


QUICK = Run(variants=("as shipped", "values only"), concepts=2, steps=40, plan=Plan(2, 1, 4, 1, 0, 8))


def calibrated(base, count: int):
    """The same base with `count` calibration prompts: its own, then captions of its class words."""
    more = [p for word in base.class_words for p in called(base, word)]
    prompts = list(dict.fromkeys([*base.card.calibration, *more]))
    if len(prompts) < count:
        raise ValueError(f"base `{base.id}` has {len(prompts)} calibration prompts and captions, not {count}: leave that variant out")
    other = copy.copy(base)
    other.card, other.general, other.unrelated = replace(base.card, calibration=tuple(prompts[:count])), {}, None
    return other


def run_all(base, run: Run, folder: Path, command: str) -> dict:
    """Run what is missing in `folder`/runs, then write `ablations.json` and `ablations.md` to `folder`."""
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    concepts, found = stream(run.concepts, 0), {}
    themselves = {k: round(v, 4) for k, v in Eyes(base, concepts).themselves(concepts).items()}
    with tqdm(total=len(run.variants) * run.concepts, unit="concept") as bar:
        for name in run.variants:
            bar.set_postfix_str(name)
            variant, file = VARIANTS[name], folder / "runs" / f"ablation-{name.replace(' ', '-')}.json"
            way = method("cns", calibrated(base, variant.calibration) if variant.calibration else base, seed=run.seed, **({"steps": run.steps} if run.steps else {}), **variant.changes)
            way.choose = variant.choose  # type: ignore[attr-defined]
            key = {"base": base.revision, "eyes": themselves, "concepts": run.concepts, "plan": asdict(run.plan), "settings": asdict(way.settings)}
            kept = json.loads(file.read_text()) if file.exists() else {}
            if kept.get("key") != key:
                kept = {"key": key, "raw": unit(way.base, way, concepts, run.plan)[0]}
                file.write_text(json.dumps(kept) + "\n")
            bar.update(run.concepts)
            found[name] = scores(kept["raw"])
    result = {"command": command, "base": base.revision, "run": asdict(run), "summary": found}
    (folder / "ablations.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / "ablations.md").write_text(f"`{command}`, {run.concepts} things, one seed\n\n" + table(found))
    return result


def table(found: dict[str, dict[str, float]]) -> str:
    """Markdown, one row a variant."""
    heads = {k: h for k, h in HEADS.items() if all(k in s for s in found.values())}
    lines = ["| CNS, but | of the model | " + " | ".join(heads.values()) + " |", "|---" * (2 + len(heads)) + "|"]
    for name, s in found.items():
        cells = [f"{s[k]:.4f}" if k in ("forgetting", "drift") else f"{s[k]:.3f}" for k in heads]
        lines.append(f"| {name} | {s['changed_fraction']:.2%} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def ablations(args) -> None:
    """From the shell; `args` as `cns.__main__` parses them."""
    run, command = requested(args, "ablations", ("variants", "concepts", "steps"), QUICK if args.quick else Run())
    folder = args.results or RESULTS
    run_all(load_base(args.base), run, folder, command)
    print((folder / "ablations.md").read_text())
