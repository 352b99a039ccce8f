"""The Inspect Neurons tab: which weights a concept changed, where they lie, and what happens without them."""

import gradio as gr

from .. import inspection
from ..concept import NAME_LENGTH
from ..inspection import WAYS
from ..teaching import TeachSettings
from . import generate, gpu, html, owning, plots, probing
from .common import Shared, spoken

LEAST, MOST = 0.02, 0.6  # of rho, on the slider
NOTHING = "Teach something first. Then this page shows which of the model's weights learned it, where they lie, and what the picture becomes without them."
MOVE = (
    "**Other thresholds.** Move a slider to see which neurons would have been chosen then; nothing is trained or changed. *rho* is how much of {} counts as "
    "mattering for a concept. *gamma* is in how many of some unrelated prompts a neuron has to matter, too, to be called general."
)
NEARLY = "A session keeps only a summary of how much each weight mattered for {}, so the sliders choose close to what teaching would, not exactly. As taught is exact."
LINK = """(session, name, ...more) => { const here = new URL(location); here.searchParams.set('concept', name || ''); history.replaceState(null, '', here);
    return [session, name, ...more]; }"""


def build(base, store, shared: Shared) -> None:
    """Layout first, wiring below."""
    page = Layout(base, store, shared)
    wire(page, Desk(base), shared)


class Layout:
    """What the tab shows, from the top; `page` once there is a concept."""

    def __init__(self, base, store, shared: Shared):
        self.nothing = gr.HTML(html.empty(NOTHING))
        with gr.Column(visible=False) as self.page:
            self.name = gr.Dropdown(label="Concept", choices=[], elem_id="concept")
            self.numbers = gr.HTML()
            with gr.Row():
                with gr.Column(min_width=320):
                    self._thresholds(TeachSettings.of(base))
                with gr.Column(min_width=320):
                    self.overlap = gr.HTML()
                    self.growth = gr.HTML()
            with gr.Row():
                with gr.Column(min_width=320):
                    ways = [(f"by {words}", way) for way, words in WAYS.items()]
                    self.by = gr.Radio(ways, value="block", label="Divide the network", elem_id="by")
                    self.where = gr.HTML()
                with gr.Column(min_width=320):
                    self.updates = gr.HTML()
            self.stop, self.status, *self.probings = probing.build(shared, self.name)
            owning.build(base, store, shared, self.name)

    def _thresholds(self, defaults: TeachSettings):
        self.funnel = gr.HTML()
        self.moving = gr.Markdown()
        self.rho = gr.Slider(LEAST, MOST, defaults.base_share, step=0.02, label="rho: share that matters (base neurons)", elem_id="rho")
        self.gamma = gr.Slider(0, 1, defaults.general_share, step=0.05, label="gamma: share of unrelated prompts (general neurons)", elem_id="gamma")
        self.other = gr.HTML(elem_id="other-score")
        self.as_taught = gr.Button("As taught", size="sm", elem_id="as-taught")


