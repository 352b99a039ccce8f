"""Prompts to be drawn as before in, an update of the K/V weights that they hardly notice out.

Keys and values are linear in the text features x, which every cross-attention layer reads (see `reading`): a prompt is drawn
as before, whatever else is learned, if dW x = 0 for its features. An update u of the selected entries is turned into

    dW = argmin ||dW - u||^2 + mu sum_x (dW x)^2,    row by row    dW_S = (I + mu C_SS)^-1 u_S,

S the row's selected columns and C the mean of x x^T over what is to be held still, scaled to a mean eigenvalue of 1: of
unrelated prompts, plus that of each earlier concept's. With mu = 0 nothing is held; as mu grows this becomes the projection
onto the null space of C (Wang et al., "Training Networks in Null Space of Feature Covariance for Continual Learning", 2021),
but what the entries can still say is found exactly.

How much can still be said about a text x is x^T (I + mu C)^-1 x, its room. A new token that starts as its class word has
next to none: it reads like what is held still. So it first moves to where there is room, see `roomy`.
"""

import random
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from .parts import Parts
from .selection import layer_of
from .text import read

STAY = 0.05  # what a new token's reading otherwise than its class word counts against its room

CHUNK = 16  # prompts that are read at once


def called(base, words: str, every: int = 1) -> list[str]:
    """What `words` may stand in: all of the base's templates, and of its scenes one of so many."""
    return [t.format(words) for t in (*base.card.templates, *base.card.scenes[::every])]


def pieces(base, prompts: list[str]) -> int:
    """How many parts `second_moment` has."""
    return sum(base.family.hearings(len(prompts[start : start + CHUNK])) for start in range(0, len(prompts), CHUNK))


@torch.no_grad()
def second_moment(base, prompts: list[str], vectors, within: Callable[[], AbstractContextManager] = nullcontext) -> Parts[Tensor]:
    """Mean of x x^T over all tokens of `prompts`, scaled to a trace of din: [1, din, din] for all layers, or [layers, din, din] (see `reading`); in parts.

    `within`: what the base is to be in each pass.
    """
    total = torch.zeros(())
    for start in range(0, len(prompts), CHUNK):
        some = prompts[start : start + CHUNK]
        heard = base.heard(read(base, some, vectors))
        for _ in range(base.family.hearings(len(some))):
            with within():
                x = next(heard).flatten(1, 2).float()  # [g, tokens, din]
            total = total.to(x.device) + x.transpose(1, 2) @ x
            yield
    return total * total.shape[1] / total.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]


def unrelated_prompts(base) -> list[str]:
    """The calibration prompts and captions of any class's things."""
    any_class = [prompt for word in base.card.class_words for prompt in called(base, word)]
    return [*base.card.calibration, *random.Random(0).sample(any_class, min(base.family.captions, len(any_class)))]


def unrelated(base) -> Parts[Tensor]:
    """C [g, din, din] of the `unrelated_prompts`, in parts; found once for a base, which never changes."""
    if base.unrelated is None:
        base.unrelated = yield from second_moment(base, unrelated_prompts(base), {})
    return base.unrelated


def roomy(base, prompts: list[str], vectors: dict[str, Tensor], token: str, c: Tensor, mu: float, rate: float, steps: int) -> Parts[Tensor]:
    """An embedding [din] of `token`, from vectors[token] on, whose text has more room and is otherwise read as before; in `steps` + 1 parts.

    c [g, din, din]: the first layer's counts. Adam's way up mean_p max_t r(x_pt) - STAY mean_pt s(x_pt - x0_pt), with r(x) = x^T (I + mu C)^-1 x / |x|^2, the
    room, and s(d) = d^T (I - (I + mu C)^-1) d / |x0|^2, what the base as it is would notice.
    """
    free = torch.linalg.inv(torch.eye(len(c[0]), device=c.device) + mu * c[0])
    vector = vectors[token].clone().requires_grad_()
    adam = torch.optim.Adam([vector], lr=rate)

    def features(own) -> Tensor:
        return base.projected(read(base, prompts, {**vectors, token: own})).float()

    def quadratic(x, form) -> Tensor:
        return torch.einsum("ptd,de,pte->pt", x, form, x)

    before = features(vector).detach()
    size = before.square().sum(-1)
    yield
    for _ in range(steps):
        x = features(vector)
        room = quadratic(x, free) / x.square().sum(-1)
        noticed = ((x - before).square().sum(-1) - quadratic(x - before, free)) / size
        (STAY * noticed.mean() - room.amax(1).mean()).backward(inputs=[vector])
        adam.step()
        adam.zero_grad()
        yield
    return vector.detach()


def stacked(index: dict[str, Tensor], weights: dict[str, Tensor]) -> Tensor:
    """Flat `index` [k] of each matrix as one [k in all] into all of them, set one above the other."""
    first, out = 0, []
    for name, i in index.items():
        out.append(i + first)
        first += weights[name].numel()
    return torch.cat(out)


def held_by(base, names, c: Tensor) -> Tensor:
    """For each row of the matrices `names`, one above the other, which of c [g, din, din] holds it: its layer's, or the only one."""
    layer = {n: i for i, n in enumerate(base.layers)}
    return torch.cat([torch.full((len(base.weights[n]),), layer[layer_of(n)] % len(c)) for n in names])


class Still:
    """u -> dW for matrices of the same din, `stacked`; `index` [k]: selected entries, flat and ascending.

    c [g, din, din]: what to hold still, `by` [rows in all] which of it in each row.
    """

    def __init__(self, index: Tensor, c: Tensor, mu: float, by: Tensor):
        index, din = index.to(c.device), c.shape[-1]
        own_rows, rows, count = torch.unique(index // din, return_inverse=True, return_counts=True)
        by = by.to(c.device)[own_rows]
        places = torch.arange(len(index), device=c.device) - (count.cumsum(0) - count)[rows]
        sizes = (count + 15) // 16 * 16  # rows of about as many entries are inverted together
        self.parts = []
        for size in sizes.unique().tolist():
            own = (sizes[rows] == size).nonzero().squeeze(1)
            these, row = torch.unique(rows[own], return_inverse=True)
            columns = torch.full((int(row.max()) + 1, size), -1, device=c.device)
            columns[row, places[own]] = index[own] % din
            real = columns >= 0
            held = mu * c[by[these][:, None, None], columns[:, :, None], columns[:, None]] * (real[:, :, None] & real[:, None])
            factor = torch.linalg.cholesky(held + torch.eye(size, device=c.device))
            self.parts.append((own, row, places[own], torch.cholesky_inverse(factor)))  # [rows, size, size]

    def __call__(self, u: Tensor) -> Tensor:
        """dW [k] of u [k]; also the gradient by u of the gradient by dW."""
        out = torch.empty_like(u)
        for own, row, place, inverse in self.parts:
            padded = torch.zeros(inverse.shape[:2], device=u.device)
            padded[row, place] = u[own]
            out[own] = torch.einsum("rk,rkl->rl", padded, inverse)[row, place]
        return out
