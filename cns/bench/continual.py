"""The proof: a stream of concepts taught one after another by each method, scored after every step.

One unit is a method, a stream length, a seed and an order; each finished unit is a JSON file in the results folder and is
not run again while its settings and the base stay the same, so a run that was stopped, or one with more seeds, goes on.
"""

import json
import platform
import resource
import time
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..base import load_base
from ..baselines import METHODS, method
from ..baselines.methods import Joint, Method
from ..concept import Concept
from . import ROOT, concept_in, report, requested
from .scoring import Eyes, Plan, draw, drift, multi, single, untaught

RESULTS = ROOT / "assets/results"
STREAM = (  # two dog faces, a style and a scene among the first five
    "rex", "tom", "wolfie", "candy", "dawn", "hoot", "finn", "royal", "present", "parasol",
    "ace", "bao", "inky", "flutter", "toad", "zoom", "bug", "villa", "waddle", "silver",
)  # fmt: skip
SHOWN = (1, 5, 10, 20)  # after how many concepts the first one's picture is kept


@dataclass(frozen=True)
class Run:
    """What to run."""

    methods: tuple[str, ...] = tuple(METHODS)
    concepts: int = 10  # length of the stream, 2 to 20
    seeds: int = 3
    orders: int = 2
    steps: int | None = None  # of teaching a concept; None: the base's own
    plan: Plan = field(default_factory=Plan)

    def __post_init__(self):
        for name, low, high in (("concepts", 2, len(STREAM)), ("seeds", 1, 100), ("orders", 1, 100)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"`{name}` is {getattr(self, name)}: choose {low} to {high}")
        if unknown := set(self.methods) - set(METHODS):
            raise ValueError(f"method `{min(unknown)}` is unknown: choose of {', '.join(METHODS)}")


QUICK = Run(methods=("cns", "finetune_kv", "base"), concepts=3, seeds=1, orders=1, steps=60, plan=Plan(2, 1, 6, 2, 1, 8))


def stream(count: int, order: int) -> list[Concept]:
    """The first `count` concepts; order 0 is as listed, others are shuffles."""
    names = [STREAM[i] for i in (np.random.default_rng(order).permutation(count) if order else range(count))]
    return [concept_in(next(f for f in (ROOT / "assets/concepts" / n, ROOT / "assets/bench" / n) if f.is_dir())) for n in names]


def unit(base, way: Method, concepts: list[Concept], plan: Plan, tick=lambda: None):
    """(raw scores of one run of a fresh learner, the first concept's pictures by step). `matrix[k][j]`: concept j after step k."""
    eyes, seed = Eyes(base, concepts), way.settings.seed
    before = draw(base, untaught(base, plan), {}, [seed + i for i in range(plan.drift)], plan.steps)
    began, matrix, sizes, teach_s, fusion_s, shown = time.monotonic(), [], [], [], [], {}
    for k, concept in enumerate(concepts, 1):
        start = time.monotonic()
        if not isinstance(way, Joint):
            way.teach(concept)
        elif k == len(concepts):
            way.teach_all(concepts)
        teach_s.append(time.monotonic() - start)
        fusion_s.append(way.fusion_s)
        sizes.append(way.bytes())
        if not isinstance(way, Joint) or k == len(concepts):
            new = concepts[k - 1 : k] if way.apart else concepts[:k]
            scores, pictures = single(base, way, eyes, new, plan, seed)
            matrix.append({**(matrix[-1] if way.apart and matrix else {}), **scores})
            if k in SHOWN or k == len(concepts):
                shown[k] = pictures.get(concepts[0].name) or shown[1]
        tick()
    ends = {e: {} for e in eyes.encoders}
    for part in (drift(base, way, eyes, plan, seed, before), multi(base, way, eyes, concepts, plan, seed)) if way.together else ():
        for eye, values in part.items():
            ends[eye] |= values
    raw = {
        "concepts": [c.name for c in concepts], "matrix": matrix, "end": ends, "bytes": sizes, "teach_s": teach_s, "fusion_s": fusion_s,
        "changed_fraction": way.changed(), "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "seconds": time.monotonic() - began, "settings": asdict(way.settings),
    }  # fmt: skip
    return raw, shown


def _way(base, run: Run, name: str, seed: int) -> Method:
    return method(name, base, seed=seed, **({"steps": run.steps} if run.steps else {}))


def _key(base, run: Run, name: str, seed: int, order: int, themselves: dict[str, float]) -> dict:
    """All that a unit's scores depend on; what the things' own pictures score tells one pair of eyes from another."""
    key = {"method": name, "base": base.revision, "eyes": {k: round(v, 4) for k, v in themselves.items()}, "concepts": run.concepts, "seed": seed}
    return json.loads(json.dumps({**key, "order": order, "plan": asdict(run.plan), "settings": _way(base, run, name, seed).settings_read()}))


def finished(folder: Path) -> list[dict]:
    """Units that were run before: those in `folder`/continual.json and those in `folder`/runs."""
    result, runs = folder / "continual.json", sorted((folder / "runs").glob("*.json"))
    return (json.loads(result.read_text())["raw"] if result.exists() else []) + [json.loads(f.read_text()) for f in runs]


def run_all(base, run: Run, folder: Path, command: str) -> dict:
    """Run what was not run before, then write `continual.json`, the table and the plots to `folder`."""
    units = [(s, o, m) for s in range(run.seeds) for o in range(run.orders) for m in run.methods]
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    done, concepts, before = [], stream(run.concepts, 0), finished(folder)
    themselves = Eyes(base, concepts).themselves(concepts)
    with tqdm(total=len(units) * run.concepts, unit="concept") as bar:
        for seed, order, name in units:
            file, key = folder / "runs" / f"{name}-{run.concepts}-s{seed}-o{order}.json", _key(base, run, name, seed, order, themselves)
            bar.set_postfix_str(file.stem)
            kept = next((u for u in before if u["key"] == key), None)
            if kept:
                bar.update(run.concepts)
            else:
                raw, shown = unit(base, _way(base, run, name, seed), stream(run.concepts, order), run.plan, bar.update)
                kept = json.loads(json.dumps({"key": key, "raw": raw}))
                if seed == order == 0:
                    _strip(shown).save(file.with_suffix(".png"))
                file.write_text(json.dumps(kept) + "\n")
            done.append(kept)
    versions = {"python": platform.python_version(), **{p: version(p) for p in ("torch", "diffusers", "transformers", "peft")}}
    return report.write(folder, done, themselves, {"command": command, "versions": versions, "base": base.revision, "run": asdict(run)})


def _strip(shown: dict[int, Image.Image]) -> Image.Image:
    side = next(iter(shown.values())).width
    out = Image.new("RGB", (side * len(shown), side))
    for i, picture in enumerate(shown.values()):
        out.paste(picture, (side * i, 0))
    return out


def continual(args) -> None:
    """From the shell; `args` as `cns.__main__` parses them."""
    run, command = requested(args, "continual", ("methods", "concepts", "seeds", "orders", "steps"), QUICK if args.quick else Run())
    folder = args.results or RESULTS
    run_all(load_base(args.base), run, folder, command)
    print((folder / "continual.md").read_text())
