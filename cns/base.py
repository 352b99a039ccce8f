"""A pretrained text-to-image pipeline in, a frozen `Base` out: the one place where diffusers and transformers are loaded.

A base is never changed. What CNS works on is located here, as the base's family says: the key and value projections of
every cross-attention layer (`weights`), the text encoders with their token embeddings, and what the denoiser predicts.
"""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

transformers_logging.set_verbosity_error()  # diffusers' import makes it advise installing torchvision, which nothing here needs

import diffusers  # noqa: E402
from diffusers import DDIMScheduler, DiffusionPipeline  # noqa: E402
from diffusers.utils import logging as diffusers_logging  # noqa: E402

from . import devices  # noqa: E402
from .fair import FairLock  # noqa: E402
from .families import Text, family_of  # noqa: E402
from .noise import Diffusion, Flow  # noqa: E402
from .prompts import CALIBRATION, CLASS_WORDS, SCENES, TEMPLATES  # noqa: E402
from .scores import Scorer  # noqa: E402

STARTER = Path(__file__).parent.parent / "assets" / "starter"
CARD = "cns.json"  # optional file in a base's folder: overrides of the fields of `Card`
LARGE = 512  # pixels: from this side on, pictures are encoded and decoded one by one, and far larger ones in tiles


@dataclass(frozen=True)
class Card:
    """What is worth knowing of a base beyond its weights."""

    id: str  # the name that sessions remember
    size: int  # side of a picture [pixels]
    steps: int = 30  # denoising steps of a picture
    guidance: float = 7.5  # classifier-free guidance scale
    templates: tuple[str, ...] = TEMPLATES  # captions that fit any picture; `{}` is "<token> class word"
    portrait: str = "a {}"  # the prompt of the picture that a session keeps of each concept
    scenes: tuple[str, ...] = SCENES  # captions that say more: each picture gets the one that the CLIP finds fits best
    calibration: tuple[str, ...] = CALIBRATION  # unrelated prompts: what general neurons respond to
    class_words: tuple[str, ...] = CLASS_WORDS  # to suggest from
    teach: dict = field(default_factory=dict)  # overrides of `TeachSettings`' defaults
    together: float = 1.0  # how regions are drawn, see `GenerateSettings`


