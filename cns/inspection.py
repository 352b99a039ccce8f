"""A session in, the data of plots out: how neurons were found, where they lie, what concepts share, how much they changed.

Nothing is drawn here: a `Plot` is numbers, labels and words, for `figures` (PNG), the app (interactive) and CSV alike. The
funnel can also be had at other thresholds, without training: a session keeps the r (see `selection`) of its concepts.
"""

import csv
import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from .factored import restored
from .scores import CLIP_I
from .selection import general_count, importance, is_key, layer_of, select_sensitive, top
from .session import Learned, Session
from .teaching import TeachSettings

COLOURS = (  # 3:1 on light and on dark pages, and, as far as ten can be, apart for the colour-blind; the first ones most
    "#3f7de0", "#c27a22", "#b42d69", "#a587b4", "#875a00", "#5a3cff", "#ff5a78", "#007896", "#873cc3", "#00a578",
)  # fmt: skip
WAYS = {"block": "block", "resolution": "resolution", "kind": "key or value", "head": "head"}  # to divide the network


@dataclass(frozen=True)
class Plot:
    """One plot: `values` [rows, series] to be drawn, `hover` to be said of each, and `table` with all that is known."""

    key: str  # a file's name
    kind: str  # "stack": a row's series lie end to end; "bars": side by side, see `beside`; "heat": a matrix
    title: str
    about: str  # in plain words
    rows: tuple[str, ...]
    series: tuple[str, ...]
    values: np.ndarray  # NaN: nothing there
    unit: str
    hover: tuple[tuple[str, ...], ...]
    header: tuple[str, ...]
    table: tuple[tuple, ...] = field(repr=False)
    top: float | None = None  # where the scale ends; None: at the largest value

    def csv(self) -> str:
        """The table with its header."""
        return csv_of([self.header, *self.table])


def beside(series) -> str:
    """The kind of a plot of several series: bars as long as each has a colour of its own."""
    return "bars" if len(series) <= len(COLOURS) else "heat"


def brief(value: float) -> str:
    """A number of at most four characters, for within a matrix."""
    return f"{value:.{2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0}f}"


def csv_of(lines) -> str:
    """Rows of values as CSV."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()


def short(name: str) -> str:
    """`down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight` -> `down 1.0 K`."""
    deep = re.search(r"\.transformer_blocks\.([1-9]\d*)", name)
    return f"{block(name)}{f'.{deep[1]}' if deep else ''} {'K' if is_key(name) else 'V'}"


def block(name: str) -> str:
    """`down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight` -> `down 1.0`."""
    if flat := re.match(r"transformer_blocks\.(\d+)\.", name):  # a transformer: one block after another
        return f"block {flat[1]}"
    place = re.match(r"(down|mid|up)_block(?:s\.(\d+))?\.attentions\.(\d+)", name)
    return f"{place[1]} {place[2]}.{place[3]}" if place and place[2] else f"mid {place[3]}" if place else name


def ordered(names) -> list[str]:
    """Weight names as the signal goes through the network: down, mid, up, or block after block."""
    return sorted(names, key=lambda n: ("dmu".find(n[0]), [(int(part), "") if part.isdigit() else (-1, part) for part in n.split(".")]))


def funnel(session: Session, name: str) -> Plot:
    """The funnel of a concept as it was taught: its statistics say how many neurons each threshold left."""
    return funnel_of(session.concept(name).token, session.concept(name).stats["funnel"])


def funnel_of(token: str, counts: dict[str, list[int]]) -> Plot:
    """Per K and V matrix, from (base neurons, concept neurons, all weights): the part that was trained, and the general part taken away."""
    names = ordered(counts)
    rows = [(short(n), counts[n][2], counts[n][0], counts[n][0] - counts[n][1], counts[n][1]) for n in names]
    values = np.array([[100 * c / size, 100 * g / size] for _, size, _, g, c in rows]).reshape(-1, 2)
    said = tuple(
        (f"{where}: {c:,} concept neurons, {c / size:.1%} of {size:,} weights", f"{where}: {b:,} base neurons ({b / size:.1%}), {g:,} of them general")
        for where, size, b, g, c in rows
    )  # fmt: skip
    return Plot(
        "funnel", "stack", f"The funnel of {token}",
        "Each layer that reads the prompt does so by two matrices: keys (K) decide where in the picture a word counts, values (V) what it puts there. One number "
        "in them is a neuron here. A whole bar shows the base neurons, the share of a matrix that matters most for this concept. Those that unrelated "
        "prompts need, too, are general and stay as they are; the blue rest are the concept neurons, which alone are trained.",
        tuple(r[0] for r in rows), ("concept neurons", "general neurons"), values, "% of the matrix", said,
        ("matrix", "weights", "base", "general", "concept"), tuple(rows),
    )  # fmt: skip


def spread(base, session: Session, by: str = "block") -> Plot:
    """Where each concept's neurons lie: their share [%] in each part of the network, divided `by` one of `WAYS`."""
    if by not in WAYS:
        raise ValueError(f"`by` is `{by}`: choose {', '.join(f'`{w}`' for w in WAYS)}")
    totals = {}  # part: neurons of each concept
    for n in ordered(session.delta.indices):
        for i, c in enumerate(session.concepts):
            for part, some in _parts(base, n, c.mask.get(n, torch.zeros(0, dtype=torch.long)), by):
                totals.setdefault(part, np.zeros(len(session.concepts), int))[i] += some
    parts = sorted(totals, key=lambda p: (len(p), p)) if by in ("resolution", "head") else list(totals)
    count = np.array([totals[p] for p in parts]).reshape(-1, len(session.concepts))
    values = 100 * count / np.maximum(1, count.sum(0))
    tokens = tuple(c.token for c in session.concepts)
    said = tuple(
        tuple(f"{p}: {k:,} neurons of {t}, {v:.1f} % of them" for t, k, v in zip(tokens, ks, vs)) for p, ks, vs in zip(parts, count, values)
    )
    return Plot(
        f"where-{by}", beside(tokens), f"Where the concepts live, by {WAYS[by]}",
        f"How much of each concept's neurons lies in each part of the network. {_parts_said(parts, by)}",
        tuple(parts), tokens, values, "% of its neurons", said, (WAYS[by], *tokens), tuple((p, *map(int, ks)) for p, ks in zip(parts, count)),
    )  # fmt: skip


