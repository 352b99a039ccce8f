"""A session and a concept in, what training starts from out: its latents and captions, what is held still, its token's start and its neurons.

All of it comes in parts (see `parts`), counted beforehand, so that its progress can be told and it can be stopped. None of
them is larger than a step of training.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .concept import Concept
from .factored import factored
from .images import square, to_pixels
from .parts import Parts, locked
from .response import called, pieces, roomy, second_moment, unrelated, unrelated_prompts
from .selection import LEVELS, Selection, concept_rms, general_parts, select_base, select_general, select_sensitive
from .session import Learned, Session, unpack
from .text import class_embedding

LOOKS = 5  # batches that the gradient is taken of to choose neurons by


class Choosing:
    """What a teaching starts from; its fields are there once all `parts` are done."""

    def __init__(self, base, session: Session, concept: Concept, settings, known: Learned | None, resumed: bool, gradients: Callable[..., Parts]):
        """`known`: the concept as it was taught already; `resumed`: its neurons were chosen before; `gradients(latents, captions, vectors)`: the loss's, squared, in `LOOKS` parts."""
        self.base, self.session, self.concept, self.settings, self.known, self.gradients = base, session, concept, settings, known, gradients
        self.vector = (known.vector if known else class_embedding(base, concept)).clone()  # [din]
        self.latents: Tensor = torch.empty(0)  # [k, c, h, w]
        self.captions: list[list[str]] = []
        self.held: Tensor | None = None  # C [g, din, din]
        self.selection = Selection({}, {})
        self.rms: dict[str, Tensor] = {}
        self.factors: dict[str, Tensor] = {}
        self._general: dict[str, Tensor] = {}
        self._todo = [(len(concept.images) + 1, self._see()), *self._responses(), *([] if known or resumed else self._choices())]
        self.count = sum(count for count, _ in self._todo)  # of all parts

    def parts(self) -> Iterator[int]:
        """Yields how many parts are done, after each."""
        done = 0
        for _, parts in self._todo:
            for _ in locked(self.base, parts):
                done += 1
                yield done

    @property
    def vectors(self) -> dict[str, Tensor]:
        return {**self.session.vectors, self.concept.token: self.vector.detach()}

    def _see(self) -> Parts[None]:
        latents = []
        for image in self.concept.images:
            latents.append(self.base.latents(to_pixels([image], self.base.size)))
            yield
        self.latents = torch.cat(latents)
        self.captions = captions(self.base, self.concept)
        yield

    def _responses(self) -> list[tuple[int, Parts[None]]]:
        if not self.settings.response:
            return []
        base, others = self.base, [o for o in self.session.concepts if o is not self.known]
        first = 0 if base.unrelated is not None else pieces(base, unrelated_prompts(base))
        return [(first + sum(pieces(base, called(base, o.words)) for o in others), self._hold(others))]

    def _hold(self, others: list[Learned]) -> Parts[None]:
        """C: of unrelated prompts and, for every earlier concept as much again, of what it may be called, read as the session has it read by now."""
        held = yield from unrelated(self.base)
        for other in others:
            prompts = called(self.base, other.words)
            held = held + (yield from second_moment(self.base, prompts, self.session.vectors, lambda: self.session.on(self.base)))
        self.held = held

    def _choices(self) -> list[tuple[int, Parts[None]]]:
        base, s = self.base, self.settings
        general = 0 if self.session.general or (s.base_share, s.general_share, 0) in base.general else general_parts(base)
        looks = LOOKS if s.score == "gradient" else 0
        moving = [(s.room + 1, self._move())] if s.response and s.room else []
        return [*moving, (general, self._find_general()), (LEVELS + looks + 1, self._choose())]

    def _move(self) -> Parts[None]:
        s, prompts = self.settings, called(self.base, self.concept.words, 6)
        self.vector = yield from roomy(self.base, prompts, self.vectors, self.concept.token, self.held, s.response, s.token_rate, s.room)

    def _find_general(self) -> Parts[None]:
        base, s = self.base, self.settings
        if self.session.general:
            self._general = {n: unpack(bits, base.weights[n].numel()).view(base.weights[n].shape) for n, bits in self.session.general.items()}
        else:
            self._general = yield from select_general(base, s.base_share, s.general_share)

    def _choose(self) -> Parts[None]:
        base, s, prompts = self.base, self.settings, [t.format(self.concept.words) for t in self.base.card.templates]
        self.rms = yield from concept_rms(base, self.latents, prompts, self.vectors, torch.Generator().manual_seed(s.seed))
        total = (yield from self.gradients(self.latents, self.captions, self.vectors)) if s.score == "gradient" else {}
        gradients = {n: (t / LOOKS).sqrt() for n, t in total.items()}  # root mean squares [dout, din], before anything is learned
        self.factors = {n: factored(g) for n, g in gradients.items()}
        chosen = select_sensitive(gradients, s.base_share) if gradients else select_base(base, self.rms, s.base_share)
        self.selection = Selection(chosen, self._general)
        yield


def captions(base, concept: Concept) -> list[list[str]]:
    """What each picture may be called in training: the neutral templates and, as often, the scene that fits it best."""
    neutral = [t.format(concept.words) for t in base.card.templates]
    if not (base.scorer and base.card.scenes):
        return [neutral] * len(concept.images)
    texts = base.scorer.text_features([s.format(concept.class_word) for s in base.card.scenes])
    best = (base.scorer.image_features([square(i, base.size) for i in concept.images]) @ texts.T).argmax(1)
    return [neutral + [base.card.scenes[i].format(concept.words)] * len(neutral) for i in best]
