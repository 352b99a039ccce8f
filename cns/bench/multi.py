"""Several taught things in one picture: are all of them there, each in its place, and not mixed up? With and without regions.

Each method is taught the same things one after another, then draws pairs and triples of them, from a prompt that names them and
with a box for each over a prompt that names none (see `regions`). Crops are compared with the pictures of the things by each eye
(see `scoring`): a crop shows the one of the taught things that it is most like, if it is like enough. Two rows say what the
scores are worth: `real` is the things' own pictures set in the boxes, `base` draws without having been taught. A finished
method is a JSON file in the results folder, as in `continual`.
"""

import json
from dataclasses import asdict, dataclass
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..base import load_base
from ..baselines import METHODS, method
from ..concept import Concept
from ..generation import GenerateSettings, sample
from ..images import square
from ..regions import PRESETS, Region
from ..starter.world import COLOURS, article
from . import requested
from .continual import RESULTS, STREAM, stream
from .scoring import Eyes

PLACELESS = ("candy", "dawn")  # a style and a scene, which no box could hold
TOGETHER = tuple(m for m in METHODS if m not in ("joint", "solo", "lora_solo"))
LIMIT = len(STREAM) - len(PLACELESS)
ROWS = {n: tuple((i / n, 0, (i + 1) / n, 1) for i in range(n)) for n in (2, 3)}  # where a prompt alone puts things: left to right
BOXES = {2: PRESETS["side by side"], 3: PRESETS["grid"][:3]}
SIZES = {2: "pairs", 3: "triples"}
WINDOWS = tuple(dict.fromkeys((*ROWS[2], *ROWS[3], *PRESETS["grid"])))  # where a thing is looked for
COLUMNS = {"both": "all there", "placed": "in its place", "clip_i": "CLIP-I", "confused": "confused"}


@dataclass(frozen=True)
class Run:
    """What to run."""

    methods: tuple[str, ...] = ("cns", "lora_sum", "base")
    concepts: int = 6  # taught, 3 to 18
    pairs: int = 15
    triples: int = 6
    seeds: int = 2  # pictures of each
    draw_steps: int = 20  # denoising steps
    together: float | None = None  # how regions are drawn, see `GenerateSettings`
    steps: int | None = None  # of teaching a concept; None: the base's own

    def __post_init__(self):
        for name, low, high in (("concepts", 3, LIMIT), ("pairs", 1, 1000), ("triples", 1, 1000), ("seeds", 1, 16), ("draw_steps", 1, 200)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"`{name}` is {getattr(self, name)}: choose {low} to {high}")
        if unusable := set(self.methods) - set(TOGETHER):
            raise ValueError(f"method `{min(unusable)}` does not put things into one model, one after another: choose of {', '.join(TOGETHER)}")


QUICK = Run(concepts=3, pairs=1, triples=1, seeds=1, draw_steps=6, steps=40)


def things(count: int) -> list[Concept]:
    """The first `count` things of the stream."""
    return [c for c in stream(len(STREAM), 0) if c.name not in PLACELESS][:count]


def groups(taught: list[Concept], run: Run) -> list[tuple[Concept, ...]]:
    """The pairs and triples to draw."""
    luck, out = np.random.default_rng(1), []
    for size, count in ((2, run.pairs), (3, run.triples)):
        every = list(combinations(taught, size))
        out += [every[i] for i in luck.permutation(len(every))[:count]]
    return out


def asked(group, number: int, boxes=None) -> tuple[str, tuple[Region, ...]]:
    """The prompt and the regions of picture group `number`: all in the prompt, or with `boxes` each thing's words in its own."""
    behind = f"{article(list(COLOURS)[number % len(COLOURS)])} background"
    if boxes:
        return behind, tuple(Region(box, f"a {c.words}") for box, c in zip(boxes, group))
    return "a " + " next to a ".join(c.words for c in group) + f" on {behind}", ()


def crop(picture: Image.Image, box) -> Image.Image:
    """The square in the middle of `box`, as large as the picture."""
    (left, top, right, bottom), (w, h) = box, picture.size
    side = min((right - left) * w, (bottom - top) * h)
    x, y = ((left + right) * w - side) / 2, ((top + bottom) * h - side) / 2
    return picture.resize((w, h), Image.Resampling.BICUBIC, (x, y, x + side, y + side))


