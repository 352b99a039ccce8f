"""Text features and attention in, neuron masks out: base, general and concept neurons.

A neuron is one entry W_ij of a cross-attention key or value projection. Its importance for prompts p is Wanda's score
(Sun et al., 2023) with attention for a weight,

    S_ij = |W_ij| * r_j,    r_j = sqrt(mean_p sum_t a_pt x_ptj^2),

x what the layer reads of the text (see `reading`) and a_pt the attention that the image pays to token t of prompt p, start token, end token and
padding left out. Concept neurons are the base neurons (top share of S for the concept's prompts and images) that are not
general (in the top share for at least a share of unrelated prompts).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .attention import watched
from .families import FAMILIES, Text
from .parts import Parts
from .text import read

KEYS = {f.projections[0] for f in FAMILIES}  # what makes a layer's keys, as each family calls it; the other projection makes its values
LEVELS = 3  # of noise, at which a concept's attention is looked at
CHUNK = 4  # calibration prompts that are looked at at once: a pass no larger than a step of training


@dataclass(frozen=True)
class Selection:
    """Boolean masks [dout, din] per weight name."""

    base: dict[str, Tensor]
    general: dict[str, Tensor]

    @property
    def concept(self) -> dict[str, Tensor]:
        return {n: m & ~self.general[n] for n, m in self.base.items()}


def feature_rms(x: Tensor, a: Tensor) -> Tensor:
    """r [din] from features x [p, t, din] and token weights a [p, t]."""
    return (a[..., None] * x.square()).sum(1).mean(0).sqrt()


def importance(weight: Tensor, r: Tensor) -> Tensor:
    """S [dout, din] from W [dout, din] and r [din]."""
    return weight.detach().abs() * r


def top(score: Tensor, share: float) -> Tensor:
    """Mask of the entries at or above the threshold that keeps a `share` (0, 1] of them."""
    keep = max(1, round(share * score.numel()))
    return score >= score.flatten().kthvalue(score.numel() - keep + 1).values


def general_count(weight: Tensor, rs: Tensor, share: float) -> Tensor:
    """For how many of the prompts each entry is in the top `share`, int32 [dout, din]; rs [p, din] holds one r for each."""
    count = torch.zeros(weight.shape, dtype=torch.int32, device=weight.device)
    for r in rs:
        count += top(importance(weight, r), share)
    return count


def general_mask(weight: Tensor, rs: Tensor, share: float, gamma: float) -> Tensor:
    """Entries in the top `share` for at least `gamma` of the prompts; rs [p, din] holds one r for each."""
    return general_count(weight, rs, share) >= gamma * len(rs)


@torch.no_grad()
def attention_to_words(base, noisy: Tensor, t: Tensor, text: Text) -> dict[str, tuple[Tensor, Tensor]]:
    """{layer: (x [n, tokens, din], a [n, tokens])}: what it reads of `text`, and the attention of noisy latents [n, c, h, w] at times t [n]
    to each token, zero outside its words."""
    with watched(base.layers, base.family.look) as seen:
        base.predict(noisy, t, text)
    return {name: (passes[0][0].float(), passes[0][1] * text.words) for name, passes in seen.items()}


@torch.no_grad()
def concept_rms(base, latents: Tensor, prompts: list[str], vectors, generator) -> Parts[dict[str, Tensor]]:
    """{layer: r [din]} of the concept: averaged over its noised latents and `LEVELS` of noise, each a part."""
    text = read(base, prompts, vectors)
    total = {name: torch.zeros((), device=base.device) for name in base.layers}
    for level in range(LEVELS):
        t = base.noise.times(torch.full((len(prompts),), (level + 0.5) / LEVELS)).to(base.device)
        z = latents[torch.arange(len(prompts)) % len(latents)]
        noise = torch.randn(z.shape, generator=generator).to(z)
        for name, seen in attention_to_words(base, base.noise.add(z, noise, t), t, text).items():
            total[name] = total[name] + feature_rms(*seen).square() / LEVELS
        yield
    return {name: power.sqrt() for name, power in total.items()}


@torch.no_grad()
def calibration_rms(base, generator) -> Parts[dict[str, Tensor]]:
    """{layer: r [p, din]}: one r for each calibration prompt, attention from pure noise (there are no images to look at); in parts."""
    out: dict[str, list[Tensor]] = {name: [] for name in base.layers}
    for start in range(0, len(base.card.calibration), CHUNK):
        text = read(base, list(base.card.calibration[start : start + CHUNK]))
        noise = torch.randn((1, *base.latent_shape), generator=generator).to(base.device).expand(len(text.features), -1, -1, -1)
        t = base.noise.times(torch.ones(len(noise))).to(base.device)
        for name, seen in attention_to_words(base, noise, t, text).items():
            out[name] += [feature_rms(x[None], a[None]) for x, a in zip(*seen)]
        yield
    return {name: torch.stack(rs) for name, rs in out.items()}


def general_parts(base) -> int:
    """How many parts `select_general` has for a base of which nothing was found yet."""
    return -(-len(base.card.calibration) // CHUNK) + len(base.weights)


def select_general(base, share: float, gamma: float) -> Parts[dict[str, Tensor]]:
    """General neurons of a base: {weight name: mask [dout, din]} on the CPU, in parts; found once for a base, which never changes."""
    asked = share, gamma
    if asked not in base.general:
        rs, masks = (yield from calibration_rms(base, torch.Generator().manual_seed(0))), {}
        for n, w in base.weights.items():
            masks[n] = general_mask(w.float(), rs[layer_of(n)], share, gamma).cpu()
            yield
        base.general[asked] = masks
    return base.general[asked]


def select_base(base, rs: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Base neurons of a concept from its `concept_rms`: {weight name: mask [dout, din]} on the CPU."""
    return {n: top(importance(w.float(), rs[layer_of(n)]), share).cpu() for n, w in base.weights.items()}


def select_sensitive(gradients: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Base neurons from the loss's root mean squared gradients [dout, din]: the top `share` of all matrices together, on the CPU."""
    names, rows = list(gradients), [g.flatten() for g in gradients.values()]
    masks = top(torch.cat(rows), share).split([len(r) for r in rows])
    return {n: m.view(gradients[n].shape).cpu() for n, m in zip(names, masks)}


def layer_of(weight_name: str) -> str:
    """The cross-attention layer that a K or V matrix belongs to."""
    return weight_name.rsplit(".", 2)[0]


def is_key(weight_name: str) -> bool:
    """Whether a weight makes keys; else it makes values."""
    return weight_name.rsplit(".", 2)[1] in KEYS
