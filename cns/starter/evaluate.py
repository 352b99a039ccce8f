"""The exported starter in, its marks out: what it can draw, measured on captions drawn with a seed that training never used."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ..base import STARTER, load_base
from ..generation import GenerateSettings, generate
from ..images import to_pixels
from ..scores import Scorer
from . import art
from .world import COLOURS, THINGS, World, article

SHEET = (
    "a dog face on a teal background", "an owl, shaded style", "a large strawberry on a white background", "a rocket on a purple background",
    "a teapot next to an owl on a yellow background", "a small cat face on a pink background", "a wrapped gift, shaded style",
    "a crown next to a key", "an umbrella on a blue background", "a tropical fish on a blue background", "a penguin on a red background", "a house",
    "a fox on a beach", "a bear in the snow, shaded style", "a purple owl on a green background", "a blue house on grass", "two balloons on a yellow background",
    "three lemons on a blue background", "a rabbit face on the left on a pink background", "a sailboat at night", "a guitar, bold style", "a frog, blob style",
    "an elephant in a forest", "a small beer mug in a room",
)  # fmt: skip


def evaluate(work: Path, out: Path, count: int = 500) -> dict[str, float]:
    """Print and return the figures; write the contact sheet to `out`. Retrieval and pairs are judged by a CLIP that no training saw."""
    base, world, rng = load_base(), World(art.load(work)), np.random.default_rng(777)
    judge = Scorer.load(STARTER / "judge", tokenizer=STARTER / "tokenizer")
    scenes = [world.sample(rng) for _ in range(count)]
    real = [Image.fromarray(world.render(s)) for s in scenes]
    drawn = [generate(base, s.caption, None, GenerateSettings(seed=i))[0] for i, s in enumerate(tqdm(scenes, unit="picture"))]
    said = [(s, d) for s, d in zip(scenes, drawn) if f"{s.ground} background" in s.caption]
    marks = {
        "autoencoder PSNR on real scenes [dB]": psnr(base, real),
        "asked background colour right, nearest of 12 at the corners": float(np.mean([nearest(d) == s.ground for s, d in said])),
        "top-1 retrieval of the caption among 100, real scenes": retrieval(judge, real, scenes),
        "top-1 retrieval of the caption among 100, generated": retrieval(judge, drawn, scenes),
        f"both things of a pair named right among {len(THINGS)}, real scenes": pairs(judge, real, scenes),
        f"both things of a pair named right among {len(THINGS)}, generated": pairs(judge, drawn, scenes),
    }
    for what, value in marks.items():
        print(f"{what:<64}{value:8.3f}")
    contact_sheet(base).save(out)
    return marks


def contact_sheet(base) -> Image.Image:
    """Every prompt of `SHEET`, drawn from two seeds below each other."""
    side, columns = base.size, 12
    sheet = Image.new("RGB", (side * columns, side * 2 * -(-len(SHEET) // columns)))
    for i, prompt in enumerate(SHEET):
        for j, picture in enumerate(generate(base, prompt, None, GenerateSettings(count=2))):
            sheet.paste(picture, (i % columns * side, (i // columns * 2 + j) * side))
    return sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.BICUBIC)


def psnr(base, images) -> float:
    x = to_pixels(images, base.size)
    error = ((base.pixels(base.latents(x)).clamp(-1, 1) - x) / 2).square().mean((1, 2, 3))
    return (-10 * error.log10()).mean().item()


def nearest(image: Image.Image) -> str:
    """The world's colour nearest to the picture's four corners."""
    side = image.width - 2
    corner = torch.tensor([image.getpixel((x, y)) for x in (1, side) for y in (1, side)]).float().mean(0)
    return min(COLOURS, key=lambda c: (corner - torch.tensor(COLOURS[c])).square().sum())


def retrieval(judge: Scorer, images, scenes) -> float:
    """Share of the pictures whose own caption the judge ranks first, in groups of 100."""
    hits = []
    for start in range(0, len(scenes), 100):
        captions = [s.caption for s in scenes[start : start + 100]]
        best = (judge.image_features(images[start : start + 100]) @ judge.text_features(captions).T).argmax(1)
        hits += [captions[b] == c for b, c in zip(best, captions)]
    return float(np.mean(hits))


def pairs(judge: Scorer, images, scenes) -> float:
    """Share of the pairs in which the judge names the things in both halves right, left and right, among all `THINGS`."""
    names = judge.text_features([f"a large {t} on {article(c)} background" for t in THINGS for c in COLOURS])
    hits = []
    for image, scene in zip(images, scenes):
        if len(scene.things) == 2:
            half, quarter = image.width // 2, image.height // 4
            crops = [image.crop((x, quarter, x + half, quarter + half)).resize(image.size) for x in (0, half)]
            scores = (judge.image_features(crops) @ names.T).unflatten(1, (len(THINGS), len(COLOURS))).amax(2)
            hits.append([THINGS[i] for i in scores.argmax(1)] == [name for _, name in scene.things])
    return float(np.mean(hits))
