"""Plots as data in, matplotlib figures out, for PNG files.

Figures are made without pyplot, so nothing global is left behind, on a transparent ground with mid-tone ink that reads
on light and dark pages.
"""

import numpy as np
from matplotlib.figure import Figure

from .inspection import COLOURS, Plot, brief

INK, GRID = "#7a7f87", "#7a7f8740"


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


def draw(plot: Plot) -> Figure:
    """`plot` as bars or as a map."""
    return _heat(plot) if plot.kind == "heat" else _bars(plot)


def _bars(plot: Plot) -> Figure:
    """A row of `plot` from top to bottom, its series end to end or below each other."""
    n, k = plot.values.shape
    stacked = plot.kind == "stack"
    figure, axes = _canvas(7.0, 1.0 + 0.24 * n * (1 if stacked else max(1, 0.6 * k)))
    rows, left = np.arange(n)[::-1], np.zeros(n)
    for j, name in enumerate(plot.series):
        thick, shift = (0.8, 0) if stacked else (0.8 / k, 0.4 * (k - 1 - 2 * j) / k)
        axes.barh(rows + shift, plot.values[:, j], thick, left=left, color=COLOURS[j], label=name)
        left = left + plot.values[:, j] if stacked else left
    axes.set_yticks(rows, plot.rows)
    axes.set_xlabel(plot.unit)
    axes.set_title(plot.title)
    figure.legend(frameon=False, labelcolor=INK, fontsize=8, loc="outside lower center", ncols=min(4, k))
    return figure


def _heat(plot: Plot) -> Figure:
    """A matrix with its values written in."""
    n, k = plot.values.shape
    figure, axes = _canvas(3.2 + 0.6 * k, 1.4 + 0.45 * n)
    high = plot.top or np.nanmax(plot.values, initial=1e-12)
    axes.imshow(plot.values, vmin=0, vmax=high, cmap="Blues", aspect="auto")
    axes.set_xticks(range(k), plot.series, rotation=90 if k > 8 else 30 if k > 4 else 0)
    axes.set_yticks(range(n), plot.rows)
    for (i, j), value in np.ndenumerate(plot.values):
        if np.isfinite(value):
            axes.text(j, i, brief(value), ha="center", va="center", fontsize=8, color="white" if value > 0.5 * high else "#30343a")
    axes.set_title(plot.title)
    return figure
