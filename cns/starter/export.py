"""Checkpoints in, the folder `assets/starter` out: a StableDiffusionPipeline, the CLIP for scores, a second one that judges, the card."""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from ..base import CARD
from . import art, nets
from .train import latent_scale, tokenizer, trained
from .world import COLOURS, SCENERIES, THINGS, World, surroundings

TEACH = {"steps": 150, "rate": 0.1, "base_share": 0.18, "token_rate": 1e-2, "general_share": 0.9, "response": 5e3, "noise_bias": 0.6, "preview_every": 40}  # TeachSettings that suit the starter
TEMPLATES = ("a {}", "a photo of a {}", "a picture of a {}", "a drawing of a {}", "an image of a {}")
SCENES = tuple(f"a {size}{{}} {surroundings(g)}" for size in ("", "small ", "large ") for g in COLOURS) + tuple(f"a {{}} {surroundings(g)}" for g in SCENERIES)  # a teaching's pictures are told apart by these


def pipeline(work: Path, drawings) -> StableDiffusionPipeline:
    """The pipeline of the stages' moving averages."""
    tok = tokenizer(work, drawings)
    text, vae, unet = nets.clip(tok).text_model, nets.autoencoder(), nets.unet()
    text.load_state_dict(trained(work, "unet", "text"))
    vae.load_state_dict(trained(work, "ae"))
    unet.load_state_dict(trained(work, "unet"))
    vae.register_to_config(scaling_factor=latent_scale(vae.eval(), World(drawings)))
    return StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=tok, unet=unet, scheduler=nets.scheduler(), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def export(work: Path, folder: Path) -> None:
    """Write `folder` anew, in half precision."""
    drawings = art.load(work)
    pipe = pipeline(work, drawings)
    clips = {"clip": nets.clip(pipe.tokenizer), "judge": nets.judge(pipe.tokenizer)}
    for name, clip in clips.items():
        clip.load_state_dict(trained(work, name))
    shutil.rmtree(folder, ignore_errors=True)
    pipe.to(torch.float16).save_pretrained(folder)
    for name, clip in clips.items():
        clip.to(torch.float16).save_pretrained(folder / name)
        nets.clip_processor().save_pretrained(folder / name)
    pipe.tokenizer.save_pretrained(folder / "clip")
    rng, world = np.random.default_rng(2), World(drawings)
    card = {
        "id": "cns-starter", "size": 64, "steps": 20, "guidance": 3.0, "templates": TEMPLATES, "portrait": "a {} on a teal background", "scenes": SCENES, "teach": TEACH, "together": 0.0,
        "calibration": [world.sample(rng).caption for _ in range(64)], "class_words": sorted(THINGS),
    }  # fmt: skip
    (folder / CARD).write_text(json.dumps(card, indent=1) + "\n")
