"""The exported starter in, its marks out: what it can draw, measured on captions drawn with a seed that training never used."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..base import load_base
from ..generation import GenerateSettings, generate
from ..images import to_pixels
from . import art
from .world import COLOURS, World

SHEET = (
    "a dog face on a teal background", "an owl, shaded style", "a large strawberry on a white background", "a rocket on a purple background",
    "a teapot next to an owl on a yellow background", "a small cat face on a pink background", "a wrapped gift, shaded style",
    "a crown next to a key", "an umbrella on a blue background", "a tropical fish on a blue background", "a penguin on a red background", "a house",
)  # fmt: skip


def evaluate(work: Path, out: Path, count: int = 100, seed: int = 777) -> dict[str, float]:
    """Print and return the figures; write the contact sheet to `out`."""
    base, world, rng = load_base(), World(art.load(work)), np.random.default_rng(seed)
    scenes = [world.sample(rng) for _ in range(count)]
    real = [Image.fromarray(world.render(s)) for s in scenes]
    drawn = [generate(base, s.caption, None, GenerateSettings(seed=i))[0] for i, s in enumerate(scenes)]
    said = [(s, d) for s, d in zip(scenes, drawn) if f"{s.colour} background" in s.caption]
    marks = {
        "autoencoder PSNR on real scenes [dB]": psnr(base, real),
        "asked background colour right, nearest of 12 at the corners": float(np.mean([nearest(d) == s.colour for s, d in said])),
        f"top-1 retrieval of the caption among {count}, real scenes": retrieval(base, real, scenes),
        f"top-1 retrieval of the caption among {count}, generated": retrieval(base, drawn, scenes),
    }
    for what, value in marks.items():
        print(f"{what:<64}{value:8.3f}")
    sheet = Image.new("RGB", (base.size * len(SHEET), base.size * 2))
    for i, prompt in enumerate(SHEET):
        for j, picture in enumerate(generate(base, prompt, None, GenerateSettings(count=2))):
            sheet.paste(picture, (i * base.size, j * base.size))
    sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.BICUBIC).save(out)
    return marks


def psnr(base, images) -> float:
    x = to_pixels(images, base.size)
    error = ((base.pixels(base.latents(x)).clamp(-1, 1) - x) / 2).square().mean((1, 2, 3))
    return (-10 * error.log10()).mean().item()


def nearest(image: Image.Image) -> str:
    """The world's colour nearest to the picture's four corners."""
    side = image.width - 2
    corner = torch.tensor([image.getpixel((x, y)) for x in (1, side) for y in (1, side)]).float().mean(0)
    return min(COLOURS, key=lambda c: (corner - torch.tensor(COLOURS[c])).square().sum())


def retrieval(base, images, scenes) -> float:
    """Share of the pictures whose own caption the CLIP ranks first among all."""
    captions = [s.caption for s in scenes]
    best = (base.scorer.image_features(images) @ base.scorer.text_features(captions).T).argmax(1)
    return float(np.mean([captions[b] == c for b, c in zip(best, captions)]))
