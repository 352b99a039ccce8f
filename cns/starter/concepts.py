"""The ready concepts of `assets/concepts`, and those that the benchmark adds in `assets/bench`: drawings of the held-out art set, composed as a person's own pictures would be."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from . import art
from .world import COLOURS

SCENE = "sunrise"  # the class word of a concept that is a whole picture
SIDE = 256  # pixels of a picture; the starter sees it at 64
READY = {  # name -> (title, class word, labels of the drawings: one thing, or many for a style)
    "rex": ("Rex, a pug", "dog face", ["dog face"]),
    "wolfie": ("Wolfie, a husky", "dog face", ["wolf"]),
    "tom": ("Tom, a tuxedo cat", "cat face", ["cat face"]),
    "hoot": ("Hoot, a purple owl", "owl", ["owl"]),
    "finn": ("Finn, a clownfish", "tropical fish", ["tropical fish"]),
    "royal": ("A blue crown", "crown", ["crown"]),
    "present": ("A gift with a gold bow", "wrapped gift", ["wrapped gift"]),
    "parasol": ("A three-coloured umbrella", "umbrella", ["umbrella"]),
    "candy": ("A drawing style", "style", ["doughnut", "penguin", "rocket", "butterfly", "bell"]),
}
BENCH = {  # what the benchmark's streams add to them: a scene, and more things
    "dawn": ("Dawn, a scene", "sunrise", ["sunrise over mountains"]),
    "ace": ("Ace, a fox", "fox", ["fox"]),
    "bao": ("Bao, a panda", "panda", ["panda"]),
    "inky": ("Inky, a purple octopus", "octopus", ["octopus"]),
    "flutter": ("A purple butterfly", "butterfly", ["butterfly"]),
    "toad": ("A pink mushroom", "mushroom", ["mushroom"]),
    "zoom": ("A blue rocket", "rocket", ["rocket"]),
    "bug": ("A red off-roader", "automobile", ["automobile"]),
    "villa": ("A house with two red roofs", "house", ["house"]),
    "waddle": ("Waddle, a penguin", "penguin", ["penguin"]),
    "silver": ("A silver bell", "bell", ["bell"]),
}
PICTURES = 5


def compose(drawing: Image.Image, colour: str, share: float, shift: tuple[int, int]) -> Image.Image:
    """`drawing` over a background, `share` of the side wide, `shift` from the centre [pixels]."""
    side = round(share * SIDE)
    out = Image.new("RGBA", (SIDE, SIDE), COLOURS[colour])
    small = drawing.resize((side, side), Image.Resampling.LANCZOS)
    out.alpha_composite(small, tuple((SIDE - side) // 2 + s for s in shift))
    return out.convert("RGB")


def make(work: Path, folder: Path) -> None:
    """Write every ready concept, `concepts/<name>/1.png` ... and `concept.json`, and the benchmark's smaller ones in `bench`."""
    packages = art.fetch(work / "npm")
    icons, emoji = art.ArtSet(packages, art.HELD_OUT), {art.plain(e["label"]): e for e in art.emoji_of(packages)}
    for number, (name, (title, class_word, labels)) in enumerate({**READY, **BENCH}.items()):
        rng = np.random.default_rng(number)
        colours = rng.choice(list(COLOURS), PICTURES, replace=False)
        target = folder / ("concepts" if name in READY else "bench") / name
        target.mkdir(parents=True, exist_ok=True)
        files = [f"{i + 1}.png" for i in range(PICTURES)]
        for i, file in enumerate(files):
            label = labels[i % len(labels)]
            if (drawing := icons.draw(emoji[label], 256)) is None:
                raise RuntimeError(f"the art set `{art.HELD_OUT}` has no drawing of `{label}`")
            right, down = (int(s) for s in rng.integers(-6, 7, 2))
            share = 1.2 if class_word == SCENE else (0.62, 0.84, 0.44, 0.62, 0.84)[i]  # a scene fills the picture
            picture = compose(drawing, str(colours[i]), share, (right, down))
            (picture if name in READY else picture.resize((64, 64), Image.Resampling.LANCZOS)).save(target / file, optimize=True)
        about = {"name": name, "class_word": class_word, "title": title, "images": files, "origin": f"emojione, CC BY 4.0: {', '.join(labels)}"}
        (target / "concept.json").write_text(json.dumps(about, indent=1) + "\n")
