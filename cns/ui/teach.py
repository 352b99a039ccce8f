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
UNSEEN = "Your pictures, cropped to the square that it learns from."
STOPPED = "Stopped: nothing of it was kept, what was known before is as it was."
READY = Path(__file__).parents[2] / "assets" / "concepts"


def ready_concepts(folder: Path) -> list[dict]:
    """The `concept.json` of every ready concept, with full paths."""
    found = [(f.parent, json.loads(f.read_text())) for f in sorted(folder.glob("*/concept.json"))]
    return [{**about, "images": [str(at / i) for i in about["images"]]} for at, about in found]


def build(base, store, shared: Shared, rent=None):
    """Returns what teaches a ready thing, by name, after an event. `rent` builds what teaches the same inputs on another machine."""
    ready = ready_concepts(READY)
    page = Layout(base, ready, rent)
    shared.offer = page.offer, page.offered
    return wired(page, Desk(base, store, shared, page, ready), shared)


class Layout:
    """What the tab shows."""

    def __init__(self, base, ready: list[dict], rent):
        with gr.Row(visible=False, elem_id="draft") as self.offer:
            self.offered = gr.HTML()
            self.back = gr.Button("Put them back", size="sm", scale=0, min_width=130, elem_id="draft-back")
            self.forget = gr.Button("Discard", size="sm", scale=0, min_width=90)
        with gr.Row():
            with gr.Column(scale=5):
                self._pictures(ready)
            with gr.Column(scale=5):
                self._words(base)
                self._course()
                self.thing = [self.images, self.name, self.word]
                self.lesson = [*self.thing, self.steps, self.seed]
                if rent:
                    rent(self.lesson)

    def _pictures(self, ready):
        gr.Markdown("**1. Pick a ready thing**", elem_classes="cns-step")
        self.picks = gr.Gallery(
            [(c["images"][1], c["class_word"]) for c in ready], label="Ready things", show_label=False, columns=5, allow_preview=False, object_fit="cover",
            interactive=False, elem_id="ready", elem_classes="cns-grid", buttons=[], format="png",
        )  # fmt: skip
        gr.Markdown("**...or drop 1 to 10 pictures of your own** (files, clipboard, webcam)", elem_classes="cns-step")
        self.images = gr.Gallery(
            label="Your pictures", show_label=False, type="filepath", interactive=True, columns=5, height=150, object_fit="cover",
            format="png", sources=["upload", "clipboard", "webcam"], file_types=["image"], elem_id="images", buttons=[],
        )  # fmt: skip
        gr.Markdown("**What the model sees**", elem_classes="cns-step")
        self.seen = gr.HTML(html.empty(UNSEEN), elem_id="seen")

    def _words(self, base):
        with gr.Row():
            self.name = gr.Textbox(label="2. Name it", placeholder="rex", max_lines=1, max_length=64, elem_id="name")
            self.word = gr.Textbox(label="What kind of thing?", placeholder="dog face", max_lines=1, max_length=64, elem_id="word")
        self.guess = gr.Radio(label="Suggested from your pictures", visible=bool(base.scorer), elem_id="guess")
        with gr.Accordion("Advanced", open=False):
            self.steps = gr.Slider(10, 1000, TeachSettings.of(base).steps, step=10, label="Training steps", elem_id="steps")
            self.seed = gr.Number(0, label="Seed", precision=0, minimum=0)

    def _course(self):
        self.teach = gr.Button("3. Teach", variant="primary", elem_id="teach")
        self.price = gr.HTML(elem_id="price")
        with gr.Row(visible=False, elem_id="stops") as self.stops:  # in the place of the price
            self.keep = gr.Button(KEEP, size="sm", elem_id="stop-keep")
            self.drop = gr.Button(DROP, size="sm", elem_id="stop-drop")
        self.paused = gr.State(None)
        with gr.Row(visible=False) as self.taken:
            self.more = gr.Button("Teach it these pictures, too", size="sm", elem_id="more")
            self.again = gr.Button(size="sm", elem_id="again")
        self.queue = gr.HTML(elem_id="queue")
        self.live = gr.HTML(html.empty("While it learns, you see here how far it is and how well it draws your thing."), elem_id="live")
        self.result = gr.HTML(elem_id="result")


