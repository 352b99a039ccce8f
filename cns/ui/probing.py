"""In the Inspect tab: causal probes of a concept, and the forgetting matrix of the session with the picture behind each cell."""

import time

import gradio as gr

from .. import inspection
from . import gpu, html, plots
from .common import Shared, spoken

NOBODY = "nobody"
UNSCORED = "There is no heat map of it: its values are CLIP's scores, and these things were taught, or drawn, without a CLIP. Whoever starts this app names one with CNS_CLIP."
PROBES = 9  # pictures of a probing with a concept to swap with

CSS = """
.cns-matrix { overflow-x: auto; }
#probe, #stop-looking { align-self: center; }
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
            "**Causal probes.** The same prompt and seed each time, with one thing changed. *Unlearned* gives the concept's neurons the untaught values back; *at zero* "
            "takes away all that the neurons do. When its own change the picture and as many random ones do not, it is its own that carry the concept; general ones "
            "are needed by all prompts, and what becomes of the picture without some of them shows why they are spared."
        )
        with gr.Row():
            self.other = gr.Dropdown(label="Swap deltas with", choices=[NOBODY], value=NOBODY, elem_id="swap", min_width=150)
            self.seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**31, min_width=110, elem_id="probe-seed")
            self.go = gr.Button("Probe it", size="sm", scale=0, min_width=130, elem_id="probe")
            self.stop = gr.Button("Stop", size="sm", scale=0, min_width=80, elem_id="stop-looking")
        self.status = gr.HTML(elem_id="looking")
        self.probed = gr.HTML(elem_id="probed")
        gr.Markdown("**What was forgotten.** Every concept drawn again after each later one, as far back as the first. It takes a picture for each cell.")
        self.matrix = gr.Button("Draw the forgetting matrix", size="sm", elem_id="forgetting")
        self.drawn = gr.HTML(elem_id="forgotten")


def wired(page: Layout, shared: Shared, name: gr.Dropdown) -> tuple:
    """Every event. Returns those that draw."""
    shared.known.change(names, [shared.session], [page.other, page.status, page.probed, page.drawn], queue=False, api_visibility="private")
    name.change(lambda: "", None, [page.probed], queue=False, show_progress="hidden", api_visibility="private")
    look = {"concurrency_id": "draw", "show_progress": "minimal", "api_visibility": "private"}  # says where in the queue it waits
    probed = page.go.click(spoken(probe, page.status), [shared.session, name, page.other, page.seed, shared.run], [page.status, page.probed], **look)
    return probed, page.matrix.click(spoken(remember, page.status), [shared.session, shared.run], [page.status, page.drawn], **look)


def names(session) -> tuple:
    """Whom to swap with; and nothing is said or drawn yet."""
    known = [(c.token, c.name) for c in session.concepts] if session else []
    return gr.update(choices=[NOBODY, *known], value=NOBODY), "", "", ""


def probe(session, name, other, seed, run):
    """Yields how far it is and the pictures."""
    if not session or not name:
        raise ValueError("there is no concept to probe yet: teach one first")
    other = None if other in (NOBODY, name) else other
    pictures, count = [], PROBES if other else PROBES - 2
    yield waiting(0, count, 0.0), ""
    began = time.monotonic()
    for p in gpu.probe(session, name, other, int(seed or 0), gpu.Watch.of(run)):
        score = "" if p.clip_i is None else f"CLIP-I {p.clip_i:.3f}" + (f" ({p.change:+.3f})" if pictures else "")
        pictures.append((p.picture, f"{p.title}: {p.about}{f' ({p.neurons:,})' if p.neurons else ''}. {score}"))
        yield waiting(len(pictures), count, time.monotonic() - began), html.strip(pictures, 150)


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
    scored = all(s is not None for row in scores for s in row)
    yield "", (plots.shown(inspection.forgetting(session, scores)) if scored else html.note(UNSCORED)) + table(session, rows)


def waiting(done: int, count: int, seconds: float) -> str:
    """How far it is, and how long it still takes; nothing when it is done."""
    if done >= count:
        return ""
    left = f", about {seconds / done * (count - done):.0f} s left" if done else ""
    return f'<div role="status">Drawing picture {done + 1} of {count}{left}</div><div class="cns-bar"><div style="width:{100 * (done + 0.3) / count:.0f}%"></div></div>'


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
