"""The Teach tab: pictures, a name and a class word in; a session that knows the thing out."""

import json
from pathlib import Path

import gradio as gr

from ..concept import Concept, check
from ..images import load_images, square
from ..teaching import TeachSettings
from . import gpu, html
from .common import Shared, spoken

READY = Path(__file__).parents[2] / "assets" / "concepts"


def ready_concepts(folder: Path) -> list[dict]:
    """The `concept.json` of every ready concept, with full paths."""
    found = [(f.parent, json.loads(f.read_text())) for f in sorted(folder.glob("*/concept.json"))]
    return [{**about, "images": [str(at / i) for i in about["images"]]} for at, about in found]


def build(base, store, shared: Shared, folder=None) -> None:
    """Layout first, wiring below."""
    ready = ready_concepts(folder or READY)
    defaults = TeachSettings.of(base)
    with gr.Row():
        with gr.Column(scale=5):
            gr.Markdown("**1. Pick a ready thing**", elem_classes="cns-step")
            picks = gr.Gallery(
                [c["images"][1] for c in ready], label="Ready things", show_label=False, columns=5, allow_preview=False, object_fit="cover",
                interactive=False, elem_id="ready", elem_classes="cns-grid", buttons=[], format="png",
            )  # fmt: skip
            gr.Markdown("**...or drop 1 to 10 pictures of your own** (files, clipboard, webcam)", elem_classes="cns-step")
            images = gr.Gallery(
                label="Your pictures", show_label=False, type="filepath", interactive=True, columns=5, height=150, object_fit="cover",
                sources=["upload", "clipboard", "webcam"], file_types=["image"], elem_id="images", buttons=[],
            )  # fmt: skip
            gr.Markdown("**What the model sees**", elem_classes="cns-step")
            seen = gr.HTML(html.empty("Your pictures, cropped to the square that it learns from."), elem_id="seen")
        with gr.Column(scale=5):
            with gr.Row():
                name = gr.Textbox(label="2. Name it", placeholder="rex", max_lines=1, max_length=64, elem_id="name")
                word = gr.Textbox(label="What kind of thing?", placeholder="dog face", max_lines=1, max_length=64, elem_id="word")
            guess = gr.Radio(label="Suggested from your pictures", visible=False, elem_id="guess")
            with gr.Accordion("Advanced", open=False):
                steps = gr.Slider(10, 1000, defaults.steps, step=10, label="Training steps", elem_id="steps")
                seed = gr.Number(0, label="Seed", precision=0, minimum=0)
            teach = gr.Button("3. Teach", variant="primary", elem_id="teach")
            with gr.Row(visible=False) as stops:
                keep = gr.Button("Stop and keep what it learned", elem_id="stop-keep")
                drop = gr.Button("Stop and discard", elem_id="stop-drop")
            live = gr.HTML(html.empty("While it learns, you see here how far it is and how well it draws your thing."), elem_id="live")
            result = gr.HTML(elem_id="result")

    def pick(event: gr.SelectData):
        chosen = ready[event.index]
        return chosen["images"], chosen["name"], chosen["class_word"]

    @spoken
    def view(files):
        if not files:
            return html.empty("Your pictures, cropped to the square that it learns from."), gr.update(visible=False)
        pictures = [square(i, base.size) for i in load_images([path for path, _ in files])]
        fits = [w for w, _ in base.scorer.suggest(pictures, base.class_words)] if base.scorer else []
        return html.strip([(p, "") for p in pictures], 88), gr.update(choices=fits, value=None, visible=bool(fits))

    @spoken
    def run(files, name, word, steps, seed, session, run_id, key):
        concept = Concept(name, word, load_images([path for path, _ in files or []]))
        check(base, session, concept)
        gpu.clear(run_id)
        settings = TeachSettings.of(base, steps=int(steps), seed=int(seed or 0))
        busy = {teach: gr.update(interactive=False), stops: gr.update(visible=True), result: ""}
        idle = {teach: gr.update(interactive=True), stops: gr.update(visible=False)}
        losses, preview = [], None
        events = gpu.teach(session, concept, settings, run_id)
        try:
            for event in events:
                losses += [event.loss] if event.loss is not None and event.stage == "train" else []
                preview = event.preview or preview
                if gpu.flag(run_id, "drop").exists():
                    yield {**idle, live: html.empty("Stopped: nothing of it was kept."), result: ""}
                    return
                if event.session:
                    break
                yield {**busy, live: html.progress(event, losses, preview)}
        except Exception:
            yield {**idle, live: ""}
            raise
        finally:
            events.close()
        note = keep_session(store, key, event.session)
        yield {
            **idle, live: "", result: html.taught(event), shared.session: event.session,
            shared.known: html.words(event.session), shared.line: html.knows(event.session, base, note),
        }  # fmt: skip

    @spoken
    def stop(run_id, what):
        gpu.flag(run_id, what).touch()

    picks.select(pick, None, [images, name, word], queue=False, api_visibility="private").then(
        view, [images], [seen, guess], concurrency_id="look", api_visibility="private"
    )
    gr.on([images.upload, images.delete], view, [images], [seen, guess], concurrency_id="look", api_visibility="private")
    guess.select(lambda w: w, [guess], [word], queue=False, api_visibility="private")
    teach.click(
        run, [images, name, word, steps, seed, shared.session, shared.run, shared.key],
        [teach, stops, live, result, shared.session, shared.known, shared.line],
        concurrency_id="teach", concurrency_limit=4, show_progress="hidden", api_visibility="private",
    )  # fmt: skip
    for button, what in ((keep, "keep"), (drop, "drop")):
        button.click(lambda run_id, what=what: stop(run_id, what), [shared.run], None, queue=False, api_visibility="private")


def keep_session(store, key, session) -> str:
    """Save, and say how it went; a session that could not be saved is still there in this page."""
    if not store:
        return "not saved: it lives as long as this page"
    try:
        store.save(key, session)
    except (OSError, ValueError) as error:
        return f"not saved: {error}"
    return "saved"