class Base:
    """A frozen pipeline. `lock` is held by whoever runs or patches it; `weights` maps names to K/V matrices [dout, din]."""

    def __init__(self, pipe: DiffusionPipeline, card: Card, scorer: Scorer | None = None):
        self.family = family_of(type(pipe).__name__, card.id)
        self.denoiser: nn.Module = getattr(pipe, self.family.denoiser)
        self.tokenizers, self.encoders = ([getattr(pipe, pair[i]) for pair in self.family.encoders] for i in range(2))
        if missing := [n for pair in self.family.encoders for n in pair if getattr(pipe, n) is None]:
            raise ValueError(f"base `{card.id}` comes without its `{missing[0]}`, which CNS teaches, too: choose a copy with all of its parts")
        for tokenizer, length in zip(self.tokenizers, self.family.lengths):
            tokenizer.model_max_length = length or tokenizer.model_max_length
        for part in (self.denoiser, pipe.vae, *self.encoders):
            part.requires_grad_(False).eval()
        pipe.set_progress_bar_config(disable=True)
        if card.size >= LARGE:
            pipe.vae.enable_slicing()
            if self.family.tiles:
                pipe.vae.enable_tiling()
        self.pipe, self.card, self.scorer = pipe, card, scorer
        self.id, self.size, self.steps, self.guidance, self.class_words = card.id, card.size, card.steps, card.guidance, card.class_words
        self.lock = FairLock()
        self.before_pass: dict[int, Callable[[], object]] = {}  # by thread: what asks before each pass of the denoiser, see `parts.passing`
        self.denoiser.register_forward_pre_hook(_asking(self.before_pass))
        self.general: dict[tuple, dict[str, Tensor]] = {}  # general masks already found, by what was asked, see `selection`
        self.unrelated: Tensor | None = None  # what unrelated prompts answer to, once found, see `response`
        self.layers: dict[str, nn.Module] = self.family.layers(self.denoiser)
        self.weights: dict[str, nn.Parameter] = {
            f"{n}.{p}.weight": getattr(m, p).weight for n, m in self.layers.items() for p in self.family.projections
        }
        if not self.weights:
            where = " and ".join(f"`{self.family.attention}.{p}`" for p in self.family.projections)
            raise ValueError(f"base `{card.id}` has no attention to text ({where}): choose a model as it was published")

    @property
    def device(self) -> torch.device:
        return next(iter(self.weights.values())).device  # of a module, diffusers searches all its parts: 3 ms each time

    @cached_property
    def noise(self) -> Diffusion | Flow:
        """How latents are noised, and what the denoiser should make of them."""
        return self.family.noise(self)

    @cached_property
    def schedule(self) -> DDIMScheduler:
        """The noise that the base was trained with, whatever sampler it ships, where that is `noise.Diffusion`."""
        return DDIMScheduler.from_config(self.pipe.scheduler.config)

    @cached_property
    def revision(self) -> str:
        """Hash of the K/V matrices and token embeddings: what a session stands on, wherever the files came from."""
        digest = hashlib.sha256()
        tokens = {"tokens" if i == 0 else f"tokens_{i + 1}": e.weight for i, e in enumerate(self.embeddings)}
        for name, w in sorted({**self.weights, **tokens}.items()):
            digest.update(name.encode() + w.detach().to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def parameters(self) -> int:
        """Number of weights of the whole pipeline."""
        return sum(p.numel() for m in (self.denoiser, self.pipe.vae, *self.encoders) for p in m.parameters())

    @cached_property
    def img2img(self) -> DiffusionPipeline:
        """The same parts, starting from a picture. Raises ValueError where the family cannot."""
        if not self.family.from_picture:
            raise ValueError(f"base `{self.id}` is a {self.family.name}, which cannot start from a picture: leave the picture out")
        pipe = getattr(diffusers, self.family.from_picture)(**self.pipe.components, **self.options)
        pipe.set_progress_bar_config(disable=True)
        pipe.default_sample_size = self.size // pipe.vae_scale_factor  # the side that those draw at which do not follow the picture
        return pipe

    @property
    def options(self) -> dict:
        """What the pipeline was made with beside its parts."""
        return {k: v for k, v in self.pipe.config.items() if not k.startswith("_") and k not in self.pipe.components}

    @property
    def embedding(self) -> nn.Embedding:
        """The first text encoder's token embeddings."""
        return self.embeddings[0]

    @cached_property
    def embeddings(self) -> list[nn.Embedding]:
        """Each text encoder's token embeddings [vocabulary, din_i]; a taught vector [sum of din_i] has a part for each."""
        tables = [e.get_input_embeddings().weight for e in self.encoders]  # T5 has two modules for one table, and runs the second
        return [[m for m in e.modules() if isinstance(m, nn.Embedding) and m.weight is w][-1] for e, w in zip(self.encoders, tables)]

    @property
    def widths(self) -> list[int]:
        """din_i of each text encoder."""
        return [e.embedding_dim for e in self.embeddings]

    def predict(self, noisy: Tensor, t: Tensor, text: Text) -> Tensor:
        """What the denoiser makes of noisy latents [n, c, h, w] at times t [n], reading `text`."""
        more = self.family.inputs(text, self.size)
        return self.family.run(self.denoiser, noisy.to(text.features.dtype), t, text.features, **more)

    def projected(self, text: Text) -> Tensor:
        """What the key and value projections of the first layer read [n, length, columns of K]."""
        return self.family.project(self.denoiser, text)

    def heard(self, text: Text) -> Iterator[Tensor]:
        """What those of all layers read, for all of them or [1, n, length, columns of K] at once: see `reading`."""
        return self.family.heard(self, text)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a picture's latents."""
        side = self.size // self.pipe.vae_scale_factor
        return self.denoiser.config.in_channels // self.family.packed**2, side, side

    @property
    def patches(self) -> int:
        """What the denoiser cuts a side of the latents into."""
        return self.latent_shape[1] // (self.denoiser.config.get("patch_size", 1) * self.family.packed)

    @property
    def shift(self) -> float:
        """What the autoencoder's latents are off zero."""
        return self.pipe.vae.config.get("shift_factor") or 0.0

    @torch.no_grad()
    def latents(self, pixels: Tensor) -> Tensor:
        """[n, 3, size, size] in [-1, 1] to scaled latents [n, c, h, w]."""
        vae = self.pipe.vae
        return (self.family.encoded(vae.encode(pixels.to(vae.device, vae.dtype))).float() - self.shift) * vae.config.scaling_factor

    @torch.no_grad()
    def pixels(self, latents: Tensor) -> Tensor:
        """The inverse of `latents`."""
        vae = self.pipe.vae
        return vae.decode((latents / vae.config.scaling_factor + self.shift).to(vae.dtype)).sample.float()


def _asking(before_pass: dict) -> Callable[..., None]:
    """A hook that asks; a function of the dict alone, as whoever copies the denoiser copies its hooks, too."""

    def ask(*_) -> None:
        if asked := before_pass.get(threading.get_ident()):
            asked()

    return ask


def load_base(source: str | Path | None = None, device: str | None = None) -> Base:
    """The pipeline at `source` (a folder or Hub id; None: the embedded starter), frozen on `device` (None: the best there is).

    Raises ValueError when `source` is there but none that CNS can teach, OSError when it is not to be had.
    """
    source = STARTER if source is None else source
    local, device = Path(source).is_dir(), device or devices.best()
    dtype = devices.dtype(device)
    folder, index = _found(source, local)
    family = family_of(index["_class_name"], str(source))
    devices.check_room(str(source), devices.weight_bytes(folder, index, dtype), device, dtype)
    try:
        pipe = getattr(diffusers, family.pipeline).from_pretrained(folder, dtype=dtype, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise OSError(f"base `{source}` could not be loaded: {str(error).splitlines()[0]}") from error
    side = getattr(pipe, family.denoiser).config.get("sample_size") or pipe.default_sample_size  # FLUX's says only what it is run at
    card = {"id": folder.name if local else str(source), "size": side * pipe.vae_scale_factor, "guidance": family.guidance}
    if local and (folder / CARD).exists():
        card |= json.loads((folder / CARD).read_text())
        card |= {k: tuple(v) for k, v in card.items() if isinstance(v, list)}
    if unknown := card.keys() - Card.__dataclass_fields__.keys():
        raise ValueError(f"`{folder / CARD}` has unknown fields: {', '.join(sorted(unknown))}")
    return Base(pipe.to(device), Card(**card), _scorer(folder if local else None, device))


def _found(source: str | Path, local: bool) -> tuple[Path, dict]:
    """(the folder of a base's files, downloaded if need be and known to be of a kind that can be taught, its model_index.json)."""
    folder = Path(source)
    if local and not (folder / "model_index.json").exists():
        raise ValueError(f"`{folder}` is no diffusers pipeline: it has no model_index.json")
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    try:
        index = DiffusionPipeline.load_config(str(source))
        family_of(index.get("_class_name"), str(source))
        return (folder if local else Path(DiffusionPipeline.download(str(source), use_safetensors=True))), index
    except OSError as error:
        raise OSError(f"base `{source}` could not be loaded: no such folder, or the Hub does not have it or cannot be reached") from error


def _scorer(folder: Path | None, device: str) -> Scorer | None:
    """The CLIP beside the base, else the one that CNS_CLIP names, else none."""
    beside = folder / "clip" if folder else None
    source = str(beside) if beside and beside.is_dir() else os.environ.get("CNS_CLIP")
    return Scorer.load(source, device) if source else None
