"""A concept's pictures in, pictures of it beside other things out, so that it learns to share a canvas.

Cut-Mix-Unmix (Han et al., "SVDiff", ICCV 2023): half of the canvas shows the concept, the other half another thing, and the
caption names both, left to right. The other things are class words of the base, drawn by the untaught base itself.
"""

import random

import torch
import torch.nn.functional as F
from torch import Tensor

from .concept import Concept
from .generation import GenerateSettings, sample
from .images import to_pixels


def half(pixels: Tensor) -> Tensor:
    """[n, 3, s, s] as the middle of half a canvas [n, 3, s, s / 2], its upper and lower edge drawn out."""
    side = pixels.shape[-1] // 2
    above = (pixels.shape[-1] - side) // 2
    return F.pad(F.interpolate(pixels, size=(side, side), mode="area"), (0, 0, above, pixels.shape[-1] - side - above), mode="replicate")


def beside_others(base, concept: Concept, seed: int, others: int = 4, steps: int = 10) -> tuple[Tensor, list[list[str]]]:
    """(latents [2 * others, c, h, w], the captions of each): the concept left and right of each of `others` drawn in `steps`."""
    words = sorted(set(base.class_words) - {concept.class_word})
    words = random.Random(seed).sample(words, min(others, len(words)))
    drawn = [sample(base, f"a {w}", {}, GenerateSettings(seed=seed + i, steps=steps))[0] for i, w in enumerate(words)]
    own, other = half(to_pixels(concept.images, base.size)), half(to_pixels(drawn, base.size))
    pixels, captions = [], []
    for i, word in enumerate(words):
        pixels += [torch.cat([own[2 * i % len(own)], other[i]], -1), torch.cat([other[i], own[(2 * i + 1) % len(own)]], -1)]
        captions += [[f"a {concept.words} next to a {word}"], [f"a {word} next to a {concept.words}"]]
    return base.latents(torch.stack(pixels)), captions


def mixed(latents: Tensor, captions, others: Tensor, texts, share: float) -> tuple[Tensor, list[list[str]]]:
    """The concept's own `latents` and `captions`, as often as makes `others` with their `texts` that `share` of all."""
    times = max(1, round(len(others) * (1 - share) / share / len(latents)))
    return torch.cat([latents] * times + [others.to(latents)]), captions * times + texts
