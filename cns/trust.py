"""A session's JSON and tensors from a file that nobody vouches for in; nothing out, or a ValueError that says what cannot be true.

Everything that the rest of the package takes for granted of a session is checked here or in `session._assemble`: names,
shapes, types, sizes, finiteness. Whatever passes can be drawn, taught further and shown without another look.
"""

import io
import json
import math
import re

import torch
from PIL import Image
from torch import Tensor

from .concept import Concept, check
from .text import TOKEN

MAX_CONCEPTS = 1000
MAX_PICTURES = 10_000  # CLIP embeddings of one concept's pictures
MAX_SIDE = 4096  # pixels of a kept picture
COUNTS = ("neurons", "base_neurons", "general_removed", "shared_with_earlier", "seed", "steps", "images")
NUMBERS = ("share_of_model", "seconds")
SCORES = ("clip_i", "clip_i_before", "loss")  # None where there is no CLIP


def check_names(tensors: dict[str, Tensor], count: int, base) -> None:
    """Every tensor is one that a session of `count` concepts on `base` has; the general masks cover all weights or none."""
    if not 0 <= count <= MAX_CONCEPTS:
        raise ValueError(f"it has {count} concepts: at most {MAX_CONCEPTS} are read")
    for name in tensors:
        kind, _, rest = name.partition("/")
        if kind == "concept":
            number, _, rest = rest.partition("/")
            known = re.fullmatch("0|[1-9][0-9]{0,3}", number) and int(number) < count
            kind, _, at = rest.partition("/")
            known = known and (rest in ("vector", "features", "picture") or at in {"mask": base.weights, "shared": base.weights, "rms": base.layers, "gradient": base.weights}.get(kind, ()))
        else:
            known = (kind == "general" and rest in base.weights) or (kind == "delta" and re.sub("/(index|value)$", "", rest) in base.weights)
        if not known:
            raise ValueError(f"tensor `{name[:100]}` is none of a session's")
    general = [n for n in base.weights if f"general/{n}" in tensors]
    if general and len(general) < len(base.weights):
        raise ValueError(f"the general mask covers {len(general)} of {len(base.weights)} weights")


def check_concept(name, class_word, stats, names: tuple[str, ...], base) -> None:
    """The words are such as could have been taught; the statistics can be shown and drawn from."""
    if not isinstance(name, str) or not isinstance(class_word, str) or not isinstance(stats, dict):
        raise ValueError("a concept lacks its name, class word or statistics")
    concept = Concept(name, class_word, [None])  # type: ignore[list-item]  # no picture is looked at
    check(base, None, concept)
    if (concept.name, concept.class_word) != (name, class_word):
        raise ValueError(f"name `{name}` or class word `{class_word}` is not in its plain form")
    for key in COUNTS:
        if type(stats[key]) is not int or not 0 <= stats[key] < 2**53:
            raise ValueError(f"`{key}` of `{name}` is no count")
    for key in NUMBERS + SCORES:
        if not (stats[key] is None and key in SCORES) and not _finite(stats[key]):
            raise ValueError(f"`{key}` of `{name}` is no finite number")
    json.dumps(stats, allow_nan=False)  # refuses what JSON cannot keep, wherever it lies
    for key in ("base_share", "general_share"):  # which old sessions lack
        if not _finite(share := stats.get("settings", {}).get(key, 0)) or not 0 <= share <= 1.01:
            raise ValueError(f"`{key}` of `{name}` is no share")
    prompt = stats["prompt"]
    if not isinstance(prompt, str) or len(prompt) > 1000 or not {t.strip("<>") for t in TOKEN.findall(prompt)} <= set(names):
        raise ValueError(f"prompt of `{name}` names a token that was not taught")
    for weight, counts in stats["funnel"].items():
        if weight not in base.weights or not _funnel(counts, base.weights[weight].numel()):
            raise ValueError(f"funnel of `{name}` does not count base and concept neurons within each weight")


def check_picture(png: Tensor) -> Image.Image:
    """The decoded RGB picture."""
    if png.dtype != torch.uint8 or png.ndim != 1:
        raise ValueError("a picture is no PNG")
    try:
        picture = Image.open(io.BytesIO(png.numpy().tobytes()), formats=["PNG"])
        if max(picture.size) <= MAX_SIDE:
            return picture.convert("RGB")
    except Exception:  # a decoder of hostile bytes raises anything
        raise ValueError("a picture is no PNG that can be read") from None
    raise ValueError(f"a picture is {picture.width}x{picture.height} pixels: at most {MAX_SIDE} a side are read")


def check_features(features: Tensor | None, base) -> None:
    """Unit CLIP embeddings [k, d], d the base's own CLIP's."""
    if features is None:
        return
    wide = base.scorer.clip.config.projection_dim if base.scorer else None
    if features.dtype != torch.float32 or features.ndim != 2 or not 1 <= len(features) <= MAX_PICTURES or wide not in (None, features.shape[1]):
        raise ValueError("picture embeddings are not as wide as the CLIP's")
    if not torch.isfinite(features).all():
        raise ValueError("picture embeddings are not finite")


def check_selected_by(found: dict[str, Tensor], sizes: dict[str, int]) -> None:
    """What masks were chosen by: so many numbers as `sizes` say at each of its places, finite and not negative, or nothing at all."""
    if found and found.keys() != sizes.keys():
        raise ValueError(f"what a concept was selected by covers {len(found)} of {len(sizes)} places")
    for place, numbers in found.items():
        size = sizes[place]
        if numbers.dtype != torch.float32 or numbers.shape != (size,) or not torch.isfinite(numbers).all() or (numbers < 0).any():
            raise ValueError(f"what a concept was selected by at `{place}` is not {size} finite numbers from 0 up")


def _finite(value) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _funnel(counts, size: int) -> bool:
    """base >= concept >= 0 neurons among all `size`."""
    return isinstance(counts, list) and all(type(c) is int for c in counts) and len(counts) == 3 and 0 <= counts[1] <= counts[0] <= counts[2] == size
