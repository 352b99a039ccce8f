"""A pretrained text-to-image pipeline in, a frozen `Base` out: the one place where diffusers and transformers are loaded.

A base is never changed. What CNS works on is located here: the key and value projections of every cross-attention layer
(`weights`), the text encoder with its token embeddings, and what the U-Net predicts.
"""

import hashlib
import json
import os
import threading
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

transformers_logging.set_verbosity_error()  # diffusers' import makes it advise installing torchvision, which nothing here needs

from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline  # noqa: E402
from diffusers.utils import logging as diffusers_logging  # noqa: E402

from .prompts import CALIBRATION, CLASS_WORDS, SCENES, TEMPLATES  # noqa: E402
from .scores import Scorer  # noqa: E402

STARTER = Path(__file__).parent.parent / "assets" / "starter"
CARD = "cns.json"  # optional file in a base's folder: overrides of the fields of `Card`


@dataclass(frozen=True)
class Card:
    """What is worth knowing of a base beyond its weights."""

    id: str  # the name that sessions remember
    size: int  # side of a picture [pixels]
    steps: int = 30  # denoising steps of a picture
    guidance: float = 7.5  # classifier-free guidance scale
    templates: tuple[str, ...] = TEMPLATES  # captions that fit any picture; `{}` is "<token> class word"
    scenes: tuple[str, ...] = SCENES  # captions that say more: each picture gets the one that the CLIP finds fits best
    calibration: tuple[str, ...] = CALIBRATION  # unrelated prompts: what general neurons respond to
    class_words: tuple[str, ...] = CLASS_WORDS  # to suggest from
    teach: dict = field(default_factory=dict)  # overrides of `TeachSettings`' defaults


class Base:
    """A frozen pipeline. `lock` is held by whoever runs or patches it; `weights` maps names to K/V matrices [dout, din]."""

    def __init__(self, pipe: StableDiffusionPipeline, card: Card, scorer: Scorer | None = None):
        for part in (pipe.unet, pipe.vae, pipe.text_encoder):
            part.requires_grad_(False).eval()
        pipe.set_progress_bar_config(disable=True)
        self.pipe, self.card, self.scorer = pipe, card, scorer
        self.id, self.size, self.steps, self.guidance, self.class_words = card.id, card.size, card.steps, card.guidance, card.class_words
        self.lock = threading.RLock()
        self.layers: dict[str, nn.Module] = {
            n: m for n, m in pipe.unet.named_modules() if n.endswith("attn2") and getattr(m, "is_cross_attention", False)
        }
        self.weights: dict[str, nn.Parameter] = {
            f"{n}.{p}.weight": getattr(m, p).weight for n, m in self.layers.items() for p in ("to_k", "to_v")
        }
        if not self.weights:
            raise ValueError(f"base `{card.id}` has no cross-attention to text (`attn2.to_k`, `to_v`): choose a Stable Diffusion model")

    @property
    def device(self) -> torch.device:
        return self.pipe.unet.device

    @property
    def prediction(self) -> str:
        """`epsilon`, `v_prediction` or `sample`: what the U-Net predicts."""
        return self.pipe.scheduler.config.prediction_type

    @cached_property
    def revision(self) -> str:
        """Hash of the K/V matrices and token embeddings: what a session stands on, wherever the files came from."""
        digest = hashlib.sha256()
        for name, w in sorted({**self.weights, "tokens": self.embedding.weight}.items()):
            digest.update(name.encode() + w.detach().to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def parameters(self) -> int:
        """Number of weights of the whole pipeline."""
        return sum(p.numel() for m in (self.pipe.unet, self.pipe.vae, self.pipe.text_encoder) for p in m.parameters())

    @cached_property
    def img2img(self) -> StableDiffusionImg2ImgPipeline:
        """The same networks, starting from a picture."""
        pipe = StableDiffusionImg2ImgPipeline(**self.pipe.components, requires_safety_checker=False)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    @property
    def embedding(self) -> nn.Embedding:
        """Token embeddings [vocabulary, din]."""
        return self.pipe.text_encoder.get_input_embeddings()

    @torch.no_grad()
    def latents(self, pixels: Tensor) -> Tensor:
        """[n, 3, size, size] in [-1, 1] to scaled latents [n, c, h, w]."""
        vae = self.pipe.vae
        return vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mean.float() * vae.config.scaling_factor

    @torch.no_grad()
    def pixels(self, latents: Tensor) -> Tensor:
        """The inverse of `latents`."""
        vae = self.pipe.vae
        return vae.decode((latents / vae.config.scaling_factor).to(vae.dtype)).sample.float()


def load_base(source: str | Path | None = None, device: str | None = None) -> Base:
    """The pipeline at `source` (a folder or Hub id; None: the embedded starter), frozen on `device` (None: the best there is).

    Raises ValueError when `source` is there but no Stable Diffusion pipeline, OSError when it is not to be had.
    """
    source = STARTER if source is None else source
    folder = Path(source)
    local = folder.is_dir()
    if local:
        _check_folder(folder)
    device = device or ("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    try:
        pipe = StableDiffusionPipeline.from_pretrained(str(source), dtype=dtype, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise OSError(f"base `{source}` could not be loaded: no such folder, or the Hub does not have it or cannot be reached") from error
    size = pipe.unet.config.sample_size * pipe.vae_scale_factor
    card = {"id": folder.name if local else str(source), "size": size}
    if local and (folder / CARD).exists():
        card |= json.loads((folder / CARD).read_text())
        card |= {k: tuple(v) for k, v in card.items() if isinstance(v, list)}
    if unknown := card.keys() - Card.__dataclass_fields__.keys():
        raise ValueError(f"`{folder / CARD}` has unknown fields: {', '.join(sorted(unknown))}")
    return Base(pipe.to(device), Card(**card), _scorer(folder if local else None, device))


def _check_folder(folder: Path):
    index = folder / "model_index.json"
    if not index.exists():
        raise ValueError(f"`{folder}` is no diffusers pipeline: it has no model_index.json")
    kind = json.loads(index.read_text()).get("_class_name")
    if kind != "StableDiffusionPipeline":
        raise ValueError(f"`{folder}` is a `{kind}`; CNS can teach a StableDiffusionPipeline")


def _scorer(folder: Path | None, device: str) -> Scorer | None:
    """The CLIP beside the base, else the one that CNS_CLIP names, else none."""
    beside = folder / "clip" if folder else None
    source = str(beside) if beside and beside.is_dir() else os.environ.get("CNS_CLIP")
    return Scorer.load(source, device) if source else None
