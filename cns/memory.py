"""A session in, its concepts drawn again from the seeds they were first drawn from: what is still remembered, what neurons do."""

from dataclasses import dataclass

from PIL import Image

from .generation import GenerateSettings, sample
from .session import Learned, Session


@dataclass(frozen=True)
class Memory:
    """A concept as drawn when it was taught and as drawn now, from the same seed."""

    name: str
    token: str
    then: Image.Image
    now: Image.Image
    clip_i_then: float | None
    clip_i_now: float | None


def recall(base, session: Session, c: Learned) -> Memory:
    """Concept `c` drawn again from its old seed, beside how it looked when it was just taught."""
    with session.on(base):
        now = sample(base, c.stats["prompt"], session.vectors, GenerateSettings(seed=c.stats["seed"]))[0]
    score = base.scorer.clip_i([now], c.features) if base.scorer and c.features is not None else None
    return Memory(c.name, c.token, c.picture, now, c.stats["clip_i"], score)


def remember(base, session: Session) -> list[Memory]:
    """Every concept recalled, in the order taught."""
    return [recall(base, session, c) for c in session.concepts]


def silence(base, session: Session, name: str) -> tuple[Image.Image, Image.Image]:
    """Concept `name` drawn with all its neurons, and with the base's values in their place."""
    c = session.concept(name)
    settings = GenerateSettings(seed=c.stats["seed"])
    pictures = []
    for s in (session, session.silenced(name)):
        with s.on(base):
            pictures += sample(base, c.stats["prompt"], session.vectors, settings)
    return tuple(pictures)
