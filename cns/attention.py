"""Watching cross-attention: how much the picture's queries look at each word, in all and place by place."""

from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

AS_IT_IS = nn.Identity()


def across(attn, hidden_states, x, attention_mask=None, *_, **__) -> Tensor:
    """a [batch, tokens] in [0, 1]: cross-attention of hidden states [batch, queries, d] to text x [batch, tokens, din], mean over queries and heads."""
    q = attn.head_to_batch_dim((attn.norm_q or AS_IT_IS)(attn.to_q(hidden_states)))  # [batch * heads, queries, d]
    k = attn.head_to_batch_dim((attn.norm_k or AS_IT_IS)(attn.to_k(x)))  # [batch * heads, tokens, d]
    mask = attn.prepare_attention_mask(attention_mask, k.shape[1], len(hidden_states))  # of padding: [batch, 1, tokens]
    return attn.get_attention_scores(q, k, mask).mean(1).unflatten(0, (-1, attn.heads)).mean(1).float()


def jointly(attn, hidden_states, x, attention_mask=None, image_rotary_emb=None, **_) -> Tensor:
    """The same where the picture looks at itself and the text at once: what of its attention falls to each token.

    `image_rotary_emb`: cosines and sines [tokens + queries, d] that turn queries and keys by their place, the text's first.
    """
    cos, sin = image_rotary_emb or (torch.ones(1), torch.zeros(1))
    cos, sin = (t.to(x.device).expand(x.shape[1] + hidden_states.shape[1], -1) for t in (cos, sin))

    def heads(of, project, norm, places):
        """Heads of [batch, n, d]."""
        y = (norm or AS_IT_IS)(project(of).unflatten(-1, (attn.heads, -1)).transpose(1, 2))
        real, imaginary = y.unflatten(-1, (-1, 2)).unbind(-1)
        return (y * cos[places] + torch.stack([-imaginary, real], -1).flatten(-2) * sin[places]).unbind(1)

    text, picture = slice(None, x.shape[1]), slice(x.shape[1], None)
    queries = heads(hidden_states, attn.to_q, attn.norm_q, picture)
    keys = zip(heads(x, attn.add_k_proj, attn.norm_added_k, text), heads(hidden_states, attn.to_k, attn.norm_k, picture))
    total = torch.zeros(x.shape[:2], device=x.device)
    for q, k in zip(queries, keys):  # one by one: queries times keys are many
        a = (q @ torch.cat(k, 1).transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1)
        total += a[..., text].mean(1).float() / attn.heads
    return total


class _Watcher:
    """An attention processor that does what the one before it did and keeps the text it was given and the mean attention to every token."""

    def __init__(self, processor, look, store: list[tuple[Tensor, Tensor]]):
        self.processor, self.look, self.store = processor, look, store

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, *more, **kwargs):  # what more there is, some layers give by name and some by place
        self.store.append((encoder_hidden_states, self.look(attn, hidden_states, encoder_hidden_states, *more, **kwargs)))
        return self.processor(attn, hidden_states, encoder_hidden_states, *more, **kwargs)


@contextmanager
def processed(layers: dict[str, torch.nn.Module], wrap):
    """Within: each layer's attention processor is `wrap(name, processor)`; after, also after an error, what it was."""
    before = {name: layer.processor for name, layer in layers.items()}
    try:
        for name, layer in layers.items():
            layer.set_processor(wrap(name, layer.processor))
        yield
    finally:
        for name, layer in layers.items():
            layer.set_processor(before[name])


@contextmanager
def watched(layers: dict[str, torch.nn.Module], look=across):
    """Within: yields {layer: list of (text x [batch, tokens, din], attention [batch, tokens])}, one for each pass; `look`: `across` or `jointly`."""
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in layers}
    with processed(layers, lambda name, processor: _Watcher(processor, look, seen[name])):
        yield seen


def grid(queries: int, height: int, width: int) -> tuple[int, int]:
    """The rows and columns of a layer's `queries` when the latents are [height, width]: halved, rounded up, until they fit."""
    h, w = height, width
    while h * w > queries:
        h, w = (h + 1) // 2, (w + 1) // 2
    if h * w != queries:
        raise ValueError(f"a cross-attention layer has {queries} queries, which no halving of {height} x {width} latents gives")
    return h, w


@dataclass(frozen=True)
class Heat:
    """Where one word acted: its mean attention [h, w] over heads, layers and steps, in [0, 1]."""

    word: str
    map: np.ndarray

    def over(self, picture: Image.Image) -> Image.Image:
        """`picture` with the word's attention glowing on it; the strongest place is brightest."""
        heat = Image.fromarray((255 * self.map / max(self.map.max(), 1e-12)).astype(np.uint8)).resize(picture.size, Image.Resampling.BICUBIC)
        t = np.asarray(heat, np.float32)[..., None] / 255
        glow = np.concatenate([255 * np.minimum(1, 2 * t), 255 * np.maximum(0, 2 * t - 1), 60 * (1 - t)], -1)  # dark blue, red, yellow
        return Image.fromarray((0.45 * np.asarray(picture.convert("RGB")) + 0.55 * glow).astype(np.uint8))


class _Mapper:
    """An attention processor that does what the one before it did and adds up where `texts` are looked at."""

    def __init__(self, processor, texts: Tensor, shares, count: int, total: list):
        self.processor, self.texts, self.shares, self.count, self.total = processor, texts, shares, count, total

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **kwargs):
        rows, (height, width) = hidden_states[-self.count :], self.shares.size
        q = attn.head_to_batch_dim(attn.to_q(rows))  # [count * heads, queries, d]
        shape, maps = grid(q.shape[1], height, width), []
        for text, share in zip(self.texts, self.shares.at(q.shape[1])):
            k = attn.head_to_batch_dim(attn.to_k(text.expand(self.count, -1, -1)))  # [count * heads, tokens, d]
            a = attn.get_attention_scores(q, k).unflatten(0, (-1, attn.heads)).mean(1).float() * share.to(q.device)[:, None]  # [count, queries, tokens]
            maps.append(F.interpolate(a.transpose(1, 2).unflatten(2, shape), (height, width), mode="bilinear"))
        self.total.append(torch.stack(maps, 1).cpu())
        return self.processor(attn, hidden_states, encoder_hidden_states=encoder_hidden_states, **kwargs)


@contextmanager
def mapped(layers: dict[str, torch.nn.Module], texts: Tensor, shares, count: int):
    """Within: yields a list of attention maps [count, n, tokens, h, w], one for each layer and pass of the U-Net.

    `texts` [n, tokens, din]: what the last `count` rows of a batch read; `shares`: which part of the canvas reads which
    (see `regions.Shares`).
    """
    total: list[Tensor] = []
    with processed(layers, lambda _, processor: _Mapper(processor, texts, shares, count, total)):
        yield total
