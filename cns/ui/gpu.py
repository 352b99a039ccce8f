"""What runs on the GPU, as pure functions: sessions, pictures and settings in, events and pictures out, all picklable.

On ZeroGPU each call runs in a forked worker, so nothing here touches the interface, the store or another visitor's data.
Stopping crosses that border as a small file named by the run's id; the core's errors cross it as messages, since the
platform would drop their words. What is not decorated runs in the main process.
"""

import re
import secrets
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import gradio as gr
import spaces
import torch

from .. import devices, generation, owning, parts, probing, selection, teaching
from ..export import exporting
from . import html, temp, zerogpu
from .common import spoken

pace = zerogpu.Pace()
_base = None  # set once before the app starts; workers inherit it


def use(base) -> None:
    """Let the functions below work on `base`."""
    global _base
    _base = base
    _ = base.revision, base.parameters  # cached now: on ZeroGPU the main process cannot read weights after launch


def flag(run: str, what: str) -> Path:
    """The file that says `what`: "keep" or "drop" to the teaching of the page `run`, or of it "busy"; "halt" to its drawings, "export" or "push" to these. Raises ValueError for an id that we did not make."""
    if not re.fullmatch("[0-9a-f]{32}", run or ""):
        raise ValueError("this page has lost its session: reload it")
    return temp.FLAGS / f"{run}.{what}"


def clear(run: str) -> None:
    """Forget earlier stops of `run`."""
    for what in ("keep", "drop"):
        flag(run, what).unlink(missing_ok=True)


def halt(run: str, what: str = "halt") -> Path:
    """End what is being drawn for the page `run`, or what else is `what`. Returns the file that says so."""
    file = flag(run, what)
    file.write_text(secrets.token_hex(8))
    return file


@dataclass(frozen=True)
class Watch:
    """The page that waits for a drawing, or what else is `what`, which it can end until it is there; a drawing is one `part` of so many."""

    run: str
    said: str  # what `halt` had written when it was asked for
    part: tuple[int, int] = (0, 1)
    what: str = "halt"

    @classmethod
    def of(cls, run: str, what: str = "halt") -> "Watch":
        return cls(run, _said(run, what), what=what)

    def parts(self, count: int):
        """One for each of so many drawings."""
        return [replace(self, part=(i, count)) for i in range(count)]

    def asked(self) -> None:
        """Raises Stopped when the page no longer waits."""
        if (now := _said(self.run, self.what)) and now != self.said:
            raise parts.Stopped


def _said(run: str, what: str) -> str:
    file = flag(run, what)
    return file.read_text() if file.exists() else ""


@contextmanager
def watched(watch: Watch | None, passes: int):
    """Within: before every pass of the denoiser, of so many, the page is asked whether it still waits, and its bar moves."""
    if watch is None:
        yield
        return
    done, began, (part, count), bar = 0, 0.0, watch.part, gr.Progress()

    def asked():
        nonlocal done, began
        watch.asked()
        began = began or time.monotonic()
        left = (time.monotonic() - began) / done * (passes * (count - part) - done) if done else None
        bar(min(1.0, (part + done / passes) / count), desc=f"Drawing{html.soon(left)}")
        done += 1

    with parts.passing(_base, asked):
        yield


@spaces.GPU(duration=10)
@spoken
def suggest(images):
    """Class words that fit the pictures, best first; none without a CLIP."""
    return [word for word, _ in _base.scorer.suggest(images, _base.class_words)] if _base.scorer else []


def _seconds(session, concept, settings, run, more=False, progress=None, until=None) -> int:
    """What `teach` asks the platform for."""
    end = settings.steps if until is None else min(until, settings.steps)
    left = 0 if progress and progress.stopped else end - (progress.step if progress else 0)
    return pace.asked(left, len(session.concepts) if session else 0)


@spaces.GPU(duration=_seconds)
@spoken
def teach(session, concept, settings, run, more=False, progress=None, until=None):
    """Yields the core's events until the end, a stop, or the pause at step `until`."""
    keep, drop = (flag(run, what) for what in ("keep", "drop"))

    def asked() -> bool:
        if drop.exists():
            raise parts.Dropped
        return keep.exists()

    yield from teaching.teach(_base, session, concept, settings, more=more, progress=progress, until=until, should_stop=asked)


