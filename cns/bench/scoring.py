"""A taught method in, scores out, as the field defines them; pictures are drawn in batches, every one from its own seed.

A `Mark` holds the CLIP that guided development and, where there is one, the judge: a second CLIP that did not.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from PIL import Image

from ..base import STARTER
from ..concept import Concept
from ..images import square
from ..scores import Scorer
from ..starter.world import COLOURS, article
from ..text import read

SINGLE = ("a {}", "a photo of a {}", "a {} on a blue background", "a large {} on a yellow background")


@dataclass(frozen=True)
class Plan:
    """How much is drawn for a score."""

    prompts: int = 4  # of `SINGLE`, for every concept after every step, 1 to 4
    seeds: int = 1  # pictures of each prompt
    drift: int = 12  # untaught prompts
    pairs: int = 6
    triples: int = 3
    steps: int = 10  # denoising steps


@torch.no_grad()
def draw(base, prompts: list[str], vectors, seeds: list[int], steps: int) -> list[Image.Image]:
    """One picture of each prompt, with the base as it stands."""
    out, chunk = [], 16
    for at in range(0, len(prompts), chunk):
        some = prompts[at : at + chunk]
        texts = read(base, ["", *some], vectors, away=1)
        generators = [torch.Generator().manual_seed(s) for s in seeds[at : at + chunk]]
        out += base.pipe(
            **texts[1:].arguments(), **texts[:1].repeated(len(some)).arguments("negative_"), num_inference_steps=steps,
            guidance_scale=base.guidance, generator=generators, height=base.size, width=base.size, **dict(base.family.drawing),
        ).images  # fmt: skip
    return out


class Eyes:
    """The encoders that look at pictures, each with the references' embeddings."""

    def __init__(self, base, concepts: list[Concept]):
        judge = STARTER / "judge"
        self.encoders: dict[str, Scorer] = {"clip": base.scorer} if base.scorer else {}
        if judge.is_dir():
            self.encoders["judge"] = Scorer.load(judge, tokenizer=STARTER / "tokenizer")
        if not self.encoders:
            raise ValueError(f"base `{base.id}` has no CLIP to score with: name one with CNS_CLIP")
        images = {c.name: [square(i, base.size) for i in c.images] for c in concepts}
        self.references = {e: {n: s.image_features(i) for n, i in images.items()} for e, s in self.encoders.items()}

    def themselves(self, concepts: list[Concept]) -> dict[str, float]:
        """What the concepts' own pictures score: CLIP-I of each to the others of its concept, CLIP-T to its class word."""
        out = {}
        for eye, scorer in self.encoders.items():
            texts = scorer.text_features([f"a {c.class_word}" for c in concepts])
            own = [self.references[eye][c.name] for c in concepts]
            apart = [float((f @ f.T).sum() - len(f)) / (len(f) * (len(f) - 1)) for f in own if len(f) > 1]
            prefix = "clip_" if eye == "clip" else f"{eye}_"
            out |= {f"{prefix}i": float(np.mean(apart)), f"{prefix}t": float(np.mean([(f @ t).mean() for f, t in zip(own, texts)]))}
        return out

    def image(self, eye: str, pictures, name: str) -> float:
        return self.encoders[eye].clip_i(pictures, self.references[eye][name])


def single(base, way, eyes: Eyes, concepts: list[Concept], plan: Plan, seed: int) -> tuple[dict[str, dict], dict[str, Image.Image]]:
    """({concept: scores by eye}, {concept: its first picture}) with `way` as taught so far."""
    scores, shown = {}, {}
    groups = [[c] for c in concepts] if not way.together or way.apart else [concepts]
    for group in groups:
        asked = [(c, p) for c in group for p in SINGLE[: plan.prompts] for _ in range(plan.seeds)]
        seeds = [seed + i for _ in group for _ in range(plan.prompts) for i in range(plan.seeds)]
        with way.on([c.name for c in group]):
            pictures = draw(base, [p.format(c.words) for c, p in asked], way.vectors, seeds, plan.steps)
        each = plan.prompts * plan.seeds
        for i, c in enumerate(group):
            mine, texts = pictures[i * each : (i + 1) * each], [p.format(c.class_word) for _, p in asked[i * each : (i + 1) * each]]
            shown[c.name] = mine[0]
            scores[c.name] = {}
            for eye, scorer in eyes.encoders.items():
                others = [eyes.image(eye, mine, o) for o in eyes.references[eye] if o != c.name]
                own = eyes.image(eye, mine, c.name)
                scores[c.name][eye] = {"i": own, "t": float(np.mean([scorer.clip_t([m], t) for m, t in zip(mine, texts)])),
                                       "other": float(np.mean(others)) if others else 0.0}  # fmt: skip
    return scores, shown


