"""Boxes with words in, cross-attention bound to them out: several taught things in one picture, each in its place.

Inside a region's box the picture reads the region's words, elsewhere the global prompt. This is done to the output of
every cross-attention layer: out = sum_r share_r * attention(picture, words_r), where the shares of a place add up to one,
have soft edges, and a later region lies over an earlier one.

A base that knows things only in places of its own, as the starter does, draws halves of such things side by side. For it, each
region's words are drawn alone first and set, smaller, into the middle of the box, which their ground fills (`set_into`), and bound
only while all is drawn over.
"""

import json
import math
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention import grid, processed
from .text import check_length, check_prompt

LIMIT = 8  # regions in a picture
MAX_BYTES = 2**20  # of a layout's file
SMALLEST = 0.05  # side of a box [fraction of the canvas]
EDGE = 0.06  # width of a soft edge [fraction of the canvas]
ROOM = 1.25  # a picture drawn alone is set into a box this much larger than the box's shorter side: it leaves a margin around the thing

PRESETS = {  # boxes from the back to the front
    "side by side": ((0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)),
    "foreground and background": ((0.0, 0.0, 1.0, 1.0), (0.25, 0.35, 0.75, 1.0)),
    "grid": ((0.0, 0.0, 0.5, 0.5), (0.5, 0.0, 1.0, 0.5), (0.0, 0.5, 0.5, 1.0), (0.5, 0.5, 1.0, 1.0)),
}


@dataclass(frozen=True)
class Region:
    """A box and what is to be drawn in it."""

    box: tuple[float, float, float, float]  # left, top, right, bottom [fractions of the canvas]
    words: str

    def __post_init__(self):
        try:
            object.__setattr__(self, "box", tuple(float(v) for v in self.box))
            left, top, right, bottom = self.box
        except (TypeError, ValueError):
            raise ValueError(f"box `{self.box}` is not four numbers: give left, top, right and bottom as fractions of the canvas") from None
        if not all(math.isfinite(v) and 0 <= v <= 1 for v in self.box):
            raise ValueError(f"box `{_box(self.box)}` is outside the canvas: choose fractions from 0 to 1")
        if right - left < SMALLEST or bottom - top < SMALLEST:
            raise ValueError(f"box `{_box(self.box)}` is {right - left:g} wide and {bottom - top:g} high: make each side at least {SMALLEST}")
        if not isinstance(self.words, str) or not self.words.strip():
            raise ValueError(f"the region at `{_box(self.box)}` has no words: say what to draw there")
        check_length(f"the text of the region at `{_box(self.box)}`", self.words)

    @classmethod
    def parse(cls, text: str) -> "Region":
        """`0,0,0.5,1: a <rex> dog` as a region."""
        box, colon, words = text.partition(":")
        if not colon:
            raise ValueError(f"region `{text}` has no colon: write it as `0,0,0.5,1: a dog`")
        return cls(tuple(box.split(",")), words.strip())  # type: ignore[arg-type]  # it reads them as numbers


def _box(box) -> str:
    return ",".join(f"{v:g}" for v in box)


def checked(regions) -> tuple[Region, ...]:
    """`regions` (also as from JSON), later ones over earlier ones. Raises ValueError for more than `LIMIT` or a bad one."""
    try:
        regions = tuple(r if isinstance(r, Region) else Region(**r) for r in regions)
    except TypeError:  # not to be gone through, or no mapping with these two names in it
        raise ValueError("a layout is a list of regions, each with a `box` of four fractions and its `words`") from None
    if len(regions) > LIMIT:
        raise ValueError(f"there are {len(regions)} regions: give at most {LIMIT}")
    return regions


def arranged(preset: str, words) -> tuple[Region, ...]:
    """The boxes of a preset with their words, from the back to the front. Raises ValueError for an unknown one or too few or many words."""
    if preset not in PRESETS:
        raise ValueError(f"layout `{preset}` is unknown: choose {', '.join(f'`{p}`' for p in PRESETS)}")
    if len(words) != len(PRESETS[preset]):
        raise ValueError(f"layout `{preset}` has {len(PRESETS[preset])} boxes, but there are words for {len(words)}: give words for each")
    return tuple(Region(box, w) for box, w in zip(PRESETS[preset], words))


def check_words(base, session, regions) -> list[str]:
    """The words of all regions that the encoder will not read. Raises ValueError for an untaught token."""
    return [word for r in regions for word in check_prompt(base, session, r.words)]


def save_layout(regions, path: str | Path) -> None:
    """Write the regions as JSON."""
    Path(path).write_text(json.dumps([asdict(r) for r in regions], indent=1))


