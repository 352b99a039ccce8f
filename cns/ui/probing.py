"""In the Inspect tab: causal probes of a concept, and the forgetting matrix of the session with the picture behind each cell."""

import itertools
import time
from contextlib import closing

import gradio as gr

from .. import inspection
from ..probing import Probe, csv
from ..scores import CLIP_I
from . import gpu, html, plots
from .common import Shared, spoken

NOBODY, ALONE = "nobody", "teach a second thing to swap"
PROBES, SILENCED = 9, 2  # pictures of a probing with a concept to swap with, and those of them that show it silenced

CSS = """
.cns-matrix { overflow-x: auto; }
#silence, #probe, #stop-looking { align-self: center; }
#probed, #forgotten { min-height: 1.8rem; }
.cns-matrix table { border-collapse: separate; border-spacing: 6px; border: 0; }
.cns-matrix :is(th, td) { font-size: .8rem; font-weight: 400; text-align: center; vertical-align: middle; color: var(--body-text-color); border: 0; padding: 0; }
.cns-matrix img { width: 84px; border-radius: 8px; display: block; border: 1px solid var(--border-color-primary); }
"""


def build(shared: Shared, name: gr.Dropdown) -> tuple:
    """`name`: the concept that the tab shows. Returns the button that is to stop what is drawn, where to say so, and its events."""
    page = Layout()
    return page.stop, page.status, *wired(page, shared, name)


class Layout:
    """What there is to see and to press."""

    def __init__(self):
        gr.Markdown(
            "**Causal probes.** The concept drawn again and again from one seed, each time with one thing changed, to see which neurons carry it. *Silence it* draws it "
            "with its neurons and *unlearned*, with their values from before it was taught. *Probe it* goes on: with its keys or values alone, and with neurons *at zero*, "
            "where they do nothing at all. If the picture changes without its own neurons, and hardly without as many random ones, it is its own that carry the "
            "concept. General ones serve all prompts: the picture without some of them shows why they are left alone."
        )
        with gr.Row():
            self.other = gr.Dropdown(label="Swap its changes with those of", choices=[NOBODY], value=NOBODY, elem_id="swap", min_width=190)
            self.seed = gr.Number(None, label="Seed", placeholder="its own", precision=0, minimum=0, maximum=2**31, min_width=110, elem_id="probe-seed")
            self.quiet = gr.Button("Silence it", size="sm", scale=0, min_width=130, elem_id="silence")
            self.go = gr.Button("Probe it", size="sm", scale=0, min_width=130, elem_id="probe")
            self.stop = gr.Button("Stop", size="sm", scale=0, min_width=80, elem_id="stop-looking")
        self.status = gr.HTML(elem_id="looking")
        self.probed = gr.HTML(elem_id="probed")
        gr.Markdown("**What was forgotten.** Every concept, drawn again as the session was after each later one. It takes a picture for each cell.")
        self.matrix = gr.Button("Draw the forgetting matrix", size="sm", elem_id="forgetting")
        self.drawn = gr.HTML(elem_id="forgotten")


def wired(page: Layout, shared: Shared, name: gr.Dropdown) -> tuple:
    """Every event. Returns those that draw."""
    quiet = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    shared.known.change(lambda: ("", "", ""), None, [page.status, page.probed, page.drawn], **quiet)
    gr.on([shared.known.change, name.change], others, [shared.session, name], [page.other, page.probed], **quiet)
    look = {"concurrency_id": "draw", "show_progress": "minimal", "api_visibility": "private"}  # says where in the queue it waits
    silenced = page.quiet.click(silence, [shared.session, name, page.seed, shared.run], [page.status, page.probed], **look)
    probed = page.go.click(probe, [shared.session, name, page.other, page.seed, shared.run], [page.status, page.probed], **look)
    return silenced, probed, page.matrix.click(remember, [shared.session, shared.run], [page.status, page.drawn], **look)


def others(session, name) -> tuple:
    """With whom concept `name` can swap; and nothing of it is drawn yet."""
    known = [(c.token, c.name) for c in session.concepts if c.name != name] if session else []
    return gr.update(choices=[NOBODY if known else (ALONE, NOBODY), *known], value=NOBODY), ""


def silence(session, name, seed, run):
    """Yields how far it is, and the concept with its neurons and without."""
    yield from probe(session, name, NOBODY, seed, run, SILENCED)


@spoken
def probe(session, name, other, seed, run, most: int = PROBES):
    """Yields how far it is and the pictures, the first `most`."""
    if not session or not name:
        raise ValueError("there is no concept to probe yet: teach one first")
    token, other = session.concept(name).token, None if other in (NOBODY, name) else other
    found, count = [], min(most, PROBES if other else PROBES - 2)
    yield waiting(0, count, 0.0), ""
    began = time.monotonic()
    with closing(gpu.probe(session, name, other, None if seed is None else int(seed), gpu.Watch.of(run))) as drawn:
        for p in itertools.islice(drawn, count):
            found.append(p)
            yield waiting(len(found), count, time.monotonic() - began), probed(token, found)


def probed(token: str, found: list[Probe]) -> str:
    """The pictures of a concept's probes, what is changed in each and by how much that changes it, and all numbers as a file."""
    said = [f"CLIP-I {p.clip_i:.3f}" + (f" ({p.change:+.3f})" if i else "") if p.clip_i is not None else "" for i, p in enumerate(found)]
    pictures = [(p.picture, f"{token}, {p.title}: {p.about}{f' ({p.neurons:,})' if p.neurons else ''}. {s}") for p, s in zip(found, said)]
    numbers = plots.csv_link(csv(found), f"{token.strip('<>')}-probes", f"probes of {token}")
    return html.strip(pictures, 150) + (html.note(CLIP_I) if any(said) else "") + f'<p class="cns-note">{numbers}</p>'


@spoken
def remember(session, run):
    """Yields how far it is and the matrix."""
    if not session or not session.concepts:
        raise ValueError("there is nothing to forget yet: teach something first")
    n, rows, watch = len(session.concepts), [], gpu.Watch.of(run)
    began, cells = time.monotonic(), n * (n + 1) // 2
    yield waiting(0, cells, 0.0), ""
    for last in range(1, n + 1):
        rows.append(gpu.remembered(session, last, watch))
        yield waiting(sum(map(len, rows)), cells, time.monotonic() - began), table(session, rows)
    scores = [[score for _, score in row] for row in rows]
    if all(s is not None for row in scores for s in row):
        yield "", plots.shown(inspection.forgetting(session, scores)) + table(session, rows)


def waiting(done: int, count: int, seconds: float) -> str:
    """How far it is, and how long it still takes; nothing when it is done."""
    if done >= count:
        return ""
    left = html.soon(seconds / done * (count - done) if done else None)
    return html.bar(f"Drawing picture {done + 1} of {count}{left}", (done + 0.3) / count)


def table(session, rows) -> str:
    """The pictures of the forgetting matrix as far as they are drawn."""
    tokens = [html.esc(c.token) for c in session.concepts]
    head = "".join(f'<th scope="col">{t}</th>' for t in tokens)
    body = ""
    for i, row in enumerate(rows):
        cells = "".join(f"<td>{html.image(p, f'{session.concepts[j].token} after {session.concepts[i].token}')}{html.score(s)}</td>" for j, (p, s) in enumerate(row))
        body += f'<tr><th scope="row">after {tokens[i]}</th>{cells}{"<td></td>" * (len(tokens) - len(row))}</tr>'
    region = 'class="cns-matrix" tabindex="0" role="region" aria-label="pictures of the forgetting matrix"'
    return f"<div {region}><table><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table></div>"