class Desk:
    """What the controls do."""

    def __init__(self, base):
        self.base = base
        self.norms, self.selector = inspection.norms(base), inspection.Selector(base, gpu.calibration)

    def refresh(self, session, linked, by):
        """The tab after the session changed; the page's address may have asked for a concept, once."""
        names = [(c.words, c.name) for c in session.concepts] if session else []
        there = knows(session, linked)
        chosen = linked if there else names[-1][1] if names else None
        tab = gr.update(selected="inspect") if there else gr.skip()
        return tab, "", gr.update(visible=not names), gr.update(visible=bool(names)), gr.update(choices=names, value=chosen), *self.show(session, chosen, by)

    @spoken
    def show(self, session, name, by):
        """All about one concept."""
        if not session or not name:
            return "", "", "", "", "", "", gr.skip(), gr.skip(), "", ""
        concept = session.concept(name)
        s = concept.stats
        rows = [("base neurons", f"{s['base_neurons']:,}"), ("general, taken away", f"{s['general_removed']:,}"), ("concept neurons, trained", f"{s['neurons']:,}"),
                ("of the model", f"{s['share_of_model']:.2%}"), ("shared with earlier concepts", f"{s['shared_with_earlier']:,}")]  # fmt: skip
        drawn = inspection.growth(self.base, session), inspection.spread(self.base, session, by), inspection.updates(self.norms, session)
        moving, nearly = MOVE.format("all matrices together" if concept.gradients else "each matrix"), NEARLY.format(concept.token) if concept.gradients else ""
        return html.facts(rows) + link(name), *taught(session, name), *map(plots.shown, drawn), *slid(*inspection.thresholds(self.base, concept)), html.note(nearly), moving

    @spoken
    def reselect(self, session, name, rho, gamma):
        """The neurons by other thresholds."""
        if not session or not name:
            return "", ""
        if (rho, gamma) == inspection.thresholds(self.base, session.concept(name)):
            return taught(session, name)
        drawn = self.selector.plots(session, name, rho, gamma)
        return tuple(plots.shown(p, f"{name}-{p.key}-rho{rho:g}-gamma{gamma:g}") for p in drawn)

    def reset(self, session, name):
        """As it was taught again."""
        if not session or not name:
            return gr.skip(), gr.skip(), "", ""
        return *slid(*inspection.thresholds(self.base, session.concept(name))), *taught(session, name)

    @spoken
    def divide(self, session, by):
        return plots.shown(inspection.spread(self.base, session, by)) if session else ""


def wire(page: Layout, desk: Desk, shared: Shared) -> None:
    """Every event of the tab."""
    private, hidden = {"api_visibility": "private"}, {"show_progress": "hidden", "api_visibility": "private"}
    views = [page.numbers, page.funnel, page.overlap, page.growth, page.where, page.updates, page.rho, page.gamma, page.other, page.moving]
    shared.known.change(desk.refresh, [shared.session, shared.linked, page.by], [shared.tabs, shared.linked, page.nothing, page.page, page.name, *views], **private)
    page.name.input(desk.show, [shared.session, page.name, page.by], views, js=LINK, **private)
    gr.on(
        [page.rho.input, page.gamma.input], desk.reselect, [shared.session, page.name, page.rho, page.gamma], [page.funnel, page.overlap],
        trigger_mode="always_last", show_progress="minimal", show_progress_on=[page.other], **private,
    )  # fmt: skip
    page.as_taught.click(desk.reset, [shared.session, page.name], [page.rho, page.gamma, page.funnel, page.overlap], **hidden)
    page.by.input(desk.divide, [shared.session, page.by], [page.where], **hidden)
    page.stop.click(spoken(generate.stopped), [shared.run], [page.status], queue=False, cancels=page.probings, **hidden)


def slid(rho: float, gamma: float) -> tuple:
    """The sliders at a concept's own thresholds, as long as those take."""
    return gr.update(value=rho, minimum=min(LEAST, rho), maximum=max(MOST, rho)), gr.update(value=gamma, maximum=max(1, gamma))


def taught(session, name: str) -> tuple[str, str]:
    """How the concept's neurons were chosen, and what it shares with the others."""
    return plots.shown(inspection.funnel(session, name), f"{name}-funnel"), plots.shown(inspection.overlap(session))


def knows(session, name: str) -> bool:
    return bool(session) and name in [c.name for c in session.concepts]


def elsewhere(name: str) -> str:
    """What is said where a link leads to nothing."""
    return f"This link opens <{name[:NAME_LENGTH]}> only in the browser that was taught it, or with the resume key of that session."


def link(name: str) -> str:
    """A link that opens this page at concept `name`, in the browser that has the session."""
    return f'<p class="cns-note"><a href="?concept={html.esc(name)}" id="permalink">Link to this concept</a>, for you: it opens in the browser that has this session.</p>'
