"""What runs on the GPU, as pure functions: sessions, pictures and settings in, events and pictures out, all picklable.

On ZeroGPU each call runs in a forked worker, so nothing here touches the interface, the store or another visitor's data.
Stopping crosses that border as a small file named by the run's id.
"""

import re
import tempfile
from pathlib import Path

import spaces
import torch

from .. import generation, memory, owning, probing, selection, teaching

FLAGS = Path(tempfile.mkdtemp(prefix="cns-run-"))
_base = None  # set once before the app starts; workers inherit it


def use(base) -> None:
    """Let the functions below work on `base`."""
    global _base
    _base = base
    _ = base.revision, base.parameters  # cached now: on ZeroGPU the main process cannot read weights after launch


def flag(run: str, what: str) -> Path:
    """The file that says `what` ("keep" or "drop") to the teaching `run`, or of it ("busy"). Raises ValueError for an id that we did not make."""
    if not re.fullmatch("[0-9a-f]{32}", run or ""):
        raise ValueError("this page has lost its session: reload it")
    return FLAGS / f"{run}.{what}"


def clear(run: str) -> None:
    """Forget earlier stops of `run`."""
    for what in ("keep", "drop"):
        flag(run, what).unlink(missing_ok=True)


@spaces.GPU(duration=10)
def suggest(images):
    """Class words that fit the pictures, best first; none without a CLIP."""
    return [word for word, _ in _base.scorer.suggest(images, _base.class_words)] if _base.scorer else []


@spaces.GPU(duration=120)
def teach(session, concept, settings, run, more=False):
    """Yields the core's events until the end or a stop."""
    keep, drop, busy = (flag(run, what) for what in ("keep", "drop", "busy"))
    busy.touch()
    try:
        yield from teaching.teach(_base, session, concept, settings, more=more, should_stop=lambda: keep.exists() or drop.exists())
    finally:
        busy.unlink(missing_ok=True)


@spaces.GPU(duration=60)
def draw(prompt, session, settings, image=None):
    """Pictures of `prompt`; `image`: a picture to start from."""
    return generation.generate(_base, prompt, session, settings, image)


@spaces.GPU(duration=60)
def explain(prompt, session, settings, image=None):
    """(the first picture of `prompt`, where each of its words acted)."""
    return generation.explain(_base, prompt, session, settings, image)


@spaces.GPU(duration=60)
def compare(before, after):
    """What the concepts that both sessions know lost or won."""
    return owning.compared(_base, before, after)


@spaces.GPU(duration=30)
def calibration():
    """What unrelated prompts look like to every layer, see `selection.calibration_rms`; as a teaching sees them."""
    with _base.lock:
        return {layer: rs.cpu() for layer, rs in selection.calibration_rms(_base, torch.Generator().manual_seed(0)).items()}


@spaces.GPU(duration=60)
def probe(session, name, other, seed):
    """Yields the causal probes of a concept, see `probing.probes`."""
    yield from probing.probes(_base, session, name, other, seed)


@spaces.GPU(duration=60)
def remembered(session, last):
    """[(picture, CLIP-I)] of the first `last` concepts, drawn with what these alone changed."""
    return probing.row(_base, session, last)


@spaces.GPU(duration=60)
def silence(session, name):
    """(picture with the concept's neurons, picture without)."""
    return memory.silence(_base, session, name)