def _parts_said(parts: list[str], by: str) -> str:
    """What the parts do."""
    halving, alike = any(p.startswith("down") for p in parts), by == "resolution" and len(parts) == 1
    return {
        "block": "A picture passes through the blocks from top to bottom" + (": down blocks take it in, mid sees it as a whole, up blocks draw it." if halving else "."),
        "resolution": "All layers of this model see the picture equally finely."
        if alike
        else "It is how finely a layer sees the picture: coarse ones settle the shape, fine ones the details.",
        "kind": "Keys decide where in the picture a word counts, values what it puts there.",
        "head": "A layer looks for several things at once, with one of its heads for each.",
    }[by]


def _parts(base, name: str, index: Tensor, by: str) -> list[tuple[str, int]]:
    """[(part of the network, how many of the flat `index` lie there)]"""
    if by == "block":
        return [(block(name), len(index))]
    if by == "kind":
        return [("keys (K)" if is_key(name) else "values (V)", len(index))]
    if by == "resolution":
        side = resolution(base, name)
        return [(f"{side} x {side}", len(index))]
    dout, din = base.weights[name].shape
    heads = base.layers[layer_of(name)].heads
    return [(f"head {i + 1}", int(k)) for i, k in enumerate(torch.bincount(index // din // (dout // heads), minlength=heads))]


def resolution(base, name: str) -> int:
    """Side of the latents where a layer looks at them [cells]."""
    config = base.denoiser.config
    if "patch_size" in config:  # a transformer, which looks at patches and halves nothing
        return base.patches
    last = len(config.block_out_channels) - 1
    place = re.match(r"(down|up)_blocks\.(\d+)", name)
    halvings = last if not place else int(place[2]) if place[1] == "down" else last - int(place[2])
    return config.sample_size // 2**halvings


def shared(masks: list[dict[str, Tensor]]) -> tuple[np.ndarray, np.ndarray]:
    """(neurons that two masks share [n, n], Jaccard index [n, n] in [0, 1]) of flat indices per weight."""
    n = len(masks)
    both = np.zeros((n, n))
    for i, a in enumerate(masks):
        for j, b in enumerate(masks[: i + 1]):
            both[i, j] = both[j, i] = sum(int(torch.isin(a[w], b[w]).sum()) for w in a.keys() & b.keys())
    size = np.diag(both)
    return both, both / np.maximum(1, size[:, None] + size[None] - both)


def overlap(session: Session, masks: list[dict[str, Tensor]] | None = None) -> Plot:
    """Jaccard index of every two concepts' neurons; `masks`: others than were taught, one for each concept."""
    both, jaccard = shared([c.mask for c in session.concepts] if masks is None else masks)
    tokens = tuple(c.token for c in session.concepts)
    said = tuple(
        tuple(f"{a} and {b} share {int(both[i, j]):,} neurons, Jaccard {jaccard[i, j]:.3f}" if i != j else f"{a} has {int(both[i, i]):,} neurons" for j, b in enumerate(tokens))
        for i, a in enumerate(tokens)
    )  # fmt: skip
    pairs = tuple((a, b, int(both[i, j]), round(float(jaccard[i, j]), 6)) for i, a in enumerate(tokens) for j, b in enumerate(tokens))
    return Plot(
        "overlap", "heat", "What concepts share",
        "The Jaccard index of two concepts: the neurons that both have, as a share of those that either has. 0 means none in common, 1 means the same ones. "
        "The fewer they share, the less one changes what the other learned.",
        tokens, tokens, jaccard, "Jaccard index", said, ("concept", "other", "shared", "jaccard"), pairs, 1.0,
    )  # fmt: skip


def growth(base, session: Session) -> Plot:
    """After each concept: how much of the model is changed in all [%], split into what was changed before and what is new."""
    rows, before = [], 0
    for i, c in enumerate(session.concepts):
        now = sum(len(torch.cat([o.mask[n] for o in session.concepts[: i + 1] if n in o.mask]).unique()) for n in session.delta.indices)
        own = sum(map(len, c.mask.values()))
        rows.append((c.token, own, own - (now - before), now - before, now))
        before = now
    share = 100 / base.parameters
    return Plot(
        "growth", "stack", "How the memory grows",
        "How much of the model is changed after each concept: what was changed before it, and what is new with it. Neurons that a concept shares with earlier "
        "ones are changed already, so the memory grows more slowly than the sum of its concepts.",
        tuple(f"after {r[0]}" for r in rows), ("changed before", "new"), np.array([[share * (r[4] - r[3]), share * r[3]] for r in rows]).reshape(-1, 2),
        "% of the model", tuple((f"before {t}: {now - new:,} weights changed", f"{t}: {new:,} new, {old:,} of its {own:,} shared; {now:,} in all") for t, own, old, new, now in rows),
        ("concept", "neurons", "shared", "new", "union"), tuple(rows),
    )  # fmt: skip


def updates(norms: dict[str, float], session: Session) -> Plot:
    """||dW|| / ||W_0|| [%] of each concept's own increments in each matrix; `norms`: see the function."""
    names, tokens, table, values, said = ordered(session.delta.indices), tuple(c.token for c in session.concepts), [], [], []
    increments = [session.increments(c.name) for c in session.concepts]
    for n in names:
        lengths = [float(own[n].norm()) if n in own else 0.0 for own in increments]
        values.append([100 * length / norms[n] for length in lengths])
        said.append(tuple(f"{short(n)}: {t} changed it by {v:.2f} % of its size" for t, v in zip(tokens, values[-1])))
        table.append((short(n), round(norms[n], 6), *(round(length, 6) for length in lengths)))
    return Plot(
        "updates", beside(tokens), "How far each layer was moved",
        "How large a concept's change of each matrix is beside the matrix itself. The concept was written where the values are large; layers with small "
        "ones play little part in it.",
        tuple(map(short, names)), tokens, np.array(values).reshape(-1, len(tokens)), "% of the matrix", tuple(said),
        ("matrix", "length of the matrix", *(f"update by {t}" for t in tokens)), tuple(table),
    )  # fmt: skip


def forgetting(session: Session, scores: list[list[float | None]]) -> Plot:
    """CLIP-I of each concept after each later one: `scores[i][j]`, j <= i, as `probing.row` gives them. Raises ValueError without a CLIP."""
    if any(s is None for line in scores for s in line):
        raise ValueError("the forgetting matrix needs a CLIP for its scores: name one with CNS_CLIP")
    tokens = tuple(c.token for c in session.concepts)
    values = np.array([[*line, *[np.nan] * (len(tokens) - len(line))] for line in scores])
    lost = np.diag(values) - values  # since it was taught

    def say(i, j):
        change = f", {abs(lost[i, j]):.3f} {'less' if lost[i, j] > 0 else 'more'} than when it was taught" if i > j else ", just taught"
        return f"{tokens[j]} after {tokens[i]}: CLIP-I {values[i, j]:.3f}{change}" if i >= j else ""

    numbers = range(len(tokens))
    return Plot(
        "forgetting", "heat", "What was forgotten",
        f"Each row is the session after one more concept, each column a concept, drawn again from the seed it was taught with. {CLIP_I} A column whose values "
        "fall from top to bottom is being forgotten.",
        tuple(f"after {t}" for t in tokens), tokens, values, "CLIP-I", tuple(tuple(say(i, j) for j in numbers) for i in numbers),
        ("after", "concept", "clip_i", "change since taught"), tuple((tokens[i], tokens[j], float(values[i, j]), -float(lost[i, j])) for i in numbers for j in range(i + 1)),
        1.0,
    )  # fmt: skip


def norms(base) -> dict[str, float]:
    """||W_0|| of every K and V matrix."""
    with base.lock:
        return {n: float(w.detach().float().norm()) for n, w in base.weights.items()}


def thresholds(base, c: Learned) -> tuple[float, float]:
    """(rho, gamma) that concept `c` was taught at; what its session does not say is the base's own."""
    own, said = TeachSettings.of(base), c.stats.get("settings", {})
    return said.get("base_share", own.base_share), said.get("general_share", own.general_share)


class Selector:
    """Neurons at any thresholds by the score that chose them, from what a session keeps. It has its own copy of the base's K and V, which nothing patches."""

    def __init__(self, base, calibration: Callable[[], dict[str, Tensor]]):
        """`calibration()`: {layer: r [p, din]} of unrelated prompts, see `selection.calibration_rms`; asked once, when first needed."""
        with base.lock:
            self.weights = {n: w.detach().to("cpu", copy=True) for n, w in base.weights.items()}
        self._calibration = lru_cache(1)(calibration)
        self._counts = lru_cache(4)(self._count)

    def _count(self, rho: float) -> dict[str, Tensor]:
        return {n: general_count(w.float(), self._calibration()[layer_of(n)].cpu().float(), rho).short() for n, w in self.weights.items()}

    def select(self, c: Learned, rho: float, gamma: float) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
        """(flat indices, funnel counts (base, concept, all)) per weight of concept `c`; rho in (0, 1], gamma in [0, 1], or 1.01: then nothing is general.

        Raises ValueError when the session is too old to have kept what it takes.
        """
        if not 0 < rho <= 1 or not 0 <= gamma <= 1.01:
            raise ValueError(f"`rho` is {rho} and `gamma` {gamma}: choose rho above 0 and up to 1, gamma 0 to 1")
        if not c.rms:
            raise ValueError(
                f"`{c.token}` was taught by a version that did not keep what it was selected by: teach it again to move its thresholds"
            )
        index, counts = {}, {}
        if c.gradients:
            strong = select_sensitive({n: restored(g, self.weights[n].shape) for n, g in c.gradients.items()}, rho)
        else:
            strong = {n: top(importance(w.float(), c.rms[layer_of(n)]), rho) for n, w in self.weights.items()}
        for n, w in self.weights.items():
            chosen = strong[n] & (self._counts(rho)[n] < gamma * len(self._calibration()[layer_of(n)]))
            index[n], counts[n] = chosen.flatten().nonzero().squeeze(1), [int(strong[n].sum()), int(chosen.sum()), w.numel()]
        return index, counts

    def plots(self, session: Session, name: str, rho: float, gamma: float) -> tuple[Plot, Plot]:
        """(funnel of concept `name`, overlap of all) with every concept selected anew; those that cannot be keep the neurons they were taught."""
        chosen = {c.name: self.select(c, rho, gamma) for c in session.concepts if c.rms or c.name == session.concept(name).name}
        masks = [chosen[c.name][0] if c.name in chosen else c.mask for c in session.concepts]
        here = f" if rho were {rho:g} and gamma {gamma:g}"
        funnel, both = funnel_of(session.concept(name).token, chosen[session.concept(name).name][1]), overlap(session, masks)
        return replace(funnel, title=funnel.title + here), replace(both, title=both.title + here)