def learn(session, concept, settings, run, more=False, progress=None):
    """Yields `teach`'s events from `progress` (None: the start) to the end; where the GPU is lent, slice after slice.

    A slice that the platform takes away is tried once more at half its length. With any other error, or that one twice, the
    teaching can go on later from the last progress that was yielded.
    """
    busy, tries, done = flag(run, "busy"), 1, False
    busy.touch()
    try:
        while not done:
            until = (progress.step if progress else 0) + max(1, pace.steps() // tries) if zerogpu.ON_LOAN else None
            try:
                with closing(teach(session, concept, settings, run, more, progress, until)) as events:
                    for event in measured(events):
                        progress, done = event.progress or progress, event.stage in ("done", "stopped")
                        yield event
                tries = 1
            except Exception as error:
                if tries > 1 or not zerogpu.taken_away(error):
                    raise
                tries = 2
    finally:
        busy.unlink(missing_ok=True)
        devices.give_back()


def measured(events):
    """The events as they come; what they took is learned by `pace`."""
    began = None
    for event in events:
        now = time.monotonic()
        began = began or (now if event.stage == "remember" else None)
        if event.progress:
            pace.learn(event.progress.seconds, event.step)
        if event.session and event.step == event.steps:  # one that was stopped says little of a step
            pace.learn(event.learned.stats["seconds"], event.step, now - began, 2 + len(event.memories))
        yield event


@spaces.GPU(duration=60)
@spoken
def draw(prompt, session, settings, image=None, watch=None):
    """Pictures, see `generation.generate`."""
    try:
        with watched(watch, generation.passes(_base, settings, image)):
            return generation.generate(_base, prompt, session, settings, image)
    finally:
        devices.give_back()


@spaces.GPU(duration=60)
@spoken
def explain(prompt, session, settings, image=None, watch=None):
    """(the first picture of `prompt`, where each of its words acted)."""
    with watched(watch, generation.passes(_base, replace(settings, count=1), image)):
        return generation.explain(_base, prompt, session, settings, image)


@spaces.GPU(duration=60)
@spoken
def compare(before, after, watch=None):
    """What the concepts that both sessions know lost or won; nothing when it is stopped."""
    try:
        with watched(watch, 2 * max(1, len({*before.tokens} & {*after.tokens})) * _base.steps):
            return owning.compared(_base, before, after)
    except parts.Stopped:
        return []


@spaces.GPU(duration=60)
@spoken
def whole(session, out):
    """Yields the share that is done of the session as a whole pipeline in the new folder `out`, see `export.exporting`."""
    yield from exporting(_base, session, "pipeline", out)


@spaces.GPU(duration=30)
@spoken
def calibration():
    """What unrelated prompts look like to every layer, see `selection.calibration_rms`; as a teaching sees them."""
    bar, count = gr.Progress(), selection.general_parts(_base) - len(_base.weights)
    found = parts.locked(_base, selection.calibration_rms(_base, torch.Generator().manual_seed(0)))
    began, done = time.monotonic(), 0
    while True:
        try:
            next(found)
        except StopIteration as end:
            return {layer: rs.cpu() for layer, rs in end.value.items()}
        done += 1
        bar(done / count, desc=f"Looking at unrelated prompts{html.soon((time.monotonic() - began) / done * (count - done))}")


@spaces.GPU(duration=60)
@spoken
def probe(session, name, other, seed, watch):
    """Yields the causal probes of a concept, see `probing.probes`."""
    found = probing.probes(_base, session, name, other, seed)
    while True:
        with parts.passing(_base, watch.asked):
            if (shown := next(found, None)) is None:
                return
        yield shown


@spaces.GPU(duration=60)
@spoken
def remembered(session, last, watch):
    """[(picture, CLIP-I)] of the first `last` concepts, drawn with what these alone changed."""
    with parts.passing(_base, watch.asked):
        return probing.row(_base, session, last)

