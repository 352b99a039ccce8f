"""A base and a store in, the app out: three tabs over one session that each visitor has for himself.

Layout and wiring only; whatever needs the model is in `gpu`, whatever draws HTML in `html`.
"""

import secrets
from functools import partial

import gradio as gr

from . import api, generate, gpu, guide, html, inspect, jobs, keeping, plots, probing, signin, teach, temp
from .common import NO_STORE, Shared, mark, showing

HEAD = """<div class="cns-head"><h1>CNS Studio</h1>
<p>Show it a few pictures of your thing, give it a name, and draw it anywhere &ndash; then teach the next one: nothing is forgotten.</p></div>"""

CSS = """
.gradio-container { width: 100% !important; max-width: 1180px !important; margin: 0 auto !important; }
.cns-head h1 { margin: 0; font-size: 1.5rem; letter-spacing: -0.02em; }
.cns-head p { margin: .15rem 0 0; color: var(--body-text-color-subdued); }
.cns-knows { font-size: .92rem; color: var(--body-text-color-subdued); padding: .15rem 0; }
.cns-knows b { color: var(--body-text-color); font-weight: 600; }
.cns-strip { display: flex; flex-wrap: wrap; gap: .75rem; }
.cns-strip figure { margin: 0; width: min(var(--side, 112px), calc(50% - .375rem)); }
.cns-strip img { width: 100%; aspect-ratio: 1; border-radius: 10px; display: block; border: 1px solid var(--border-color-primary); }
.cns-strip figcaption { font-size: .8rem; line-height: 1.3; margin-top: .25rem; color: var(--body-text-color-subdued); overflow-wrap: anywhere; }
.cns-bar { height: 8px; border-radius: 4px; background: var(--border-color-primary); overflow: hidden; margin: .35rem 0 .5rem; }
.cns-bar div { height: 100%; background: var(--color-accent); transition: width .3s; }
.cns-live { display: flex; gap: 1rem; flex-wrap: wrap; align-items: flex-start; }
.cns-live svg { flex: 1 1 260px; height: 130px; }
.cns-chip { white-space: nowrap; width: auto !important; flex: 0 0 auto !important; }
.cns-chips { gap: .4rem !important; }
.cns-step { margin: .2rem 0 -.3rem; overflow: visible !important; }
.cns-empty { padding: 1.4rem; border: 1px dashed var(--border-color-primary); border-radius: 12px; color: var(--body-text-color-subdued); text-align: center; }
.cns-memory { display: flex; gap: 1.5rem; flex-wrap: wrap; }
.cns-memory > div { min-width: 236px; }
.cns-facts { display: flex; gap: 1.6rem; flex-wrap: wrap; margin: .2rem 0 .4rem; }
.cns-facts div { line-height: 1.25; }
.cns-facts b { display: block; font-size: 1.25rem; font-weight: 600; }
.cns-facts span { font-size: .82rem; color: var(--body-text-color-subdued); }
.cns-note { color: var(--body-text-color-subdued); font-size: .92rem; }
#ready, #pictures, #plain, .cns-grid .gallery-container, .cns-grid .grid-wrap { height: auto !important; min-height: 0 !important; max-height: none !important; }
#ready .grid-container, #images .grid-container { grid-template-columns: repeat(auto-fill, minmax(88px, 1fr)) !important; }
#head { position: relative; }
#start-over { position: absolute; right: 0; top: .35rem; width: 110px; z-index: 1; }
#ready .caption-label { font-size: .7rem; padding: 1px 6px; max-width: calc(100% - 8px); right: 4px; bottom: 4px; }
#kept { margin-top: -2.3rem; min-height: 2.6rem; }
#what-remains:not(:has(p)) { display: none; }
#bring-back, #undo, #open-key, #open-name, #rename, #forget, #reorder, #merge, #merge-file, #export, #stop-export, #exported { align-self: center; }
#kept a { color: inherit; }
#your-session { margin-bottom: .4rem; }
#new-seed { align-self: flex-end; flex: 0 0 auto; margin-bottom: .6rem; }
#price, #stops { height: 3rem; align-items: center; overflow: hidden; }
#price p { margin: 0; }
#guess { min-height: 86px; }
#guess .wrap { flex-wrap: nowrap; overflow-x: auto; }
#guess label { flex: 0 0 auto; }
#seen { min-height: 120px; }
#seen .cns-strip { display: grid; grid-template-columns: repeat(5, minmax(0, 88px)); }
#seen figure { width: auto; }
#queue { min-height: 1.2rem; height: 1.2rem; padding: 0; }
[data-testid="status-tracker"]:has(.error) { display: none !important; } /* the message itself is enough */
.show-api-divider { display: none; }
button[role="tab"].selected { color: var(--body-text-color) !important; font-weight: 600; }
@media (max-width: 640px) { button[role="tab"] { padding-inline: 11px !important; } }
footer :is(a, button) { color: var(--body-text-color-subdued) !important; opacity: 1; }
"""

