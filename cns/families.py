"""The architectures that CNS can teach, each as one description; nothing else in the package knows one from another.

A family says what its pipeline is called and, within it, where the denoiser is, which of its layers read the text, which
text encoders there are and how their outputs become what the denoiser reads. What it predicts (noise, velocity, clean
latents) stands in the pipeline's scheduler.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Text:
    """Prompts as a denoiser reads them, one row each."""

    features: Tensor  # [n, length, d]: what cross-attention's keys and values are made of
    words: Tensor  # bool [n, length]: true at words, false at start, end and padding
    pooled: Tensor | None = None  # [n, d']: the prompt as a whole, where a denoiser wants that too
    mask: Tensor | None = None  # bool [n, length]: false at padding, where a denoiser is to leave that out

    def __getitem__(self, rows) -> "Text":
        return self._each(lambda t: t[rows])

    def repeated(self, n: int) -> "Text":
        """This one row, `n` times."""
        return self._each(lambda t: t.expand(n, *t.shape[1:]))

    def _each(self, change) -> "Text":
        return replace(self, **{f.name: change(t) for f in fields(self) if (t := getattr(self, f.name)) is not None})

    def arguments(self, prefix: str = "") -> dict[str, Tensor]:
        """As a diffusers pipeline takes it; `prefix`: "negative_" for what to keep away from."""
        parts = {"prompt_embeds": self.features, "pooled_prompt_embeds": self.pooled, "prompt_attention_mask": self.mask}
        return {prefix + name: t for name, t in parts.items() if t is not None}


@dataclass(frozen=True)
class Family:
    """Where the parts of a pipeline are that teaching works on."""

    name: str
    pipeline: str  # diffusers' class
    from_picture: str | None  # its class that starts from a picture
    encoders: tuple[tuple[str, str], ...]  # (tokenizer, text encoder), as the pipeline calls them
    embeddings: tuple[str, ...]  # an embedding's parts in a textual-inversion file, one for each encoder; `{}` is the token
    read: Callable[[Sequence[nn.Module], Sequence[Tensor], Sequence[Tensor]], tuple]  # (encoders, ids, masks) -> `Text`'s (features, pooled, mask)
    inputs: Callable[[Text, int], dict]  # what the denoiser takes beside latents, time and features, for a side [pixels]
    denoiser: str = "unet"
    attention: str = "attn2"  # the layers that read the text
    projections: tuple[str, str] = ("to_k", "to_v")  # in them, each a Linear
    project: Callable[[nn.Module, Tensor], Tensor] = lambda denoiser, features: features  # what of the features these read
    length: int | None = None  # tokens of a prompt; None: what the tokenizer says
    drawing: tuple[tuple[str, object], ...] = ()  # what its pipeline is to be told beside the prompts
    regions: bool = True  # whether attention can be bound to regions and mapped
    keys: str | None = "lora_unet_"  # what other programs put before a weight's name in a patch; None: they have no such name

    def layers(self, denoiser: nn.Module) -> dict[str, nn.Module]:
        """The cross-attention layers by name."""
        return {n: m for n, m in denoiser.named_modules() if n.endswith(self.attention) and getattr(m, "is_cross_attention", False)}


def _last(encoders, ids, masks):
    """The only encoder's output."""
    return encoders[0](ids[0])[0], None, None


def _two(encoders, ids, masks):
    """Both encoders' last but one layers side by side, and what the second makes of the whole prompt."""
    small, large = (e(i, output_hidden_states=True) for e, i in zip(encoders, ids))
    return torch.cat([small.hidden_states[-2], large.hidden_states[-2]], -1), large.text_embeds, None


def _masked(encoders, ids, masks):
    """The only encoder's output, which its padding does not touch."""
    return encoders[0](ids[0], attention_mask=masks[0].long())[0], None, masks[0]


def _size_too(text: Text, side: int) -> dict:
    """SDXL's denoiser is told the picture's original size, the crop's corner and the size wanted, each as height and width."""
    times = text.pooled.new_tensor([side, side, 0, 0, side, side]).expand(len(text.pooled), -1)  # type: ignore[union-attr,arg-type]
    return {"added_cond_kwargs": {"text_embeds": text.pooled, "time_ids": times}}


def _masked_and_size(text: Text, side: int) -> dict:
    """PixArt's denoiser is given the padding, and the wanted height and width with their ratio, which those of 1024 pixels read."""
    size = text.features.new_tensor([side, side]).expand(len(text.features), -1)
    return {"encoder_attention_mask": text.mask, "added_cond_kwargs": {"resolution": size, "aspect_ratio": torch.ones_like(size[:, :1])}}


PIXART = Family(
    "PixArt-Sigma", "PixArtSigmaPipeline", None, encoders=(("tokenizer", "text_encoder"),), embeddings=("{}",), read=_masked, inputs=_masked_and_size,
    denoiser="transformer", project=lambda denoiser, features: denoiser.caption_projection(features), length=300, regions=False, keys=None,
    drawing=(("negative_prompt", None), ("use_resolution_binning", False)),
)  # fmt: skip
FAMILIES = (
    Family(
        "Stable Diffusion 1 and 2", "StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline",
        encoders=(("tokenizer", "text_encoder"),), embeddings=("{}",), read=_last, inputs=lambda text, side: {},
    ),
    Family(
        "Stable Diffusion XL", "StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline",
        encoders=(("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2")), embeddings=("clip_l", "clip_g"), read=_two, inputs=_size_too,
    ),
    PIXART,
    replace(PIXART, name="PixArt-Alpha", pipeline="PixArtAlphaPipeline", length=120),
)  # fmt: skip


def family_of(pipeline: str, base: str) -> Family:
    """The family whose pipeline is called so. Raises ValueError that names those that can be taught."""
    for family in FAMILIES:
        if family.pipeline == pipeline:
            return family
    known = ", ".join(f"{f.name} (`{f.pipeline}`)" for f in FAMILIES)
    raise ValueError(f"base `{base}` is a `{pipeline}`, which CNS cannot teach: choose one of {known}")
