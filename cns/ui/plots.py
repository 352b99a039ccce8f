"""A `Plot` in, an interactive figure out: inline SVG that shows each value under the pointer, its numbers as a table, PNG and CSV.

The SVG takes its colours from the page, light or dark. What the pointer shows is also in the table, for keyboards and readers
of screens. The PNG is the SVG as it stands, drawn by the browser; the CSV travels in its link: no file is made on the server.
"""

import textwrap
from urllib.parse import quote

import numpy as np

from ..inspection import COLOURS, Plot, brief
from .html import esc

WIDTH, TIP, CHARACTER = 460, 30, 6.6  # pixels: of a plot, of the lines under which a value is shown, of a letter in a wide font
CELL, WRITTEN = 22, 28  # pixels: a matrix's narrowest cell, and the narrowest that has room for its value

HINT = '<text class="cns-hint" x="0" y="11">Point at a value, or touch it, to read it.</text>'  # in a PNG the title takes its place

CSS = """
.cns-plot { margin: 0 0 .6rem; max-width: 620px; }
.cns-plot figcaption { font-size: .92rem; line-height: 1.4; margin-bottom: .3rem; }
.cns-plot figcaption p { margin: .1rem 0 0; color: var(--body-text-color-subdued); }
.cns-plot .cns-wide { overflow-x: auto; } /* on a phone the picture scrolls: were it shrunk, nobody could read it */
.cns-plot svg { width: 100%; height: auto; display: block; font-family: inherit; }
.cns-plot svg text { font-size: 11px; fill: var(--body-text-color); }
.cns-plot svg line { stroke: var(--border-color-primary); }
.cns-plot .cns-tip { visibility: hidden; pointer-events: none; font-weight: 600; }
.cns-plot svg .cns-hint { fill: var(--body-text-color-subdued); }
.cns-plot svg:has(.cns-mark:hover) .cns-hint { visibility: hidden; }
.cns-plot .cns-mark:hover rect { stroke: var(--body-text-color); stroke-width: 1.2; }
.cns-plot .cns-mark:hover .cns-tip { visibility: visible; }
.cns-plot .cns-more { display: flex; gap: .9rem; font-size: .85rem; align-items: baseline; flex-wrap: wrap; }
.cns-plot .cns-more :is(a, button, summary) { color: var(--link-text-color); text-decoration: underline; background: none; border: 0; padding: .1rem 0; font: inherit; cursor: pointer; }
.cns-plot .cns-table { overflow-x: auto; max-height: 260px; }
.cns-plot table { border-collapse: collapse; font-size: .8rem; font-variant-numeric: tabular-nums; }
.cns-plot :is(td, th) { padding: .1rem .7rem .1rem 0; text-align: right; border: 0; white-space: nowrap; }
.cns-plot :is(td, th):first-child { text-align: left; }
"""

HEAD = """<script>
function cnsPng(button, name) {
  const svg = button.closest("figure").querySelector("svg"), copy = svg.cloneNode(true), box = svg.viewBox.baseVal;
  const here = [...svg.querySelectorAll("*")], there = [...copy.querySelectorAll("*")];
  here.forEach((e, i) => { const s = getComputedStyle(e);
    for (const p of ["fill", "stroke", "font-size", "font-family", "font-weight", "visibility"]) there[i].style.setProperty(p, s.getPropertyValue(p)); });
  copy.querySelector(".cns-hint").textContent = svg.getAttribute("aria-label");
  copy.setAttribute("width", 2 * box.width); copy.setAttribute("height", 2 * box.height);
  const image = new Image();
  image.onload = () => {
    const canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
    canvas.width = 2 * box.width; canvas.height = 2 * box.height;
    pen.fillStyle = getComputedStyle(document.querySelector(".gradio-container")).backgroundColor; pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.drawImage(image, 0, 0);
    const link = document.createElement("a"); link.download = name; link.href = canvas.toDataURL("image/png"); link.click();
  };
  image.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(new XMLSerializer().serializeToString(copy));
}
</script>"""


def shown(plot: Plot, name: str = "") -> str:
    """The whole figure; `name` replaces the plot's own as the files' name."""
    name = name or plot.key
    head = "".join(f'<th scope="col">{esc(h)}</th>' for h in plot.header)
    body = "".join(f"<tr>{''.join(f'<td>{esc(_number(v))}</td>' for v in row)}</tr>" for row in plot.table)
    return (
        f'<figure class="cns-plot" id="plot-{esc(plot.key)}"><figcaption><b>{esc(plot.title)}</b><p>{esc(plot.about)}</p></figcaption>'
        f'<div class="cns-wide" tabindex="0" role="region" aria-label="plot: {esc(plot.title)}">{svg(plot)}</div>'
        f'<div class="cns-more"><button type="button" onclick="cnsPng(this, \'{esc(name)}.png\')" aria-label="{esc(plot.title)} as PNG">PNG</button>'
        f"{csv_link(plot.csv(), name, plot.title)}"
        f'<details><summary>All numbers</summary><div class="cns-table" tabindex="0" role="region" aria-label="numbers of {esc(plot.title)}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></details></div></figure>"
    )


