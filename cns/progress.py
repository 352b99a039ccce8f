"""Where a teaching stands: what it tells whoever waits, and what it goes on from in another call."""

from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from .memory import Memory
from .session import Learned, Session


@dataclass(frozen=True)
class Progress:
    """A teaching between two calls, on the CPU: with the same session, concept and settings it goes on as if it had never stopped."""

    step: int
    stopped: bool  # by whoever was asked: nothing more is to be trained
    loss: float | None
    seconds: float  # so far
    vector: Tensor  # [din]
    index: dict[str, Tensor]  # by weight name: the concept's neurons, flat int32 [k]
    update: Tensor  # u, what is trained, there, float32 [k in all]
    found: tuple[dict, dict, dict, dict]  # the selection's funnel, general masks, rms and factored gradients
    optimizer: dict  # AdamW's state
    generator: Tensor  # the random numbers' state


@dataclass(frozen=True)
class TeachEvent:
    """Where the teaching stands."""

    stage: str  # "select", "train", "remember", "done"; "pause" in place of the last two; "stopped" in place of all that is left: nothing was learned
    step: int
    steps: int
    loss: float | None = None  # smoothed
    seconds_left: float | None = None  # of this stage
    preview: Image.Image | None = None
    session: Session | None = None  # only with "done", as all below
    learned: Learned | None = None  # this concept in it
    memories: tuple[Memory, ...] = ()  # of the other concepts; after a stop, of those that were drawn before it
    before: Image.Image | None = None  # what the base drew for the class word from the same seed; None after a stop
    progress: Progress | None = None  # only with "pause"
    parts: tuple[int, int] = (0, 0)  # done and in all, of choosing ("select"), of the pictures ("remember")


def copied(tree):
    """`tree` of dicts, lists, tuples and tensors, the tensors copied to the CPU."""
    if isinstance(tree, Tensor):
        return tree.detach().to("cpu", copy=True)
    if isinstance(tree, dict):
        return {k: copied(v) for k, v in tree.items()}
    return type(tree)(copied(v) for v in tree) if isinstance(tree, (list, tuple)) else tree
