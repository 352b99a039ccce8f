"""Sparse changes of weights: data, and the context manager that puts them on a base and takes them off again.

A delta is flat indices and values per weight name. Taking it off writes the saved originals back, so the base is bit for
bit what it was (subtracting would drift).
"""

from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class SparseDelta:
    """W - W0 at some entries: `indices[name]` sorted int64 [k] into the flat weight, `values[name]` float32 [k]."""

    indices: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self):
        return sum(len(i) for i in self.indices.values())

    def at(self, name: str, index: Tensor) -> Tensor:
        """Values [k] at flat `index` [k], zero where the delta has none."""
        if name not in self.indices or not len(self.indices[name]):
            return torch.zeros(len(index))
        place = torch.searchsorted(self.indices[name], index).clamp(max=len(self.indices[name]) - 1)
        return torch.where(self.indices[name][place] == index, self.values[name][place], 0.0)

    def replaced(self, indices: dict[str, Tensor], values: dict[str, Tensor]) -> "SparseDelta":
        """This delta with `values` at `indices`, over the union of both."""
        out_i, out_v = dict(self.indices), dict(self.values)
        for name, new in indices.items():
            union = torch.cat([self.indices.get(name, new[:0]), new]).unique()
            out_v[name] = self.at(name, union)
            out_v[name][torch.searchsorted(union, new)] = values[name].float()
            out_i[name] = union
        return SparseDelta(out_i, out_v)


@contextmanager
def written(weights: dict[str, Tensor], indices: dict[str, Tensor], values: dict[str, Tensor]):
    """Within: `weights[name].flatten()[indices[name]] = values[name]`; after, also after an error, the originals, bit for bit."""
    saved = {}
    try:
        for name, index in indices.items():
            flat = weights[name].data.view(-1)
            index = index.to(flat.device)
            saved[name] = index, flat[index]
            flat[index] = values[name].detach().to(flat.device, flat.dtype)
        yield
    finally:
        for name, (index, original) in saved.items():
            weights[name].data.view(-1)[index] = original


def applied(weights: dict[str, Tensor], delta: SparseDelta):
    """Within: W = W0 + delta. Raises KeyError for a name that `weights` lacks."""
    now = {n: weights[n].data.view(-1)[i.to(weights[n].device)].float().cpu() + delta.values[n] for n, i in delta.indices.items()}
    return written(weights, delta.indices, now)


@contextmanager
def trainable(weights):
    """Within: gradients flow to these parameters."""
    weights = list(weights)
    try:
        for w in weights:
            w.requires_grad_(True)
        yield weights
    finally:
        for w in weights:
            w.requires_grad_(False)
            w.grad = None