def csv_link(content: str, name: str, what: str) -> str:
    """A link that saves `content`, which it carries, as a file of that name."""
    return f'<a download="{esc(name)}.csv" href="data:text/csv;charset=utf-8,{quote(content)}" aria-label="{esc(what)} as CSV">CSV</a>'


def _number(value) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4f}" if isinstance(value, float) else value


def svg(plot: Plot) -> str:
    """The picture alone."""
    marks, width, height = _heat(plot) if plot.kind == "heat" else _bars(plot)
    box = f'viewBox="0 0 {width:.0f} {height:.0f}" style="min-width: {width:.0f}px"'
    return f'<svg {box} role="img" aria-label="{esc(plot.title)}">{HINT}{"".join(marks)}</svg>'


def _text(x, y, text, anchor="start", more="") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{esc(text)}</text>'


def _mark(x, y, width, height, colour, said, more="", opacity=1.0) -> str:
    """A rectangle that shows what is said of it in the lines on top, while the pointer is on it."""
    lines = textwrap.wrap(said, int(WIDTH / CHARACTER))[:2]
    tip = "".join(_text(0, 11 + 14 * i, line, more=' class="cns-tip"') for i, line in enumerate(lines))
    rect = f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{height:.1f}" rx="1.5" fill="{colour}" fill-opacity="{opacity:.2f}"/>'
    return f'<g class="cns-mark">{rect}{more}{tip}</g>'


def _long(text: str) -> float:
    """How long a text is at most [pixels]."""
    return CHARACTER * (len(text) + 0.5 * sum(c in "mwMW<>%" for c in text))


def _margin(names) -> float:
    return 12 + max(map(_long, names), default=0)


def _bars(plot: Plot) -> tuple[list[str], float, float]:
    """(elements, width, height): a row from top to bottom, its series end to end or below each other."""
    n, k = plot.values.shape
    stacked, left = plot.kind == "stack", _margin(plot.rows)
    thick = 13 if stacked else max(5, min(13, 26 / k))
    row = (thick if stacked else thick * k) + 7
    most = max(1e-12, (plot.values.sum(1) if stacked else plot.values).max(initial=0))
    scale, top = (WIDTH - left - 34) / most, TIP + 4
    out = []
    for tick in (0, most / 2, most):
        x = left + tick * scale
        out += [f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{top + n * row}"/>', _text(x, top + n * row + 13, f"{tick:.3g}", "middle")]
    for i, name in enumerate(plot.rows):
        y, x = top + i * row + 3, left
        out.append(_text(left - 6, y + (row - 7) / 2 + 4, name, "end"))
        for j in range(k):
            out.append(_mark(x, y, plot.values[i, j] * scale, thick - (not stacked and k > 1), COLOURS[j], plot.hover[i][j]))
            x, y = (x + plot.values[i, j] * scale, y) if stacked else (x, y + thick)
    bottom = top + n * row + 28
    out.append(_text(WIDTH, bottom, plot.unit, "end"))
    legend, end = _legend(plot.series, bottom + 18)
    return out + legend, WIDTH, end


def _legend(names, y) -> tuple[list[str], float]:
    """(swatches with names in rows, where they end)"""
    out, x = [], 0.0
    for j, name in enumerate(names):
        wide = 26 + _long(name)
        if x and x + wide > WIDTH:
            x, y = 0.0, y + 16
        out += [
            f'<rect x="{x:.1f}" y="{y - 9:.1f}" width="10" height="10" rx="2" fill="{COLOURS[j]}"/>',
            _text(x + 15, y, name),
        ]
        x += wide
    return out, y + 6


def _heat(plot: Plot) -> tuple[list[str], float, float]:
    """(elements, width, height): a matrix, its values written in where they have room; names that do not fit above their column stand upright."""
    n, k = plot.values.shape
    left, high = _margin(plot.rows), plot.top or max(1e-12, np.nanmax(plot.values, initial=0))
    wide, tall, longest = min(80, max(CELL, (WIDTH - left) / max(1, k))), 34, _margin(plot.series)
    upright = longest > wide
    top = TIP + (longest if upright else 24)
    out = []
    for j, name in enumerate(plot.series):
        x, y = left + (j + 0.5) * wide + (4 if upright else 0), top - 8
        out.append(_text(x, y, name, "start", f' transform="rotate(-90 {x:.1f} {y:.1f})"') if upright else _text(x, y, name, "middle"))
    for i, name in enumerate(plot.rows):
        out.append(_text(left - 6, top + (i + 0.5) * tall + 4, name, "end"))
        for j, value in enumerate(plot.values[i]):
            if np.isfinite(value):
                x, y = left + j * wide, top + i * tall
                inside = _text(x + wide / 2, y + tall / 2 + 4, brief(value), "middle") if wide >= WRITTEN else ""
                shade = 0.06 + 0.5 * min(1, max(0, value / high))
                out.append(_mark(x + 1, y + 1, wide - 2, tall - 2, COLOURS[0], plot.hover[i][j], inside, shade))
    right, bottom = left + k * wide, top + n * tall + 16
    return [*out, _text(right, bottom, plot.unit, "end" if k > 1 else "middle")], max(WIDTH, right), bottom + 6
