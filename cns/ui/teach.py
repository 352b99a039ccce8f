"""The Teach tab: pictures, a name and a class word in; a session that knows the thing out."""

import itertools
import json
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import gradio as gr

from ..concept import AlreadyTaught, Concept, check
from ..images import load_images, square
from ..session import Session
from ..store import Draft
from ..teaching import Progress, TeachSettings
from . import gpu, html, temp, zerogpu
from .common import Shared, keep_session, mark, spoken

KEEP, DROP = "Stop and keep", "Stop and discard"
STOPPED = "Stopped: nothing of it was kept, what was known before is as it was."
READY = Path(__file__).parents[2] / "assets" / "concepts"


def ready_concepts(folder: Path) -> list[dict]:
    """The `concept.json` of every ready concept, with full paths."""
    found = [(f.parent, json.loads(f.read_text())) for f in sorted(folder.glob("*/concept.json"))]
    return [{**about, "images": [str(at / i) for i in about["images"]]} for at, about in found]


def build(base, store, shared: Shared, folder=None, rent=None):
    """Layout first, wiring below. Returns what teaches a ready thing, by name, after an event.

    `rent` builds what teaches the same inputs on another machine.
    """
    ready = ready_concepts(folder or READY)
    defaults = TeachSettings.of(base)
    with gr.Row(visible=False, elem_id="draft") as offer:
        offered = gr.HTML()
        back = gr.Button("Put them back", size="sm", scale=0, min_width=130, elem_id="draft-back")
        forget = gr.Button("Discard", size="sm", scale=0, min_width=90)
    with gr.Row():
        with gr.Column(scale=5):
            gr.Markdown("**1. Pick a ready thing**", elem_classes="cns-step")
            picks = gr.Gallery(
                [(c["images"][1], c["class_word"]) for c in ready], label="Ready things", show_label=False, columns=5, allow_preview=False, object_fit="cover",
                interactive=False, elem_id="ready", elem_classes="cns-grid", buttons=[], format="png",
            )  # fmt: skip
            gr.Markdown("**...or drop 1 to 10 pictures of your own** (files, clipboard, webcam)", elem_classes="cns-step")
            images = gr.Gallery(
                label="Your pictures", show_label=False, type="filepath", interactive=True, columns=5, height=150, object_fit="cover",
                format="png", sources=["upload", "clipboard", "webcam"], file_types=["image"], elem_id="images", buttons=[],
            )  # fmt: skip
            gr.Markdown("**What the model sees**", elem_classes="cns-step")
            seen = gr.HTML(html.empty("Your pictures, cropped to the square that it learns from."), elem_id="seen")
        with gr.Column(scale=5):
            with gr.Row():
                name = gr.Textbox(label="2. Name it", placeholder="rex", max_lines=1, max_length=64, elem_id="name")
                word = gr.Textbox(label="What kind of thing?", placeholder="dog face", max_lines=1, max_length=64, elem_id="word")
            guess = gr.Radio(label="Suggested from your pictures", visible=bool(base.scorer), elem_id="guess")
            with gr.Accordion("Advanced", open=False):
                steps = gr.Slider(10, 1000, defaults.steps, step=10, label="Training steps", elem_id="steps")
                seed = gr.Number(0, label="Seed", precision=0, minimum=0)
            teach = gr.Button("3. Teach", variant="primary", elem_id="teach")
            price = gr.HTML(elem_id="price")
            with gr.Row(visible=False, elem_id="stops") as stops:  # in the place of the price
                keep = gr.Button(KEEP, size="sm", elem_id="stop-keep")
                drop = gr.Button(DROP, size="sm", elem_id="stop-drop")
            paused = gr.State(None)
            with gr.Row(visible=False) as taken:
                more = gr.Button("Teach it these pictures, too", size="sm", elem_id="more")
                again = gr.Button(size="sm", elem_id="again")
            queue = gr.HTML(elem_id="queue")
            live = gr.HTML(html.empty("While it learns, you see here how far it is and how well it draws your thing."), elem_id="live")
            result = gr.HTML(elem_id="result")
            if rent:
                rent([images, name, word, steps, seed])

    def pick(event: gr.SelectData):
        return filled(ready[event.index])

    @spoken
    def view(files):
        if not files:
            return html.empty("Your pictures, cropped to the square that it learns from."), gr.update(choices=[], value=None)
        pictures = [square(i, base.size) for i in load_images([path for path, _ in files])]
        fits = gpu.suggest(pictures)
        return html.strip([(p, "") for p in pictures], 88), gr.update(choices=fits, value=None)

    def run(files, name, word, steps, seed, session, run_id, key, paused_at, more=False):
        concept = Concept(name, word, load_images([path for path, _ in files or []]))
        try:
            check(base, session, concept, more)
        except AlreadyTaught:
            yield {taken: gr.update(visible=True), again: f"Teach it as <{free_name(concept.name, session)}> instead"}
            raise
        gpu.clear(run_id)
        steps = int(steps)
        keep_draft(store, key, files, name, word, steps, int(seed or 0))
        settings = TeachSettings.of(base, steps=steps, seed=int(seed or 0))
        asleep = teach, shared.restart, shared.lesson, *shared.asleep
        busy = {**{b: gr.update(interactive=False) for b in asleep}, stops: gr.update(visible=True), price: gr.update(visible=False), result: "", taken: gr.update(visible=False)}
        idle = {**{b: gr.update(interactive=True) for b in asleep}, shared.lesson: gr.update(interactive=not html.words(session)), stops: gr.update(visible=False),
                price: gr.update(visible=True), offer: gr.update(visible=False), keep: gr.update(value=KEEP, interactive=True), drop: gr.update(value=DROP, interactive=True)}  # fmt: skip
        losses, preview = [], None
        progress = paused_at.progress if paused_at and paused_at.fits(session, concept, settings, more) else None
        events = gpu.learn(session, concept, settings, run_id, more, progress)
        try:
            for event in events:
                progress = event.progress or progress
                losses += [event.loss] if event.loss is not None and event.stage == "train" else []
                preview = event.preview or preview
                if event.stage == "stopped":
                    drop_draft(store, key)
                    yield {**idle, live: html.empty(STOPPED), result: "", paused: None}
                    return
                if event.session:
                    break
                yield {**busy, live: html.progress(event, losses, preview)}
        except Exception:
            left = Paused(session, concept, settings, more, progress) if progress else None
            yield {**idle, live: html.empty(left.words) if left else "", paused: left}
            raise
        finally:
            events.close()
        note = keep_session(store, key, event.session, "teach", concept.name, session)
        drop_draft(store, key)
        yield {
            **idle, live: "", paused: None, result: html.taught(event), shared.session: event.session,
            shared.known: html.words(event.session), shared.line: html.knows(event.session, base), shared.kept: mark(note),
        }  # fmt: skip

    @spoken
    def stop(what, run_id):
        temp.made(gpu.flag(run_id, what)).touch()
        stopping, other = gr.update(value="Stopping...", interactive=False), gr.update(interactive=False)
        return (stopping, other) if what == "keep" else (other, stopping)

    @shared.keyed
    def put_back(key):
        if not (draft := store.draft(key)):
            raise ValueError("these pictures are no longer here: choose them again")
        about = draft.settings
        return load_images(draft.images), about.get("name", ""), about.get("word", ""), about.get("steps", defaults.steps), about.get("seed", 0), gr.update(visible=False)

    @shared.keyed
    def discard(key):
        drop_draft(store, key)
        return gr.update(visible=False)

    look = {"concurrency_id": "look", "concurrency_limit": 2, "show_progress_on": [seen], "api_visibility": "private"}
    picks.select(pick, None, [images, name, word], queue=False, api_visibility="private").then(
        view, [images], [seen, guess], **look
    )
    gr.on([images.upload, images.delete], view, [images], [seen, guess], **look)
    guess.select(lambda w: w, [guess], [word], queue=False, api_visibility="private")
    teaching = {
        "fn": shared.keyed(run), "inputs": [images, name, word, steps, seed, shared.session, shared.run, shared.key, paused],
        "outputs": [teach, paused, taken, again, stops, price, keep, drop, live, result, shared.session, shared.known, shared.line, shared.restart, shared.lesson, shared.kept, offer, *shared.asleep],
        "concurrency_id": "teach", "concurrency_limit": 4, "show_progress": "minimal", "show_progress_on": [queue], "api_visibility": "private",
    }  # fmt: skip
    teach.click(**teaching)
    more.click(**{**teaching, "fn": shared.keyed(partial(run, more=True))})
    again.click(spoken(free_name), [name, shared.session], [name], queue=False, api_visibility="private").then(**teaching)
    name.change(lambda: gr.update(visible=False), None, [taken], queue=False, show_progress="hidden", api_visibility="private")
    shared.known.change(lambda known: gr.skip() if known else "", [shared.known], [result], queue=False, api_visibility="private")
    back.click(put_back, [shared.key], [images, name, word, steps, seed, offer], api_visibility="private").then(view, [images], [seen, guess], **look)
    forget.click(discard, [shared.key], [offer], queue=False, api_visibility="private")
    shared.offer = offer, offered

    def lesson(start, name_of_it: str):
        chosen = next((c for c in ready if c["name"] == name_of_it), ready[0])
        there = start.then(lambda: filled(chosen), None, [images, name, word], queue=False, api_visibility="private")
        there.then(view, [images], [seen, guess], **look).then(**teaching)

    gr.on(None, cost, [steps, shared.known], [price], show_progress="hidden", api_visibility="private")
    for button, what in ((keep, "keep"), (drop, "drop")):
        button.click(partial(stop, what), [shared.run], [keep, drop], queue=False, show_progress="hidden", api_visibility="private")
    return lesson


