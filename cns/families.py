"""The architectures that CNS can teach, each as one description; nothing else in the package knows one from another.

A family says what its pipeline is called and, within it, where the denoiser is, which of its layers read the text, which
text encoders there are and how their outputs become what the denoiser reads, and how its noise is made (see `noise`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import across, jointly
from .noise import Diffusion, Flow
from .reading import first_block, layer_by_layer, passes, together


@dataclass(frozen=True)
class Text:
    """Prompts as a denoiser reads them, one row each."""

    features: Tensor  # [n, length, d]: what cross-attention's keys and values are made of
    words: Tensor  # bool [n, length]: true at words, false at start, end and padding
    pooled: Tensor | None = None  # [n, d']: the prompt as a whole, where a denoiser wants that too
    mask: Tensor | None = None  # bool [n, length]: false at padding, where a denoiser is to leave that out

    def __getitem__(self, rows) -> "Text":
        return self._each(lambda t: t[rows])

    def at(self, positions: Tensor) -> "Text":
        """Only these positions [n, m] of each row."""
        features = self.features.gather(1, positions[:, :, None].expand(-1, -1, self.features.shape[2]))
        mask = None if self.mask is None else self.mask.gather(1, positions)
        return replace(self, features=features, words=self.words.gather(1, positions), mask=mask)

    def repeated(self, n: int) -> "Text":
        """This one row, `n` times."""
        return self._each(lambda t: t.expand(n, *t.shape[1:]))

    def _each(self, change) -> "Text":
        return replace(self, **{f.name: change(t) for f in fields(self) if (t := getattr(self, f.name)) is not None})

    def arguments(self, prefix: str = "") -> dict[str, Tensor]:
        """As a diffusers pipeline takes it; `prefix`: "negative_" for what to keep away from."""
        parts = {"prompt_embeds": self.features, "pooled_prompt_embeds": self.pooled, "prompt_attention_mask": self.mask}
        return {prefix + name: t for name, t in parts.items() if t is not None}


def plainly(denoiser: nn.Module, noisy: Tensor, t: Tensor, features: Tensor, **more) -> Tensor:
    """What it makes of noisy latents [n, c, h, w] at times t [n], reading text features [n, length, d]."""
    return denoiser(noisy, timestep=t, encoder_hidden_states=features, **more).sample[:, : noisy.shape[1]]  # the rest is a variance


@dataclass(frozen=True)
class Family:
    """Where the parts of a pipeline are that teaching works on."""

    name: str
    pipeline: str  # diffusers' class
    from_picture: str | None  # its class that starts from a picture
    encoders: tuple[tuple[str, str], ...]  # (tokenizer, text encoder), as the pipeline calls them
    embeddings: tuple[str, ...]  # an embedding's parts in a textual-inversion file, one for each encoder; `{}` is the token
    read: Callable[[Sequence[nn.Module], Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]], Text]  # from (encoders, ids, masks, words)
    inputs: Callable[[Text, int], dict]  # what the denoiser takes beside latents, time and features, for a side [pixels]
    run: Callable[..., Tensor] = plainly  # how the denoiser is run
    denoiser: str = "unet"
    attention: str = "attn2"  # the layers that read the text
    projections: tuple[str, str] = ("to_k", "to_v")  # in them, each a Linear
    marked: str = "is_cross_attention"  # what is true of them
    project: Callable[[nn.Module, Text], Tensor] = lambda denoiser, text: text.features  # what the first of them reads
    heard: Callable = together  # what each of them reads, see `reading`
    hearings: Callable[[int], int] = lambda n: 1  # in how many passes of so many prompts
    look: Callable = across  # how the picture looks at the text in them, see `attention`
    captions: int = 400  # how many tell what is to be held still
    lengths: tuple[int | None, ...] = (None, None, None)  # tokens of a prompt, for each encoder; None: what its tokenizer says
    space: str = ""  # before a word, where a tokenizer tells one that starts a text from one within it
    cased: bool = True  # whether its pipeline leaves capitals to the tokenizers
    instruction: str = ""  # what prompts to be drawn stand behind as the encoder reads them; the denoiser does not see it
    noise: type[Diffusion | Flow] = Diffusion
    encoded: Callable = lambda out: out.latent_dist.mean  # latents, of what the autoencoder's encoder returns
    tiles: bool = True  # whether its autoencoder, asked to work in tiles, does so only beyond the side that it was trained on
    packed: int = 1  # side of the squares of latents that its denoiser takes for one place
    guidance: float = 7.5  # classifier-free guidance, as its pipeline has it
    negatives: bool = True  # whether its pictures can be kept away from a prompt
    drawing: tuple[tuple[str, object], ...] = ()  # what its pipeline is to be told beside the prompts
    regions: bool = True  # whether attention can be bound to regions and mapped
    keys: str | None = "lora_unet_"  # what other programs put before a weight's name in a patch; None: they have no such name

    def layers(self, denoiser: nn.Module) -> dict[str, nn.Module]:
        """The cross-attention layers by name."""
        return {n: m for n, m in denoiser.named_modules() if n.endswith(self.attention) and getattr(m, self.marked, None)}


def _last(encoders, ids, masks, words):
    """The only encoder's output."""
    return Text(encoders[0](ids[0])[0], words[0])