def load_layout(path: str | Path) -> tuple[Region, ...]:
    """The regions in the JSON file at `path`. Raises ValueError when it is no layout."""
    if (size := Path(path).stat().st_size) > MAX_BYTES:
        raise ValueError(f"`{Path(path).name}` is no layout: it has {size / 2**20:.1f} MB, a layout at most {MAX_BYTES // 2**20}")
    try:
        found = json.loads(Path(path).read_text())
    except ValueError:
        raise ValueError(f"`{Path(path).name}` is no layout: it is not JSON") from None
    if not isinstance(found, list):
        raise ValueError(f"`{Path(path).name}` is no layout: it is not a list of regions")
    return checked(found)


class Shares:
    """Which part of a place reads which text: 0 is the global prompt, the regions follow; they add up to one."""

    def __init__(self, regions: tuple[Region, ...], height: int, width: int):
        self.size = height, width  # of the latents
        parts = [inside(r.box, 4 * height, 4 * width) for r in regions]
        self.fine = layered(torch.stack(parts)) if parts else torch.ones(1, 4 * height, 4 * width)  # [1 + regions, 4 height, 4 width]

    def at(self, queries: int) -> Tensor:
        """[1 + regions, queries] for a layer with so many queries."""
        return F.adaptive_avg_pool2d(self.fine, grid(queries, *self.size)).flatten(1)


def inside(box, height: int, width: int) -> Tensor:
    """[height, width]: 1 inside the box, 0 outside, with soft edges."""
    y, x = ((torch.arange(n) + 0.5) / n for n in (height, width))
    return _ramp(y, box[1], box[3])[:, None] * _ramp(x, box[0], box[2])


def layered(parts: Tensor) -> Tensor:
    """Shares [1 + n, h, w] that add up to one, of what lies beneath and of each of `parts` [n, h, w], in [0, 1].

    A later part lies over an earlier one; where the soft edges of two meet, nothing shines through.
    """
    free = torch.cat([1 - parts[1:], torch.ones_like(parts[:1])]).flip(0).cumprod(0).flip(0)  # of later parts
    share, covered = parts * free, parts.sum(0).clamp(max=1)
    return torch.cat([(1 - covered)[None], share / share.sum(0).clamp(min=1e-12) * covered])


def set_into(view: Tensor, box) -> tuple[Tensor, Tensor]:
    """(`view` [..., h, w], made smaller, in the middle of `box` and going on around it as its rim is; where it is to be seen [h, w]: in the box)."""
    (left, top, right, bottom), (height, width) = box, view.shape[-2:]
    scale = min(1.0, ROOM * min(right - left, bottom - top))
    h, w = max(1, round(scale * height)), max(1, round(scale * width))
    y, x = round(((top + bottom) * height - h) / 2), round(((left + right) * width - w) / 2)
    small = F.interpolate(view, (h, w), mode="bilinear", antialias=True)
    rows, columns = (torch.arange(height) - y).clamp(0, h - 1), (torch.arange(width) - x).clamp(0, w - 1)
    return small[..., rows, :][..., columns], inside(box, height, width)


def _ramp(x: Tensor, low: float, high: float) -> Tensor:
    """1 between `low` and `high`, 0 outside, linear over an `EDGE` around each; hard at the canvas's own border."""
    up = torch.ones_like(x) if low <= 0 else ((x - low) / EDGE + 0.5).clamp(0, 1)
    down = torch.ones_like(x) if high >= 1 else ((high - x) / EDGE + 0.5).clamp(0, 1)
    return up * down


class _Bound:
    """An attention processor that does what the one before it did, region by region."""

    def __init__(self, processor, texts: Tensor, shares: Shares, count: int):
        self.processor, self.texts, self.shares, self.count = processor, texts, shares, count

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **kwargs):
        out = self.processor(attn, hidden_states, encoder_hidden_states=encoder_hidden_states, **kwargs)  # [batch, queries, d]
        share = self.shares.at(hidden_states.shape[1]).to(out)[..., None]  # [1 + regions, queries, 1]
        rows = hidden_states[-self.count :]
        mixed = share[0] * out[-self.count :]
        for part, text in zip(share[1:], self.texts):
            mixed = mixed + part * self.processor(attn, rows, encoder_hidden_states=text.expand(len(rows), -1, -1), **kwargs)
        return torch.cat([out[: -self.count], mixed])


@contextmanager
def bound(layers: dict[str, torch.nn.Module], texts: Tensor, shares: Shares, count: int):
    """Within: the last `count` rows of a batch (those that read the prompt) read `texts` [regions, tokens, din] in their boxes."""
    if not len(texts):
        yield
        return
    with processed(layers, lambda _, processor: _Bound(processor, texts, shares, count)):
        yield
