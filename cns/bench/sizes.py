"""Bases of true size with random weights, from configuration alone: nothing is downloaded, and only what they cost means something.

Shapes as in the published checkpoints' config files: stable-diffusion-v1-5 and stable-diffusion-xl-base-1.0.
"""

import json
from collections.abc import Callable
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from .. import devices
from ..base import STARTER, Base, Card
from ..prompts import CALIBRATION, TEMPLATES

VOCABULARY = 49408  # tokens


def _text(kind, **shape):
    ids = {"vocab_size": VOCABULARY, "max_position_embeddings": 77, "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 1}
    return kind(CLIPTextConfig(**ids, **shape))


def _vae(sample_size: int) -> AutoencoderKL:
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    return AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2, sample_size=sample_size, **blocks)


SMALL = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
LARGE = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}


def _sd15() -> dict:
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    return {"unet": unet, "vae": _vae(512), "text_encoder": _text(CLIPTextModel, **SMALL)}


def _sdxl() -> dict:
    unet = UNet2DConditionModel(
        sample_size=128, cross_attention_dim=2048, block_out_channels=(320, 640, 1280), attention_head_dim=(5, 10, 20),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), use_linear_projection=True,
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=(1, 2, 10),
        addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
    )  # fmt: skip
    large = _text(CLIPTextModelWithProjection, **LARGE, hidden_act="gelu", projection_dim=1280)
    return {"unet": unet, "vae": _vae(1024), "text_encoder": _text(CLIPTextModel, **SMALL), "text_encoder_2": large}


def _tokenizer() -> CLIPTokenizer:
    """The starter's, with as many tokens as the text encoders have vectors for: other programs that add a token cut the vectors to that."""
    tokenizer = CLIPTokenizer.from_pretrained(STARTER / "tokenizer")
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    vocab = {**model["vocab"], **{f"unused {i}": i for i in range(len(model["vocab"]), VOCABULARY)}}
    return CLIPTokenizer(vocab=vocab, merges=[tuple(m) for m in model["merges"]], model_max_length=77)


RANDOM: dict[str, tuple[Callable[[], dict], type, int]] = {
    "sd15-random": (_sd15, StableDiffusionPipeline, 512), "sdxl-random": (_sdxl, StableDiffusionXLPipeline, 1024),
}  # fmt: skip


def random_base(name: str, device: str | None = None, size: int | None = None) -> Base:
    """The base `name` of `RANDOM`; `size`: pictures' side [pixels] (default: 128 on a CPU, else the architecture's own).

    Raises ValueError when it does not fit the device's memory.
    """
    device = device or devices.best()
    build, kind, own = RANDOM[name]
    dtype = devices.dtype(device)
    with torch.device("meta"):
        count = sum(p.numel() for m in build().values() for p in m.parameters())
    devices.check_room(name, count * dtype.itemsize, device, dtype)
    torch.manual_seed(0)
    with torch.device(device):
        parts = {n: m if dtype is torch.float32 else m.to(dtype) for n, m in build().items()}
    tokenizers = {n.replace("text_encoder", "tokenizer"): _tokenizer() for n in parts if n.startswith("text")}
    more = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False} if kind is StableDiffusionPipeline else {"add_watermarker": False}
    noise = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    pipe = kind(**parts, **tokenizers, scheduler=noise, **more)
    few: dict[str, Any] = {"steps": 4, "templates": TEMPLATES[:2], "calibration": CALIBRATION[:4], "teach": {"batch_size": 1}} if device == "cpu" else {}
    card = Card(name, size or (128 if device == "cpu" else own), **few)
    return Base(pipe, card)