def _two(encoders, ids, masks, words):
    """Both encoders' last but one layers side by side, and what the second makes of the whole prompt."""
    small, large = (e(i, output_hidden_states=True) for e, i in zip(encoders, ids))
    return Text(torch.cat([small.hidden_states[-2], large.hidden_states[-2]], -1), words[0], large.text_embeds)


def _masked(encoders, ids, masks, words):
    """The only encoder's output, which its padding does not touch."""
    return Text(encoders[0](ids[0], attention_mask=masks[0].long())[0], words[0], mask=masks[0])


def _three(encoders, ids, masks, words):
    """SD3's: both CLIPs' last but one layers side by side, filled up to T5's width, then T5's, padding included; pooled, what the CLIPs make of the whole."""
    small, large = (e(i, output_hidden_states=True) for e, i in zip(encoders[:2], ids))
    clip, t5 = torch.cat([small.hidden_states[-2], large.hidden_states[-2]], -1), encoders[2](ids[2])[0]
    features = torch.cat([F.pad(clip, (0, t5.shape[-1] - clip.shape[-1])), t5], 1)
    return Text(features, torch.cat([words[0], words[2]], 1), torch.cat([small.text_embeds, large.text_embeds], -1))


def _long_and_whole(encoders, ids, masks, words):
    """FLUX's: what T5 makes of the words, padding included, and what CLIP makes of the whole."""
    return Text(encoders[1](ids[1])[0], words[1], encoders[0](ids[0]).pooler_output)


def _scaled(denoiser: nn.Module, noisy: Tensor, t: Tensor, features: Tensor, **more) -> Tensor:
    """Sana's, some of which count time from 0 to 1."""
    return plainly(denoiser, noisy, t * denoiser.config.timestep_scale, features, **more)


