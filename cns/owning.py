"""Full control over what was learned: a session in, a new one out. What each concept added is known entry by entry.

The rule where concepts share entries: the delta is the sum of the increments of those that are there. So who is forgotten
leaves to the others what they added themselves, and the base's value, bit for bit, where nobody else was.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image

from .concept import checked_name
from .generation import GenerateSettings, sample
from .session import Session


@dataclass(frozen=True)
class Change:
    """A concept before and after something was done to its session, drawn from the same seed; CLIP-I where there is a CLIP."""

    name: str
    token: str
    before: Image.Image
    after: Image.Image
    clip_i_before: float | None
    clip_i_after: float | None


def forget(session: Session, name: str) -> Session:
    """`session` without concept `name`: its share of the weights and its token are gone."""
    gone = session.concept(name)
    return _kept(session, [c.name for c in session.concepts if c is not gone])


def reorder(session: Session, names: Sequence[str]) -> Session:
    """`session` with its concepts in the order of `names`; the weights stay bit for bit. Raises ValueError unless each is named once."""
    if sorted(names) != sorted(c.name for c in session.concepts):
        taught = ", ".join(f"`{c.name}`" for c in session.concepts) or "nothing yet"
        raise ValueError(f"the order `{', '.join(names)}` does not name every concept once: taught are {taught}")
    return _kept(session, names)


def _kept(session: Session, names: Sequence[str]) -> Session:
    return session.of([session.concept(n) for n in names], [session.increments(n) for n in names])


def rename(session: Session, name: str, to: str) -> Session:
    """`session` with concept `name` called `to`. Raises ValueError for a bad name or one that is taken."""
    old, to = session.concept(name), checked_name(to)
    if any(c.name == to for c in session.concepts):
        raise ValueError(f"`<{to}>` was already taught: choose another name, such as `{to}2`")
    new = replace(old, name=to, stats={**old.stats, "prompt": old.stats["prompt"].replace(old.token, f"<{to}>")})
    return replace(session, concepts=tuple(new if c is old else c for c in session.concepts))


def merge(first: Session, second: Session) -> Session:
    """What both know, `first`'s concepts first. Raises ValueError for different bases or a name that both have."""
    if (first.base_id, first.base_revision) != (second.base_id, second.base_revision):
        raise ValueError(
            f"one session was taught on base `{first.base_id}` (revision {first.base_revision}), the other on `{second.base_id}` "
            f"(revision {second.base_revision}): only sessions of one base can be merged"
        )
    if both := sorted({c.name for c in first.concepts} & {c.name for c in second.concepts}):
        raise ValueError(f"both sessions have a `<{both[0]}>`: rename it in one of them, then merge")
    increments = [s.increments(c.name) for s in (first, second) for c in s.concepts]
    return replace(first, general=first.general or second.general).of(first.concepts + second.concepts, increments)


def compared(base, before: Session, after: Session) -> list[Change]:
    """Every concept of `after` that `before` knows, drawn with both from its old seed: what the others lost."""
    changes = []
    for c in after.concepts:
        if c.token in before.tokens:
            pictures = [_drawn(base, s, c.name) for s in (before, after)]
            scored = base.scorer and c.features is not None
            changes.append(Change(c.name, c.token, *pictures, *(base.scorer.clip_i([p], c.features) if scored else None for p in pictures)))  # type: ignore[arg-type]
    return changes


def _drawn(base, session: Session, name: str) -> Image.Image:
    stats = session.concept(name).stats
    with session.on(base):
        return sample(base, stats["prompt"], session.vectors, GenerateSettings(seed=stats["seed"]))[0]
