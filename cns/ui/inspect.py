"""The Inspect Neurons tab: which weights a concept changed, where they lie, and what happens without them."""

import gradio as gr

from .. import figures
from . import gpu, html, owning
from .common import Shared, spoken

NOTHING = "Teach something first. Then this page shows which of the model's weights learned it, where they lie, and what the picture becomes without them."


def build(base, store, shared: Shared) -> None:
    """Layout first, wiring below."""
    nothing = gr.HTML(html.empty(NOTHING))
    with gr.Column(visible=False) as page:
        name = gr.Dropdown(label="Concept", choices=[], elem_id="concept")
        numbers = gr.HTML()
        with gr.Row():
            with gr.Column(min_width=320):
                gr.Markdown(
                    "**The funnel.** Every cross-attention layer reads the prompt through a key (K) and a value (V) matrix. A whole bar is the share of a "
                    "matrix that responds strongly to this concept; what responds to any prompt is taken away; the blue rest was trained."
                )
                funnel = gr.Plot(show_label=False, format="png")
            with gr.Column(min_width=320):
                gr.Markdown("**Where it lives.** How the concept's neurons spread over the network: down and up blocks see coarse to fine structure, mid sees the whole.")
                location = gr.Plot(show_label=False, format="png")
                gr.Markdown("**What concepts share.** Few shared neurons mean that teaching one leaves the other alone. With two concepts or more, a map of what they share appears here.")
                overlap = gr.Plot(show_label=False, format="png")
        gr.Markdown("**Silence it.** The same seed, drawn with the concept's neurons and with the untaught model's values in their place.")
        quiet = gr.Button("Draw with and without its neurons", size="sm", elem_id="silence")
        pair = gr.HTML()
        owning.build(base, store, shared, name)

    def refresh(session):
        names = [(c.words, c.name) for c in session.concepts] if session else []
        chosen = names[-1][1] if names else None
        return gr.update(visible=not names), gr.update(visible=bool(names)), gr.update(choices=names, value=chosen), *show(session, chosen)

    @spoken
    def show(session, name):
        if not session or not name:
            return "", None, None, None, ""
        s = session.concept(name).stats
        rows = [("base neurons", f"{s['base_neurons']:,}"), ("general, taken away", f"{s['general_removed']:,}"), ("concept neurons, trained", f"{s['neurons']:,}"),
                ("of the model", f"{s['share_of_model']:.2%}"), ("shared with earlier concepts", f"{s['shared_with_earlier']:,}")]  # fmt: skip
        both = gr.update(value=figures.overlap(session) if len(session.concepts) > 1 else None, visible=len(session.concepts) > 1)
        return html.facts(rows), figures.funnel(base, session, name), figures.location(session, name), both, ""

    @spoken
    def without(session, name):
        if not session or not name:
            raise ValueError("there is no concept to silence yet: teach one first")
        loud, silent = gpu.silence(session, name)
        return html.strip([(loud, "with its neurons"), (silent, "without them")], 176)

    views = [numbers, funnel, location, overlap, pair]
    shared.known.change(refresh, [shared.session], [nothing, page, name, *views], api_visibility="private")
    name.input(show, [shared.session, name], views, api_visibility="private")
    quiet.click(without, [shared.session, name], [pair], concurrency_id="draw", api_visibility="private")