def _packed(denoiser: nn.Module, noisy: Tensor, t: Tensor, features: Tensor, **more) -> Tensor:
    """FLUX's: squares of 2 x 2 latents are one place, which has a row and a column, and time goes from 0 to 1.

    Where guidance was distilled into it, it is run with a guidance of 1: then it predicts what it was shown, not what is drawn from that.
    """
    squares = F.pixel_unshuffle(noisy, 2)  # [n, 4 c, h / 2, w / 2]
    rows, columns = squares.shape[2:]
    places = torch.stack([torch.zeros(rows, columns), *torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")], -1)
    guidance = torch.ones(len(noisy), device=noisy.device) if denoiser.config.guidance_embeds else None
    out = denoiser(
        squares.flatten(2).transpose(1, 2), timestep=(t / 1000).to(noisy), encoder_hidden_states=features, guidance=guidance,
        img_ids=places.flatten(0, 1).to(noisy), txt_ids=torch.zeros(features.shape[1], 3).to(noisy), **more,
    ).sample  # fmt: skip
    return F.pixel_shuffle(out.transpose(1, 2).unflatten(2, (rows, columns)), 2)


def _size_too(text: Text, side: int) -> dict:
    """SDXL's denoiser is told the picture's original size, the crop's corner and the size wanted, each as height and width."""
    times = text.pooled.new_tensor([side, side, 0, 0, side, side]).expand(len(text.pooled), -1)  # type: ignore[union-attr,arg-type]
    return {"added_cond_kwargs": {"text_embeds": text.pooled, "time_ids": times}}


def _masked_and_size(text: Text, side: int) -> dict:
    """PixArt's denoiser is given the padding, and the wanted height and width with their ratio, which those of 1024 pixels read."""
    size = text.features.new_tensor([side, side]).expand(len(text.features), -1)
    return {"encoder_attention_mask": text.mask, "added_cond_kwargs": {"resolution": size, "aspect_ratio": torch.ones_like(size[:, :1])}}


def _masked_too(text: Text, side: int) -> dict:
    """Sana's denoiser is given the padding."""
    return {"encoder_attention_mask": text.mask}


def _normed(denoiser: nn.Module, text: Text) -> Tensor:
    """Sana's text as all of its layers read it."""
    return denoiser.caption_norm(denoiser.caption_projection(text.features))


SANA_ASKS = "\n".join(  # what Sana was trained behind, as diffusers' pipeline has it; Xie et al., 2024, section 3.2
    (
        "Given a user prompt, generate an 'Enhanced prompt' that provides detailed visual descriptions suitable for image generation. Evaluate the level of detail in the user prompt:",
        "- If the prompt is simple, focus on adding specifics about colors, shapes, sizes, textures, and spatial relationships to create vivid and concrete scenes.",
        "- If the prompt is already detailed, refine and enhance the existing details slightly without overcomplicating.",
        "Here are examples of how to transform or refine prompts:",
        "- User Prompt: A cat sleeping -> Enhanced: A small, fluffy white cat curled up in a round shape, sleeping peacefully on a warm sunny windowsill, surrounded by pots of blooming red flowers.",
        "- User Prompt: A busy city street -> Enhanced: A bustling city street scene at dusk, featuring glowing street lamps, a diverse crowd of people in colorful clothing, and a double-decker bus passing by towering glass skyscrapers.",
        "Please generate only the enhanced description for the prompt below and avoid including any additional commentary or evaluations:",
        "User Prompt:",
    )
)
PIXART = Family(
    "PixArt-Sigma", "PixArtSigmaPipeline", None, encoders=(("tokenizer", "text_encoder"),), embeddings=("{}",), read=_masked, inputs=_masked_and_size,
    denoiser="transformer", project=lambda denoiser, text: denoiser.caption_projection(text.features), lengths=(300,), cased=False, regions=False, keys=None, guidance=4.5,
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
    replace(PIXART, name="PixArt-Alpha", pipeline="PixArtAlphaPipeline", lengths=(120,)),
    replace(
        PIXART, name="Sana", pipeline="SanaPipeline", inputs=_masked_too, project=_normed, space=" ", instruction=SANA_ASKS, noise=Flow,
        run=_scaled, encoded=lambda out: out.latent, tiles=False,
    ),
    Family(
        "Stable Diffusion 3", "StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline",
        encoders=tuple((f"tokenizer{n}", f"text_encoder{n}") for n in ("", "_2", "_3")), embeddings=("clip_l", "clip_g", "t5xxl"), read=_three,
        inputs=lambda text, side: {"pooled_projections": text.pooled}, lengths=(None, None, 256), denoiser="transformer", attention=".attn",
        projections=("add_k_proj", "add_v_proj"), marked="added_kv_proj_dim", project=first_block, heard=layer_by_layer, hearings=passes, look=jointly, captions=40,
        noise=Flow, guidance=7.0, regions=False, keys=None,
    ),
    Family(
        "FLUX.1", "FluxPipeline", "FluxImg2ImgPipeline",
        encoders=(("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2")), embeddings=("clip_l", "t5xxl"), read=_long_and_whole,
        inputs=lambda text, side: {"pooled_projections": text.pooled}, lengths=(None, 512), run=_packed, denoiser="transformer",
        attention=".attn", projections=("add_k_proj", "add_v_proj"), marked="added_kv_proj_dim", project=first_block, heard=layer_by_layer, hearings=passes,
        look=jointly, captions=40, noise=Flow, packed=2, guidance=3.5, negatives=False, regions=False, keys=None,
    ),
)  # fmt: skip


def family_of(pipeline: str, base: str) -> Family:
    """The family whose pipeline is called so. Raises ValueError that names those that can be taught."""
    for family in FAMILIES:
        if family.pipeline == pipeline:
            return family
    known = ", ".join(f"{f.name} (`{f.pipeline}`)" for f in FAMILIES)
    raise ValueError(f"base `{base}` is a `{pipeline}`, which CNS cannot teach: choose one of {known}")