class Finder:
    """Which of the first `count` things a crop shows, if any, in the view of each eye."""

    def __init__(self, base, count: int):
        self.eyes = Eyes(base, things(LIMIT))
        self.names = [c.name for c in things(count)]
        self.bars = {eye: self._bar(eye) for eye in self.eyes.encoders}

    def _bar(self, eye: str) -> float:
        """Halfway between the cosines of two pictures of one thing and of pictures of two, over all things that there are."""
        of = self.eyes.references[eye]
        same = np.mean([(float((a @ a.T).sum()) - len(a)) / (len(a) * (len(a) - 1)) for a in of.values()])  # none with itself
        return float(same + np.mean([float((a @ b.T).mean()) for a, b in permutations(of.values(), 2)])) / 2

    def likeness(self, eye: str, pictures) -> np.ndarray:
        """CLIP-I of each picture to each thing [pictures, things]."""
        seen = self.eyes.encoders[eye].image_features(pictures)
        return np.stack([(seen @ self.eyes.references[eye][n].T).mean(1).numpy() for n in self.names], 1)

    def shown(self, eye: str, likeness: np.ndarray) -> list[str]:
        """What each crop shows, "" for nothing that is known."""
        return [self.names[row.argmax()] if row.max() >= self.bars[eye] else "" for row in likeness]

    def look(self, picture: Image.Image, group, boxes) -> dict[str, dict]:
        """By eye: which things of `group` are somewhere, and for each one's own box what is in it and how like it and the likest other."""
        out, own = {}, [self.names.index(c.name) for c in group]
        for eye in self.eyes.encoders:
            at = self.likeness(eye, [crop(picture, b) for b in boxes])
            anywhere = {*self.shown(eye, at), *self.shown(eye, self.likeness(eye, [crop(picture, b) for b in WINDOWS]))}
            out[eye] = {
                "found": [c.name for c in group if c.name in anywhere], "shows": self.shown(eye, at),
                "own": [round(float(row[i]), 4) for i, row in zip(own, at)],
                "other": [round(float(max(row[j] for j in own if j != i)), 4) for i, row in zip(own, at)],
            }  # fmt: skip
        return out


def collage(base, group, boxes, number: int) -> Image.Image:
    """The things' own pictures, each in the middle of its box."""
    out = Image.new("RGB", (base.size, base.size), COLOURS[list(COLOURS)[number % len(COLOURS)]])
    for c, (left, top, right, bottom) in zip(group, boxes):
        side = round(base.size * min(right - left, bottom - top))
        x, y = round(base.size * (left + right) / 2 - side / 2), round(base.size * (top + bottom) / 2 - side / 2)
        out.paste(square(c.images[number % len(c.images)], side), (x, y))
    return out


def parts(run: Run) -> int:
    """How many steps one method's work has: each thing that is taught, each group that is drawn, without regions and with."""
    return run.concepts + 2 * len(groups(things(run.concepts), run))


def unit(base, name: str, run: Run, finder: Finder, tick=lambda: None) -> tuple[list[dict], Image.Image]:
    """(what was found in each picture, a sheet of the pairs' first pictures: above without regions, below with) for one method.

    `tick` is called after each of `parts(run)`.
    """
    taught = things(run.concepts)
    way = None if name == "real" else method(name, base, **({"steps": run.steps} if run.steps else {}))
    for concept in taught:
        if way:
            way.teach(concept)
        tick()
    rows, shown = [], {True: [], False: []}
    for number, group in enumerate(groups(taught, run)):
        for regions in (False, True):
            boxes = (BOXES if regions else ROWS)[len(group)]
            if way:
                prompt, bound = asked(group, number, boxes if regions else None)
                with way.on([c.name for c in group]):
                    pictures = sample(base, prompt, way.vectors, GenerateSettings(run.seeds, number, run.draw_steps, regions=bound, together=run.together))
            else:
                pictures = [collage(base, group, boxes, number)]
            for picture in pictures:
                rows.append({"things": [c.name for c in group], "regions": regions, "eyes": finder.look(picture, group, boxes)})
            shown[regions].append(pictures[0])
            tick()
    sheet = Image.new("RGB", (base.size * min(8, len(shown[True])), 2 * base.size))
    for y, some in enumerate(shown.values()):
        for x, picture in enumerate(some[:8]):
            sheet.paste(picture, (base.size * x, base.size * (1 - y)))
    return rows, sheet


