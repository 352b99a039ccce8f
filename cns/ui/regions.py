"""Boxes with words in the Generate tab: drawn on a canvas, from a preset or a file into rows, out as the core's regions."""

import json
from dataclasses import asdict

import gradio as gr

from ..regions import LIMIT, PRESETS, Region, checked, load_layout
from . import html, temp
from .common import spoken

NONE = "none"
DRAW = """
// drag on the canvas: a new box; drag a box: move it; its lower right corner: resize it; double click: take it away
let svg, start, before, mode, index, shape;
const at = e => { const r = svg.getBoundingClientRect(); return [(e.clientX - r.left) / r.width, (e.clientY - r.top) / r.height].map(v => Math.min(1, Math.max(0, v))); };
const send = (i, box) => {
  const field = document.querySelector('#drawn-box textarea, #drawn-box input');
  field.value = JSON.stringify({index: i, box: box.map(v => Math.round(100 * v) / 100), when: Date.now()});
  field.dispatchEvent(new Event('input', {bubbles: true}));
};
element.addEventListener('pointerdown', e => {
  svg = e.target.closest('svg');
  if (!svg) return;
  e.preventDefault();
  start = at(e);
  index = e.target.dataset.box === undefined ? -1 : Number(e.target.dataset.box);
  before = index < 0 ? [...start, ...start] : e.target.dataset.at.split(',').map(Number);
  mode = index < 0 ? 'new' : Math.hypot(before[2] - start[0], before[3] - start[1]) < 0.1 ? 'resize' : 'move';
  shape = index < 0 ? svg.appendChild(document.createElementNS('http://www.w3.org/2000/svg', 'rect')) : e.target;
  if (index < 0) { shape.setAttribute('fill', 'currentColor'); shape.setAttribute('fill-opacity', 0.3); }
});
const moved = e => {
  const [x, y] = at(e), [l, t, r, b] = before, w = r - l, h = b - t;
  if (mode === 'new') return [Math.min(x, start[0]), Math.min(y, start[1]), Math.max(x, start[0]), Math.max(y, start[1])];
  if (mode === 'resize') return [l, t, Math.max(x, l + 0.05), Math.max(y, t + 0.05)];
  const left = Math.min(1 - w, Math.max(0, l + x - start[0])), top = Math.min(1 - h, Math.max(0, t + y - start[1]));
  return [left, top, left + w, top + h];
};
window.addEventListener('pointermove', e => {
  if (!shape) return;
  const [l, t, r, b] = moved(e), side = svg.viewBox.baseVal.width;
  Object.entries({x: l * side, y: t * side, width: (r - l) * side, height: (b - t) * side}).forEach(([k, v]) => shape.setAttribute(k, v));
});
window.addEventListener('pointerup', e => {
  if (!shape) return;
  const box = moved(e), large = box[2] - box[0] >= 0.05 && box[3] - box[1] >= 0.05;
  if (mode === 'new') shape.remove();
  shape = null;
  if (large && box.some((v, i) => Math.abs(v - before[i]) > 0.004)) send(index, box);
});
element.addEventListener('dblclick', e => { if (e.target.dataset.box !== undefined) send(Number(e.target.dataset.box), []); });
"""
HINT = "Drag on the canvas to draw a box; drag a box to move it, its lower right corner to resize it; a double click takes it away."
COLOURS = ("#3f7de0", "#d9822b", "#2b9d6b", "#b8459c", "#7a5bd0", "#c0392b", "#1f8a99", "#8a7a1f")


def build(base) -> tuple[list, gr.Slider]:
    """Layout first, wiring below. Returns the rows' components, to be read by `regions`, and how much is drawn together [%]."""
    page = Layout(base.card.together)
    wire(page)
    return page.values, page.together


class Layout:
    """The canvas and a row for each box; `parts` are all of a row, `values` what is read of it."""

    def __init__(self, together: float):
        with gr.Accordion("Regions", open=False, elem_id="regions"):
            gr.HTML('<p class="cns-note">Words for a part of the picture, such as <b>a &lt;rex&gt; dog</b> on the left; the prompt above draws the rest. A later box lies over an earlier one.</p>')
            self.preset = gr.Radio([NONE, *PRESETS], value=NONE, label="Layout", elem_id="layout")
            self.preview = gr.HTML(drawn([]), min_height=0, elem_id="preview", js_on_load=DRAW)
            gr.HTML(html.note(HINT))
            rows = [self._row(i) for i in range(LIMIT)]
            self.gesture = gr.Textbox(visible="hidden", elem_id="drawn-box")  # what was done on the canvas, as JSON
            with gr.Row(visible=False) as self.files:
                self.save = gr.DownloadButton("Save this layout", size="sm")
            self.together = gr.Slider(
                0, 100, 100 * together, step=5, label="Drawn together [%]", elem_id="together",
                info="Below 100, each box's words are drawn alone first and set into the box; then this share of the steps draws over all of them.",
            )  # fmt: skip
            self.load = gr.UploadButton("Load a layout", size="sm", file_types=[".json"], file_count="single")
        self.parts, self.values = [c for row in rows for c in row], [c for _, words, box in rows for c in (words, box)]

    def _row(self, i: int) -> tuple:
        with gr.Row(visible=False, elem_classes="cns-region") as row:
            words = gr.Textbox(label=f"Words of box {i + 1}", max_lines=1, max_length=300, scale=3, min_width=140, elem_id=f"region-{i + 1}")
            box = gr.Textbox(label="left, top, right, bottom", max_lines=1, max_length=60, scale=2, min_width=120)
        return row, words, box


