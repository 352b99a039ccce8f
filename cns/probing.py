"""A session in, pictures out that show what its neurons cause: one prompt and seed, drawn with some of them changed.

Two things can be done to a neuron: to give it back the untaught base's value, which takes away what was learned there, or to
set it to zero, which takes away what it does at all; only the second is possible for neurons that no concept trained.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from .delta import written
from .generation import GenerateSettings, sample
from .inspection import csv_of
from .selection import is_key
from .session import Learned, Session, unpack

Mask = dict[str, Tensor]  # sorted flat indices per weight name


@dataclass(frozen=True)
class Probe:
    """One picture of a concept with `neurons` of the weights changed; CLIP-I to its own pictures, and less that of the untouched one."""

    title: str
    about: str
    neurons: int
    picture: Image.Image
    clip_i: float | None  # None where there is no CLIP
    change: float | None


def probes(base, session: Session, name: str, other: str | None = None, seed: int | None = None) -> Iterator[Probe]:
    """The untouched picture of concept `name`, then one for each thing done to it; the base is bit for bit itself at every yield.

    `other`: a concept to swap with; `seed`: None for the one it was taught with. Raises ValueError for a concept that was never taught.
    """
    c = session.concept(name)
    settings, first = GenerateSettings(seed=c.stats["seed"] if seed is None else seed), None
    for title, about, changed, zeroed, neurons in interventions(base, session, c, session.concept(other) if other else None, settings.seed):
        picture, clip_i = drawn(base, changed, c, session.vectors, settings, zeroed)
        first = clip_i if first is None else first
        yield Probe(title, about, neurons, picture, clip_i, None if clip_i is None else clip_i - first)  # type: ignore[operator]


def csv(found: list[Probe]) -> str:
    """The numbers of some probes."""
    return csv_of([("probe", "neurons", "clip_i", "change"), *((p.title, p.neurons, p.clip_i, p.change) for p in found)])


def drawn(base, session: Session, c: Learned, vectors: Mask, settings: GenerateSettings, zeroed: Mask | None = None) -> tuple[Image.Image, float | None]:
    """(concept `c` drawn with what `session` changes and with zeros at `zeroed`, its CLIP-I)."""
    zeroed = zeroed or {}
    with session.on(base), written(base.weights, zeroed, {n: torch.zeros(len(i)) for n, i in zeroed.items()}):
        picture = sample(base, c.stats["prompt"], vectors, settings)[0]
    return picture, base.scorer.clip_i([picture], c.features) if base.scorer and c.features is not None else None


def interventions(base, session: Session, c: Learned, other: Learned | None, seed: int) -> Iterator[tuple[str, str, Session, Mask, int]]:
    """(title, what is done, the session to draw with, what is set to zero, how many neurons that concerns) of each probe."""
    size = count(c.mask)
    keys, values = ({n: i for n, i in c.mask.items() if is_key(n) == key} for key in (True, False))
    yield "untouched", "drawn with all that was taught", session, {}, 0
    yield "unlearned", "its neurons have the untaught base's values", untaught(session, c.mask), {}, size
    yield "keys only", "what its values (V) learned is taken away", untaught(session, values), {}, count(values)
    yield "values only", "what its keys (K) learned is taken away", untaught(session, keys), {}, count(keys)
    yield "its neurons at zero", "its neurons do nothing at all", session, c.mask, size
    generator = torch.Generator().manual_seed(seed)
    general = {n: unpack(bits, base.weights[n].numel()) for n, bits in session.general.items()}
    for title, about, inside in (("random ones at zero", "as many of each matrix that are neither its own nor general do nothing", False),
                                 ("general ones at zero", "as many general ones of each matrix do nothing; other prompts need them, too", True)):  # fmt: skip
        chosen = {n: others(i, general.get(n), base.weights[n].numel(), inside, generator) for n, i in c.mask.items()}
        yield title, about, session, chosen, count(chosen)
    if other and other is not c:
        for kept, whose in ((c, "its own"), (other, f"{other.token}'s")):
            alone = session.of([kept], [session.increments(kept.name)])
            yield f"{whose} changes alone", f"its token, with only what {kept.token} changed in the model", alone, {}, count(kept.mask)


def count(mask: Mask) -> int:
    return sum(map(len, mask.values()))


def untaught(session: Session, mask: Mask) -> Session:
    """`session` with the base's values at `mask`."""
    return replace(session, delta=session.delta.replaced(mask, {n: torch.zeros(len(i)) for n, i in mask.items()}))


def others(index: Tensor, general: Tensor | None, size: int, inside: bool, generator) -> Tensor:
    """As many entries as `index` has, or all there are, drawn from the general ones (`inside`) or from those outside both."""
    general = torch.zeros(size, dtype=torch.bool) if general is None else general
    pool = general.clone() if inside else ~general
    pool[index] = False
    pool = pool.nonzero().squeeze(1)
    return pool[torch.randperm(len(pool), generator=generator)[: len(index)]].sort().values


def after(session: Session, last: int) -> Session:
    """What the first `last` concepts, in the order of the session, changed: the session as it was then, or would have been without the later ones."""
    first = session.concepts[:last]
    return session.of(first, [session.increments(c.name) for c in first])


def row(base, session: Session, last: int) -> list[tuple[Image.Image, float | None]]:
    """Row `last` (from 1) of the forgetting matrix: the first `last` concepts, each drawn from its own seed after the last of them; with CLIP-I."""
    then = after(session, last)
    return [drawn(base, then, c, then.vectors, GenerateSettings(seed=c.stats["seed"])) for c in then.concepts]
