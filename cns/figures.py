"""A session in, matplotlib figures out: how a concept's neurons were found, where they lie, what concepts share.

Figures are made without pyplot, so nothing global is left behind, on a transparent ground with mid-tone ink that reads
on light and dark pages.
"""

import re

import numpy as np
import torch
from matplotlib.figure import Figure

from .session import Session

INK, GRID = "#7a7f87", "#7a7f8740"
BASE, GENERAL, CONCEPT = "#9db4d6", "#d9a86c", "#3f7de0"


def short(name: str) -> str:
    """`down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight` -> `down 1.0 K`."""
    place = re.match(r"(down|mid|up)_block(?:s\.(\d+))?\.attentions\.(\d+)", name)
    where = f"{place[1]} {place[2]}.{place[3]}" if place and place[2] else f"mid {place[3]}" if place else name
    return f"{where} {'K' if 'to_k' in name else 'V'}"


def _canvas(width=7.0, height=3.4):
    figure = Figure(figsize=(width, height), layout="constrained", dpi=110)
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.tick_params(colors=INK, labelsize=8)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(GRID)
    for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
        text.set_color(INK)
        text.set_fontsize(9)
    return figure, axes


def _legend(axes, **where):
    axes.legend(frameon=False, labelcolor=INK, fontsize=8, **where)


def funnel(base, session: Session, name: str) -> Figure:
    """Per K and V matrix: the share of base neurons, split into general ones (taken away) and concept neurons (trained)."""
    counts = dict(sorted(session.concept(name).stats["funnel"].items(), key=lambda c: ("d m u".index(c[0][0]), c[0])))
    figure, axes = _canvas(7.0, 0.9 + 0.24 * len(counts))
    rows = np.arange(len(counts))[::-1]
    strong, chosen, size = (np.array([c[i] for c in counts.values()], float) for i in range(3))
    axes.barh(rows, 100 * chosen / size, color=CONCEPT, label="concept neurons (trained)")
    axes.barh(rows, 100 * (strong - chosen) / size, left=100 * chosen / size, color=GENERAL, label="general neurons (taken away)")
    axes.set_yticks(rows, [short(n) for n in counts])
    axes.set_xlabel("share of the matrix [%]; a whole bar is the base neurons")
    _legend(axes, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=2)
    return figure


def location(session: Session, name: str) -> Figure:
    """Which part of the concept's neurons lies in each block of the network, K beside V."""
    mask = session.concept(name).mask
    order = ("down", "mid", "up")  # as the signal goes through the network
    blocks = sorted(dict.fromkeys(short(n)[:-2] for n in mask), key=lambda b: next((i for i, o in enumerate(order) if b.startswith(o)), 9))
    total = max(1, sum(len(i) for i in mask.values()))
    figure, axes = _canvas(7.0, 2.8)
    for shift, kind, colour in ((-0.2, "K", BASE), (0.2, "V", CONCEPT)):
        part = [100 * sum(len(i) for n, i in mask.items() if short(n) == f"{b} {kind}") / total for b in blocks]
        axes.bar(np.arange(len(blocks)) + shift, part, 0.38, color=colour, label={"K": "keys", "V": "values"}[kind])
    axes.set_xticks(range(len(blocks)), blocks, rotation=30 if len(blocks) > 8 else 0)
    axes.set_ylabel("share of its neurons [%]")
    _legend(axes, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure


def shared(session: Session) -> tuple[np.ndarray, np.ndarray]:
    """(neurons that two concepts share [n, n], Jaccard index [n, n] in [0, 1])."""
    n = len(session.concepts)
    both = np.zeros((n, n))
    for i, a in enumerate(session.concepts):
        for j, b in enumerate(session.concepts[: i + 1]):
            both[i, j] = both[j, i] = sum(int(torch.isin(a.mask[w], b.mask[w]).sum()) for w in a.mask.keys() & b.mask.keys())
    size = np.diag(both)
    return both, both / np.maximum(1, size[:, None] + size[None] - both)


def overlap(session: Session) -> Figure:
    """Jaccard index of every two concepts' neurons."""
    both, jaccard = shared(session)
    n, names = len(both), [c.token for c in session.concepts]
    figure, axes = _canvas(3.0 + 0.6 * n, 1.4 + 0.45 * n)
    axes.imshow(jaccard, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    axes.set_xticks(range(n), names, rotation=30 if n > 4 else 0)
    axes.set_yticks(range(n), names)
    for (i, j), value in np.ndenumerate(jaccard):
        axes.text(j, i, f"{value:.2f}\n{int(both[i, j]):,}", ha="center", va="center", fontsize=8, color="white" if value > 0.5 else "#30343a")
    axes.set_title("Jaccard index and shared neurons", color=INK, fontsize=9)
    return figure


def loss(losses: list[float]) -> Figure:
    """The smoothed training loss over the events so far."""
    figure, axes = _canvas(5.0, 2.2)
    axes.plot(losses, color=CONCEPT, linewidth=1.6)
    axes.grid(axis="y", color=GRID)
    axes.set_ylabel("loss")
    return figure