def wire(page: Layout) -> None:
    """Every event."""
    quiet = {"show_progress": "hidden", "api_visibility": "private"}  # in the queue, where an error is a message and no failed request
    quick, shown = {"queue": False, **quiet}, [*page.parts, page.preview, page.files]
    page.preset.input(choose, [page.preset, *page.values], shown, **quick)
    page.gesture.change(place, [page.gesture, *page.values], shown, **quiet)
    page.load.upload(opened, [page.load], [page.preset, *shown], **quiet)
    gr.on([c.input for c in page.values], look, page.values, [page.preview], **quick)
    page.save.click(kept, page.values, [page.save], **quiet)


def filled(found) -> tuple:
    """Updates of all rows, of the preview and of the files' row."""
    out = []
    for i in range(LIMIT):
        box, words = found[i] if i < len(found) else ((), "")
        out += [gr.update(visible=i < len(found)), words, ", ".join(f"{v:g}" for v in box)]
    return *out, drawn([(box, words) for box, words in found]), gr.update(visible=bool(found))


def choose(name, *values) -> tuple:
    """A preset's boxes, with the words that the rows have."""
    return filled([(box, words or "") for box, words in zip(PRESETS.get(name, ()), values[::2])])


@spoken
def place(gesture, *values):
    return filled(placed(gesture, values))


@spoken
def opened(path):
    """No preset, and the boxes of a layout's file."""
    return None, *filled([(r.box, r.words) for r in load_layout(path)])


def look(*values) -> str:
    return drawn(typed(values))


@spoken
def kept(*values):
    """The path of a file with the layout."""
    path = temp.new_file("layout.json")
    path.write_text(json.dumps([asdict(r) for r in regions(values)], indent=1))
    return str(path)


def regions(values) -> tuple[Region, ...]:
    """The rows' values (words, box, words, box, ...) as regions; empty rows are none. Raises ValueError for a bad one."""
    return tuple(Region(tuple(box.split(",")), words) for words, box in zip(values[::2], values[1::2]) if (box or "").strip())


def placed(gesture: str, values) -> list[tuple[list[float], str]]:
    """(box, words) of every row after `gesture`: JSON with a `box` for row `index`, none to take it away, index -1 for a new one."""
    found = typed(values)
    asked = json.loads(gesture)
    index, box = int(asked["index"]), [float(v) for v in asked["box"]]
    if index < 0:
        checked([*(Region((0, 0, 1, 1), "any") for _ in found), Region(box, "any")])  # type: ignore[arg-type]
        return [*found, (box, "")]
    kept = found[index : index + 1] if box else []
    return found[:index] + [(box, words) for _, words in kept] + found[index + 1 :]


def typed(values) -> list[tuple[list[float], str]]:
    """(box, words) of every row with something for a box; no numbers where it is none."""
    return [(_numbers(box), words or "") for words, box in zip(values[::2], values[1::2]) if (box or "").strip()]


def _numbers(box: str) -> list[float]:
    """The four numbers of a box that can be shown, else none."""
    try:
        numbers = [float(v) for v in box.split(",")]
    except ValueError:
        return []
    return numbers if len([v for v in numbers if 0 <= v <= 1]) == 4 else []


def drawn(boxes, side=200) -> str:
    """The canvas: `boxes` of ((left, top, right, bottom), words), from the back to the front; those that are no box are left out."""
    shapes = []
    for i, (box, words) in enumerate(boxes):
        if len(box) != 4:
            continue
        x, y, w, h = (round(side * v, 1) for v in (box[0], box[1], box[2] - box[0], box[3] - box[1]))
        shapes.append(
            f'<rect data-box="{i}" data-at="{",".join(f"{v:g}" for v in box)}" x="{x}" y="{y}" width="{max(w, 0)}" height="{max(h, 0)}" fill="{COLOURS[i]}" fill-opacity=".35" '
            f'stroke="{COLOURS[i]}" style="cursor:move"/><text x="{x + 5}" y="{y + 15}" font-size="11" fill="currentColor" pointer-events="none">{i + 1} {html.esc(words[:22])}</text>'
        )
    style = "border:1px solid var(--border-color-primary);border-radius:8px;touch-action:none;cursor:crosshair"
    return f'<svg viewBox="0 0 {side} {side}" width="{side}" role="img" aria-label="the layout" style="{style}">{"".join(shapes)}</svg>'