def multi(base, way, eyes: Eyes, concepts: list[Concept], plan: Plan, seed: int) -> dict[str, dict]:
    """Pairs and triples of taught concepts in one picture: mean CLIP-I, CLIP-T, and who is where in the pairs (confusion)."""
    luck = np.random.default_rng(1)
    groups = []
    for size, count in ((2, plan.pairs), (3, plan.triples)):
        every = list(combinations(concepts, size))
        groups += [every[i] for i in luck.permutation(len(every))[:count]]
    prompts = ["a " + " next to a ".join(c.words for c in g) for g in groups]
    with way.on([c.name for c in concepts]):
        pictures = draw(base, prompts, way.vectors, [seed] * len(prompts), plan.steps)
    out = {}
    for eye, scorer in eyes.encoders.items():
        i = [float(np.mean([eyes.image(eye, [p], c.name) for c in g])) for g, p in zip(groups, pictures)]
        t = [scorer.clip_t([p], "a " + " next to a ".join(c.class_word for c in g)) for g, p in zip(groups, pictures)]
        apart = [_apart(eyes, eye, p, g) for g, p in zip(groups, pictures) if len(g) == 2]
        two = [len(g) == 2 for g in groups]
        out[eye] = {"clip_i_multi": float(np.mean(i)), "clip_t_multi": float(np.mean(t)), "confusion": float(np.mean(apart)),
                    "clip_i_pair": float(np.mean([x for x, b in zip(i, two) if b])), "clip_t_pair": float(np.mean([x for x, b in zip(t, two) if b]))}  # fmt: skip
    return out


def _apart(eyes: Eyes, eye: str, picture: Image.Image, pair) -> float:
    """CLIP-I of each half to the concept that belongs there minus to the other one."""
    w, h = picture.size
    halves = [picture.crop((x, h // 4, x + w // 2, h // 4 + h // 2)).resize((w, h)) for x in (0, w // 2)]
    right, left = (np.mean([eyes.image(eye, [halves[k]], pair[k ^ wrong].name) for k in (0, 1)]) for wrong in (0, 1))
    return float(right - left)


def untaught(base, plan: Plan) -> list[str]:
    """Prompts about nothing taught, as the base's calibration prompts are made, but none of these."""
    luck, words, colours = np.random.default_rng(12345), sorted(base.class_words), list(COLOURS)
    made = []
    while len(made) < plan.drift:
        prompt = f"a {luck.choice(words)} on {article(str(luck.choice(colours)))} background"
        if prompt not in base.card.calibration and prompt not in made:
            made.append(prompt)
    return made


def drift(base, way, eyes: Eyes, plan: Plan, seed: int, before: list[Image.Image]) -> dict[str, dict]:
    """1 - CLIP-I between what the base drew (`before`) and what is drawn now, and the change of CLIP-T."""
    prompts = untaught(base, plan)
    with way.on():
        now = draw(base, prompts, {}, [seed + i for i in range(len(prompts))], plan.steps)
    out = {}
    for eye, scorer in eyes.encoders.items():
        a, b, t = scorer.image_features(before), scorer.image_features(now), scorer.text_features(prompts)
        out[eye] = {"drift": 1 - float((a * b).sum(1).mean()), "drift_clip_t": float(((b - a) * t).sum(1).mean())}
    return out