THEME = gr.themes.Default(
    primary_hue="indigo", secondary_hue="slate", neutral_hue="slate", radius_size="lg",
    font=["system-ui", "-apple-system", "Segoe UI", "sans-serif"], font_mono=["ui-monospace", "monospace"],
).set(
    body_text_color_subdued="*neutral_500", body_text_color_subdued_dark="*neutral_400",  # 4.5:1 on the page, as all below on theirs
    button_primary_background_fill="*primary_600", button_primary_background_fill_hover="*primary_700",
    button_cancel_background_fill="#dc2626", button_cancel_background_fill_hover="#b91c1c",
    link_text_color="*primary_600", link_text_color_hover="*primary_700", link_text_color_active="*primary_600", link_text_color_visited="*primary_600",
    link_text_color_dark="*primary_300", link_text_color_hover_dark="*primary_200", link_text_color_active_dark="*primary_300", link_text_color_visited_dark="*primary_300",
)  # fmt: skip
LOOK = {"theme": THEME, "css": CSS + guide.CSS + jobs.CSS + plots.CSS + probing.CSS, "head": guide.HEAD + plots.HEAD, "footer_links": ["gradio", "settings"]}


def build(base, store=None, people=None, space=None) -> gr.Blocks:
    """The app on `base`; sessions are kept in `store` (None: in memory only).

    With `people` (a `store.people.People`) visitors can sign in: only where Gradio can ask Hugging Face, which is on a Space.
    They can teach on HF Jobs, with the code of the Space `space` (`owner/name`).
    """
    gpu.use(base)
    door = signin.Door(people)
    with gr.Blocks(title="CNS Studio", analytics_enabled=False, delete_cache=(3600, 3600)) as demo:
        shared = Shared(
            session=gr.State(None), run=gr.State(None), known=gr.State(()), kept=gr.State(None), linked=gr.State(""),
            key=gr.BrowserState("", storage_key="cns-session", secret=store.secret() if store else None),
            keyed=door.keyed,
        )  # fmt: skip
        with gr.Row(elem_id="head"):
            gr.HTML(HEAD)
            shared.restart = gr.Button("Start over", size="sm", scale=0, min_width=110, elem_id="start-over")
        shared.line = gr.HTML(html.knows(None, base), elem_id="knows")
        keeping.build(base, store, shared, people)
        steps = guide.build(shared)
        with gr.Tabs() as shared.tabs:
            with gr.Tab("Teach", id="teach"):
                lesson = teach.build(base, store, shared, partial(jobs.build, base, store, shared, door, space) if people and space else None)
            with gr.Tab("Generate", id="generate"):
                prompt, drawing = generate.build(base, shared)
            with gr.Tab("Inspect Neurons", id="inspect"):
                inspect.build(base, store, shared)
        guide.wire(steps, shared, lesson, prompt, drawing)
        api.build(base, store)
        temp.swept(demo)
        opened(demo, Opening(base, store, door), shared)
    demo.default_config.blocks = Steady(demo.default_config.blocks)
    for event in demo.fns.values():  # the login button's own would be offered to programs
        if event.name == "_check_login_status":
            event.api_visibility = "private"
    return demo


class Steady(dict):
    """A page's components by id, listed as they are at one moment.

    Gradio lists them in one thread, for a part of the page that it draws anew, while in another it adds one: what an update
    changed gets a new id when it is next an input. A plain dict then ends the drawing with "dictionary changed size during iteration".
    """

    def values(self):
        return [*super().values()]


class Opening:
    """What a page shows when it is opened, and when it starts over; `text` is what it holds for its session."""

    def __init__(self, base, store, door: signin.Door):
        self.base, self.store, self.door = base, store, door
        self.note = "" if store else NO_STORE

    def resume(self, text, request: gr.Request):
        session, said = None, ""
        key = text = text if self.door.takes(text) else secrets.token_hex(16)
        if self.store:
            try:
                key = self.door.key(text, request)
                session = self.store.load(key, self.base)
            except (ValueError, OSError) as error:
                said = f"Your earlier session was not opened: {error}"
        linked = request.query_params.get("concept", "")
        if linked and not inspect.knows(session, linked):
            said, linked = said or inspect.elsewhere(linked), ""
        known = html.words(session), html.knows(session, self.base, said), mark(self.note)
        return session, secrets.token_hex(16), text, *known, *teach.drafted(self.store, key), linked

    def start_over(self, run_id, key):
        temp.made(gpu.flag(run_id, "drop")).touch()  # what is being taught right now ends with the old session
        text = signin.another(self.store, key) or secrets.token_hex(16)
        session, *known = showing(None, self.base, self.note)
        return session, secrets.token_hex(16), text, *known


def opened(demo: gr.Blocks, opening: Opening, shared: Shared) -> None:
    """The events of opening the page and of starting over."""
    private = {"show_progress": "hidden", "api_visibility": "private"}
    states = [shared.session, shared.run, shared.key, shared.known, shared.line, shared.kept]
    # both in the queue: out of it, a changed gr.State does not fire its `change`
    loaded = signin.arriving(demo, opening.door, opening.store, shared) if opening.door.people else demo.load
    loaded(opening.resume, [shared.key], [*states, *shared.offer, shared.linked], **private)
    shared.restart.click(  # type: ignore[union-attr]
        shared.keyed(opening.start_over), [shared.run, shared.key], states,
        js="(run, key) => { if (!confirm('Begin an empty session? This page forgets what it was taught; with its resume key it can be opened again.')) throw new Error('kept'); return [run, key]; }", **private,
    )  # fmt: skip
