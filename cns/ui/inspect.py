"""The Inspect Neurons tab: which weights a concept changed, where they lie, and what happens without them."""

import gradio as gr

from .. import inspection
from ..inspection import WAYS
from ..teaching import TeachSettings
from . import generate, gpu, html, owning, plots, probing
from .common import Shared, spoken

NOTHING = "Teach something first. Then this page shows which of the model's weights learned it, where they lie, and what the picture becomes without them."
NEARLY = (
    "{}'s neurons were chosen by the gradient of its loss, of which the session keeps the rows' and the columns' means: between them the sliders choose nearly, "
    "not exactly, what the gradient would."
)
LINKED = """(session, name) => { const first = !window.cnsLinked; window.cnsLinked = true;
    return [session, first ? new URLSearchParams(location.search).get('concept') || '' : '']; }"""
LINK = "(session, name, ...more) => { history.replaceState(null, '', '?concept=' + encodeURIComponent(name || '')); return [session, name, ...more]; }"


def build(base, store, shared: Shared) -> None:
    """Layout first, wiring below."""
    defaults, norms = TeachSettings.of(base), inspection.norms(base)
    selector = inspection.Selector(base, gpu.calibration)
    linked = gr.Textbox(visible=False)
    nothing = gr.HTML(html.empty(NOTHING))
    with gr.Column(visible=False) as page:
        name = gr.Dropdown(label="Concept", choices=[], elem_id="concept")
        numbers = gr.HTML()
        with gr.Row():
            with gr.Column(min_width=320):
                funnel = gr.HTML()
                gr.Markdown(
                    "**Other thresholds.** Nothing is trained here: the sliders choose neurons anew, as if the concepts had been taught so. rho is the share of "
                    "each matrix (by gradient: of all of them together) that counts as strong, gamma the share of unrelated prompts that makes a neuron general."
                )
                rho = gr.Slider(0.02, 0.6, defaults.base_share, step=0.02, label="rho: base neurons", elem_id="rho")
                gamma = gr.Slider(0, 1, defaults.general_share, step=0.05, label="gamma: general neurons", elem_id="gamma")
                other = gr.HTML(elem_id="other-score")
                as_taught = gr.Button("As taught", size="sm", elem_id="as-taught")
            with gr.Column(min_width=320):
                overlap = gr.HTML()
                growth = gr.HTML()
        with gr.Row():
            with gr.Column(min_width=320):
                by = gr.Radio(
                    [(f"by {words}", way) for way, words in WAYS.items()], value="block", label="Divide the network", elem_id="by"
                )
                where = gr.HTML()
            with gr.Column(min_width=320):
                updates = gr.HTML()
        gr.Markdown("**Silence it.** The same seed, drawn with the concept's neurons and with the untaught model's values in their place.")
        quiet = gr.Button("Draw with and without its neurons", size="sm", elem_id="silence")
        pair = gr.HTML()
        stop, status, *probings = probing.build(shared, name)
        owning.build(base, store, shared, name)

    def refresh(session, asked):
        names = [(c.words, c.name) for c in session.concepts] if session else []
        there = asked in [n for _, n in names]
        chosen = asked if there else names[-1][1] if names else None
        tab = gr.update(selected="inspect") if there else gr.skip()
        return (
            tab,
            gr.update(visible=not names),
            gr.update(visible=bool(names)),
            gr.update(choices=names, value=chosen),
            *show(session, chosen, "block"),
        )

    @spoken
    def show(session, name, by):
        if not session or not name:
            return "", "", "", "", "", "", defaults.base_share, defaults.general_share, "", ""
        s = session.concept(name).stats
        rows = [("base neurons", f"{s['base_neurons']:,}"), ("general, taken away", f"{s['general_removed']:,}"), ("concept neurons, trained", f"{s['neurons']:,}"),
                ("of the model", f"{s['share_of_model']:.2%}"), ("shared with earlier concepts", f"{s['shared_with_earlier']:,}")]  # fmt: skip
        drawn = inspection.growth(base, session), inspection.spread(base, session, by), inspection.updates(norms, session)
        return (
            html.facts(rows) + link(name),
            *taught(session, name),
            *map(plots.shown, drawn),
            defaults.base_share,
            defaults.general_share,
            "",
            html.note(NEARLY.format(f"<{name}>")) if session.concept(name).gradients else "",
        )

    def taught(session, name):
        return plots.shown(inspection.funnel(session, name), f"{name}-funnel"), plots.shown(inspection.overlap(session))

    @spoken
    def reselect(session, name, rho, gamma):
        if not session or not name:
            return "", ""
        if (rho, gamma) == (defaults.base_share, defaults.general_share):
            return taught(session, name)
        drawn = selector.plots(session, name, rho, gamma)
        return tuple(plots.shown(p, f"{name}-{p.key}-rho{rho:g}-gamma{gamma:g}") for p in drawn)

    def reset(session, name):
        return defaults.base_share, defaults.general_share, *reselect(session, name, defaults.base_share, defaults.general_share)

    @spoken
    def divide(session, by):
        return plots.shown(inspection.spread(base, session, by)) if session else ""

    @spoken
    def without(session, name, run):
        if not session or not name:
            raise ValueError("there is no concept to silence yet: teach one first")
        loud, silent = gpu.silence(session, name, gpu.Watch.of(run))
        return html.strip([(loud, "with its neurons"), (silent, "without them")], 176)

    views = [numbers, funnel, overlap, growth, where, updates, rho, gamma, pair, other]
    shared.known.change(refresh, [shared.session, linked], [shared.tabs, nothing, page, name, *views], js=LINKED, api_visibility="private")
    name.input(show, [shared.session, name, by], views, js=LINK, api_visibility="private")
    gr.on(
        [rho.input, gamma.input], reselect, [shared.session, name, rho, gamma], [funnel, overlap],
        trigger_mode="always_last", show_progress="minimal", show_progress_on=[other], api_visibility="private",
    )  # fmt: skip
    as_taught.click(reset, [shared.session, name], [rho, gamma, funnel, overlap], show_progress="hidden", api_visibility="private")
    by.input(divide, [shared.session, by], [where], show_progress="hidden", api_visibility="private")
    quieted = quiet.click(without, [shared.session, name, shared.run], [pair], concurrency_id="draw", api_visibility="private")
    stop.click(
        spoken(generate.stopped), [shared.run], [status], queue=False, show_progress="hidden", cancels=[quieted, *probings], api_visibility="private"
    )


def link(name: str) -> str:
    """A link that opens this page at concept `name`, in the browser that has the session."""
    return f'<p class="cns-note"><a href="?concept={html.esc(name)}" id="permalink">Link to this concept</a>, for the browser that has this session.</p>'