def filled(chosen: dict) -> tuple:
    """The pictures (Gradio takes no paths outside its folders), the name and the class word of a ready concept."""
    return load_images(chosen["images"]), chosen["name"], chosen["class_word"]


@dataclass(frozen=True)
class Paused:
    """A teaching that the platform ended: it goes on when the same is asked for again."""

    session: Session | None
    concept: Concept
    settings: TeachSettings
    more: bool
    progress: Progress

    @property
    def words(self) -> str:
        kept = f"{self.progress.step} of {self.settings.steps} steps of {self.concept.token} are kept while this page is open"
        return html.esc(f"{kept}: press Teach again to go on from there.")

    def fits(self, session, concept: Concept, settings: TeachSettings, more: bool) -> bool:
        same = (self.concept.words, self.settings, self.more) == (concept.words, settings, more)
        pictures = [[p.tobytes() for p in c.images] for c in (self.concept, concept)]
        return same and pictures[0] == pictures[1] and _known(self.session) == _known(session)


def _known(session) -> tuple:
    """What tells a session's states apart."""
    return () if session is None else (session.tokens, [c.vector.tolist() for c in session.concepts], len(session.delta))


def cost(steps: float, known) -> str:
    """How long it will take, said before it is begun; `known`: what the session knows."""
    return html.note(zerogpu.priced(gpu.pace, int(steps), len(known)))


def free_name(name: str, session) -> str:
    """`name` with the first number that makes it new: rex -> rex2 -> rex3."""
    stem, taken = (name or "").strip().lower().rstrip("0123456789"), {c.name for c in session.concepts} if session else set()
    return next(n for i in itertools.count(2) if (n := f"{stem}{i}") not in taken)


def keep_draft(store, key, files, name, word, steps, seed) -> None:
    """What is about to be taught, in case this page or the program ends before it is; a disk that refuses does not stop the teaching."""
    if store:
        with suppress(OSError, ValueError):
            store.keep_draft(key, Draft([Path(path).read_bytes() for path, _ in files], {"name": name, "word": word, "steps": steps, "seed": seed}))


def drop_draft(store, key) -> None:
    if store:
        with suppress(OSError):
            store.drop_draft(key)


def drafted(store, key):
    """(a row's update, the words that offer the draft of `key`): hidden when there is none."""
    draft = store.draft(key) if store else None
    name = str(draft.settings.get("name", ""))[:64] if draft else ""
    words = f"You were about to teach <b>{html.esc(name)}</b> when this page ended. Its pictures are still here." if draft else ""
    return gr.update(visible=bool(draft)), f'<p class="cns-note">{words}</p>'