def scores(rows: list[dict], eye: str) -> dict[str, float]:
    """Shares [0, 1] of pictures with all things, of crops that show their own thing and of those more like another asked one; CLIP-I."""
    seen = [(r["things"], r["eyes"][eye]) for r in rows]
    flat = [(s == n, own, other) for names, e in seen for n, s, own, other in zip(names, e["shows"], e["own"], e["other"])]
    return {
        "both": float(np.mean([len(e["found"]) == len(names) for names, e in seen])), "placed": float(np.mean([right for right, _, _ in flat])),
        "clip_i": float(np.mean([own for _, own, _ in flat])), "confused": float(np.mean([other > own for _, own, other in flat])),
    }  # fmt: skip


def summary(found: dict[str, list[dict]]) -> dict[str, dict]:
    """{method: {"pairs, regions": {eye: scores}}}"""
    out = {}
    for name, rows in found.items():
        parts: dict[str, list[dict]] = {}
        for r in rows:
            parts.setdefault(f"{SIZES[len(r['things'])]}, {'regions' if r['regions'] else 'prompt'}", []).append(r)
        out[name] = {part: {eye: scores(some, eye) for eye in some[0]["eyes"]} for part, some in parts.items()}
    return out


def table(result: dict[str, dict]) -> str:
    """Markdown, one row for each method and way of asking."""
    eyes = list(next(iter(next(iter(result.values())).values())))
    lines = ["| method | asked by | " + " | ".join(f"{head} ({eye})" for head in COLUMNS.values() for eye in eyes) + " |"]
    lines.append("|---" * (2 + len(COLUMNS) * len(eyes)) + "|")
    for name, parts in result.items():
        for part, by_eye in parts.items():
            cells = [f"{by_eye[eye][c]:.3f}" if c == "clip_i" else f"{by_eye[eye][c]:.0%}" for c in COLUMNS for eye in eyes]
            lines.append(f"| {name} | {part} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def run_all(base, run: Run, folder: Path, command: str) -> dict:
    """Run what is missing in `folder`/runs; after each method write its sheet there, and `multi.json` and `multi.md` to `folder`."""
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    finder, work, found = Finder(base, run.concepts), parts(run), {}
    with tqdm(total=(1 + len(run.methods)) * work, unit="part") as bar:
        for name in ("real", *run.methods):
            bar.set_postfix_str(name)
            file, key = folder / "runs" / f"multi-{name}.json", _key(base, run, name, finder)
            kept = json.loads(file.read_text()) if file.exists() else {}
            if kept.get("key") == key:
                bar.update(work)
            else:
                rows, sheet = unit(base, name, run, finder, bar.update)
                sheet.save(file.with_suffix(".png"))
                kept = {"key": key, "rows": rows}
                file.write_text(json.dumps(kept) + "\n")
            found[name] = kept["rows"]
            result = {"command": command, "base": base.revision, "run": asdict(run), "bars": finder.bars, "summary": summary(found)}
            (folder / "multi.json").write_text(json.dumps(result, indent=1) + "\n")
            (folder / "multi.md").write_text(f"`{command}`\n\n" + table(result["summary"]))
    return result


def _key(base, run: Run, name: str, finder: Finder) -> dict:
    settings = {} if name == "real" else method(name, base, **({"steps": run.steps} if run.steps else {})).settings_read()
    drawn = {k: v for k, v in asdict(run).items() if k != "methods"}
    return {"method": name, "base": base.revision, "bars": finder.bars, "settings": settings, **drawn}


def multi(args) -> None:
    """From the shell; `args` as `cns.__main__` parses them."""
    run, command = requested(args, "multi", ("methods", "concepts", "pairs", "triples", "seeds", "steps"), QUICK if args.quick else Run())
    folder = args.results or RESULTS
    run_all(load_base(args.base), run, folder, command)
    print((folder / "multi.md").read_text())