class Desk:
    """What the tab's controls do."""

    def __init__(self, base, store, shared: Shared, page: Layout, ready: list[dict]):
        self.base, self.store, self.shared, self.page, self.ready = base, store, shared, page, ready

    def pick(self, event: gr.SelectData):
        return filled(self.ready[event.index])

    @spoken
    def view(self, files):
        """(what the model sees of the pictures, the class words that fit)"""
        if not files:
            return html.empty(UNSEEN), gr.update(choices=[], value=None)
        pictures = [square(i, self.base.size) for i in load_images([path for path, _ in files])]
        fits = gpu.suggest(pictures)
        return html.strip([(p, "") for p in pictures], 88), gr.update(choices=fits, value=None)

    def run(self, files, name, word, steps, seed, session, run_id, key, paused_at, more=False):
        """Yields updates of the page, by component, until the thing is learned and kept or the teaching was stopped."""
        page, steps, seed = self.page, int(steps), int(seed or 0)
        concept = Concept(name, word, load_images([path for path, _ in files or []]))
        try:
            check(self.base, session, concept, more)
        except AlreadyTaught:
            yield {page.taken: gr.update(visible=True), page.again: f"Teach it as <{free_name(concept.name, session)}> instead"}
            raise
        gpu.clear(run_id)
        keep_draft(self.store, key, files, name, word, steps, seed)
        settings = TeachSettings.of(self.base, steps=steps, seed=seed)
        progress = paused_at.progress if paused_at and paused_at.fits(session, concept, settings, more) else None
        last = yield from self._learned(session, concept, settings, more, progress, run_id)
        if last.stage == "stopped":
            end = {page.live: html.empty(STOPPED), page.result: ""}
        else:
            end = self._kept(last, keep_session(self.store, key, last.session, "teach", concept.name, session))
        drop_draft(self.store, key)
        yield {**self._idle(session), page.paused: None, **end}

    def _learned(self, session, concept, settings, more, progress, run_id):
        """Yields how far it is; returns the last event. After an error the page holds what the teaching can go on from."""
        page, losses, preview = self.page, [], None
        events = gpu.learn(session, concept, settings, run_id, more, progress)
        try:
            for event in events:
                progress = event.progress or progress
                losses += [event.loss] if event.loss is not None and event.stage == "train" else []
                preview = event.preview or preview
                if event.session or event.stage == "stopped":
                    return event
                yield {**self._busy(), page.live: html.progress(event, losses, preview)}
        except Exception:
            left = Paused(session, concept, settings, more, progress) if progress else None
            yield {**self._idle(session), page.live: html.empty(left.words) if left else "", page.paused: left}
            raise
        finally:
            events.close()

    def _asleep(self, interactive: bool) -> dict:
        return {b: gr.update(interactive=interactive) for b in (self.page.teach, self.shared.restart, self.shared.lesson, *self.shared.asleep)}

    def _busy(self) -> dict:
        page, gone = self.page, gr.update(visible=False)
        return {**self._asleep(False), page.stops: gr.update(visible=True), page.price: gone, page.taken: gone, page.result: ""}

    def _idle(self, session) -> dict:
        page, gone = self.page, gr.update(visible=False)
        return {
            **self._asleep(True), self.shared.lesson: gr.update(interactive=not html.words(session)), page.stops: gone, page.price: gr.update(visible=True),
            page.offer: gone, page.keep: gr.update(value=KEEP, interactive=True), page.drop: gr.update(value=DROP, interactive=True),
        }  # fmt: skip

    def _kept(self, last, note: str) -> dict:
        page, shared, session = self.page, self.shared, last.session
        return {
            page.live: "", page.result: html.taught(last), shared.session: session, shared.known: html.words(session),
            shared.line: html.knows(session, self.base), shared.kept: mark(note),
        }  # fmt: skip

    def put_back(self, key):
        if not (draft := self.store.draft(key)):
            raise ValueError("these pictures are no longer here: choose them again")
        about, steps = draft.settings, TeachSettings.of(self.base).steps
        return load_images(draft.images), about.get("name", ""), about.get("word", ""), about.get("steps", steps), about.get("seed", 0), gr.update(visible=False)

    def discard(self, key):
        drop_draft(self.store, key)
        return gr.update(visible=False)


def wired(page: Layout, desk: Desk, shared: Shared):
    """Every event of the tab. Returns what teaches a ready thing, by name, after an event."""
    quick = {"queue": False, "api_visibility": "private"}
    seeing = {
        "fn": desk.view, "inputs": [page.images], "outputs": [page.seen, page.guess],
        "concurrency_id": "look", "concurrency_limit": 2, "show_progress_on": [page.seen], "api_visibility": "private",
    }  # fmt: skip
    teaching = {
        "fn": shared.keyed(desk.run), "inputs": [*page.lesson, shared.session, shared.run, shared.key, page.paused],
        "outputs": [page.teach, page.paused, page.taken, page.again, page.stops, page.price, page.keep, page.drop, page.live, page.result, shared.session, shared.known, shared.line,
                    shared.restart, shared.lesson, shared.kept, page.offer, *shared.asleep],
        "concurrency_id": "teach", "concurrency_limit": 4, "show_progress": "minimal", "show_progress_on": [page.queue], "api_visibility": "private",
    }  # fmt: skip
    page.picks.select(desk.pick, None, page.thing, **quick).then(**seeing)
    gr.on([page.images.upload, page.images.delete], **seeing)
    page.guess.select(lambda w: w, [page.guess], [page.word], **quick)
    page.teach.click(**teaching)
    page.more.click(**{**teaching, "fn": shared.keyed(partial(desk.run, more=True))})
    page.again.click(spoken(free_name), [page.name, shared.session], [page.name], **quick).then(**teaching)
    page.name.change(lambda: gr.update(visible=False), None, [page.taken], show_progress="hidden", **quick)
    shared.known.change(lambda known: gr.skip() if known else "", [shared.known], [page.result], **quick)
    page.back.click(shared.keyed(desk.put_back), [shared.key], [*page.lesson, page.offer], api_visibility="private").then(**seeing)
    page.forget.click(shared.keyed(desk.discard), [shared.key], [page.offer], **quick)
    gr.on(None, cost, [page.steps, shared.known], [page.price], show_progress="hidden", api_visibility="private")
    for button, what in ((page.keep, "keep"), (page.drop, "drop")):
        button.click(partial(stop, what), [shared.run], [page.keep, page.drop], show_progress="hidden", **quick)

    def lesson(start, name: str):
        chosen = next((c for c in desk.ready if c["name"] == name), desk.ready[0])
        start.then(lambda: filled(chosen), None, page.thing, **quick).then(**seeing).then(**teaching)

    return lesson


@spoken
def stop(what: str, run_id: str):
    """End what is being taught: "keep" what it has learned, or "drop" it."""
    temp.made(gpu.flag(run_id, what)).touch()
    stopping, other = gr.update(value="Stopping...", interactive=False), gr.update(interactive=False)
    return (stopping, other) if what == "keep" else (other, stopping)


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
