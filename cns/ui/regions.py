"""Boxes with words in the Generate tab: from a preset or a file into rows, out as the core's regions, with a preview."""

import json
import tempfile
from dataclasses import asdict
from pathlib import Path

import gradio as gr

from ..regions import LIMIT, PRESETS, Region, load_layout
from . import html
from .common import spoken

NONE = "none"
COLOURS = ("#3f7de0", "#d9822b", "#2b9d6b", "#b8459c", "#7a5bd0", "#c0392b", "#1f8a99", "#8a7a1f")


def build(base) -> tuple[list, gr.Slider]:
    """Layout first, wiring below. Returns the rows' components, to be read by `regions`, and how much is drawn together [%]."""
    rows = []
    with gr.Accordion("Regions", open=False, elem_id="regions"):
        gr.HTML('<p class="cns-note">Words for a part of the picture, such as <b>a &lt;rex&gt; dog</b> on the left; the prompt above draws the rest. A later box lies over an earlier one.</p>')
        preset = gr.Radio([NONE, *PRESETS], value=NONE, label="Layout", elem_id="layout")
        with gr.Row():
            with gr.Column(scale=3, min_width=220):
                for i in range(LIMIT):
                    with gr.Row(visible=False, elem_classes="cns-region") as row:
                        words = gr.Textbox(label=f"Words of box {i + 1}", max_lines=1, max_length=300, scale=3, min_width=140, elem_id=f"region-{i + 1}")
                        box = gr.Textbox(label="left, top, right, bottom", max_lines=1, max_length=60, scale=2, min_width=120)
                    rows.append((row, words, box))
            preview = gr.HTML(min_height=0, elem_id="preview")
        with gr.Row(visible=False) as files:
            save = gr.DownloadButton("Save this layout", size="sm")
        together = gr.Slider(
            0, 100, 100 * base.card.together, step=5, label="Drawn together [%]", elem_id="together",
            info="Below 100, each box's words are drawn alone first and set into the box; then this share of the steps draws over all of them.",
        )  # fmt: skip
        load = gr.UploadButton("Load a layout", size="sm", file_types=[".json"], file_count="single")
    parts, values = [c for row in rows for c in row], [c for _, words, box in rows for c in (words, box)]

    def filled(found):
        """Updates of all rows, of the preview and of the files' row."""
        out = []
        for i in range(LIMIT):
            box, words = found[i] if i < len(found) else ((), "")
            out += [gr.update(visible=i < len(found)), words, ", ".join(f"{v:g}" for v in box)]
        return *out, drawn([(box, words) for box, words in found]), gr.update(visible=bool(found))

    def choose(name, *values):
        return filled([(box, words or "") for box, words in zip(PRESETS.get(name, ()), values[::2])])

    @spoken
    def opened(path):
        return None, *filled([(r.box, r.words) for r in load_layout(path)])

    def look(*values):
        return drawn([([float(v) for v in _numbers(b)], w or "") for w, b in zip(values[::2], values[1::2]) if b and _numbers(b)])

    @spoken
    def kept(*values):
        path = Path(tempfile.mkdtemp(prefix="cns-layout-")) / "layout.json"
        path.write_text(json.dumps([asdict(r) for r in regions(values)], indent=1))
        return str(path)

    quick = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    preset.input(choose, [preset, *values], [*parts, preview, files], **quick)
    load.upload(opened, [load], [preset, *parts, preview, files], **quick)
    gr.on([c.input for c in values], look, values, [preview], **quick)
    save.click(kept, values, [save], **quick)
    return values, together


def regions(values) -> tuple[Region, ...]:
    """The rows' values (words, box, words, box, ...) as regions; empty rows are none. Raises ValueError for a bad one."""
    return tuple(Region(tuple(box.split(",")), words) for words, box in zip(values[::2], values[1::2]) if (box or "").strip())


def _numbers(box: str) -> list[str]:
    """The four numbers of a box that can be shown, else none."""
    numbers = box.split(",")
    try:
        return numbers if len([float(v) for v in numbers if 0 <= float(v) <= 1]) == 4 else []
    except ValueError:
        return []


def drawn(boxes, side=180) -> str:
    """The layout as a small picture: `boxes` of ((left, top, right, bottom), words), from the back to the front."""
    if not boxes:
        return ""
    shapes = []
    for i, ((left, top, right, bottom), words) in enumerate(boxes):
        x, y, w, h = (round(side * v, 1) for v in (left, top, right - left, bottom - top))
        shapes.append(
            f'<rect x="{x}" y="{y}" width="{max(w, 0)}" height="{max(h, 0)}" fill="{COLOURS[i]}" fill-opacity=".35" stroke="{COLOURS[i]}"/>'
            f'<text x="{x + 5}" y="{y + 15}" font-size="11" fill="currentColor">{i + 1} {html.esc(words[:22])}</text>'
        )
    return f'<svg viewBox="0 0 {side} {side}" width="{side}" role="img" aria-label="the layout" style="border:1px solid var(--border-color-primary);border-radius:8px">{"".join(shapes)}</svg>'
