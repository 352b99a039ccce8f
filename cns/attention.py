"""Watching cross-attention: how much the picture's queries look at each word."""

from contextlib import contextmanager

import torch
from torch import Tensor


class _Watcher:
    """An attention processor that does what the one before it did and keeps the mean attention to every token."""

    def __init__(self, processor, store: list[Tensor]):
        self.processor, self.store = processor, store

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **kwargs):
        q = attn.head_to_batch_dim(attn.to_q(hidden_states))  # [batch * heads, queries, d]
        k = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))  # [batch * heads, tokens, d]
        a = attn.get_attention_scores(q, k).mean(1)  # over queries
        self.store.append(a.unflatten(0, (-1, attn.heads)).mean(1).float())  # over heads: [batch, tokens]
        return self.processor(attn, hidden_states, encoder_hidden_states=encoder_hidden_states, **kwargs)


@contextmanager
def watched(layers: dict[str, torch.nn.Module]):
    """Within: yields {layer: list of [batch, tokens], one for each pass of the U-Net}; attention in [0, 1]."""
    before = {name: layer.processor for name, layer in layers.items()}
    seen: dict[str, list[Tensor]] = {name: [] for name in layers}
    try:
        for name, layer in layers.items():
            layer.set_processor(_Watcher(layer.processor, seen[name]))
        yield seen
    finally:
        for name, layer in layers.items():
            layer.set_processor(before[name])
