"""Drawings in, captioned scenes out: what the starter can be asked for, and what it looks like.

A scene is a background colour with one drawing (in one of three sizes) or two side by side. Two worlds share the grammar:
the small one, in canonical places, is what the U-Net learns to draw; the wide one, with free places and every name, is
what the CLIP and the autoencoder see.
"""

from dataclasses import dataclass, field

import numpy as np

from .art import HELD_OUT, SIZES, STYLES, Drawings, plain

SIDE = 64  # pixels
COLOURS = {
    "red": (214, 64, 69), "orange": (244, 157, 66), "yellow": (250, 219, 95), "green": (104, 179, 106),
    "teal": (64, 168, 164), "blue": (74, 124, 214), "purple": (142, 98, 190), "pink": (244, 166, 193),
    "brown": (140, 98, 72), "gray": (158, 160, 164), "black": (34, 34, 38), "white": (250, 250, 248),
}  # fmt: skip
THINGS = (
    "dog face", "cat face", "owl", "penguin", "fox", "panda", "pig face", "frog", "koala", "rabbit face", "octopus", "tropical fish",
    "butterfly", "turtle", "hatching chick", "strawberry", "red apple", "banana", "watermelon", "carrot", "mushroom", "hamburger",
    "pizza", "doughnut", "teapot", "rocket", "automobile", "sailboat", "house", "balloon", "wrapped gift", "crown", "umbrella",
    "cactus", "tulip", "sunflower", "soccer ball", "bell", "light bulb", "key",
)  # fmt: skip
SMALL_STYLES = ("twemoji", "noto")
OPENINGS = ("a", "a", "a", "a photo of a", "a picture of a", "a drawing of a", "an image of a")


@dataclass(frozen=True)
class Scene:
    """One scene: `things` are (art set, name) from left to right; `offset` moves them all [pixels]."""

    things: tuple[tuple[str, str], ...]
    colour: str
    size: str = ""
    offsets: tuple[tuple[int, int], ...] = ((0, 0),)
    caption: str = field(default="", compare=False)


def article(words: str) -> str:
    """"a red apple", but "an owl"."""
    return ("an " if words[:1] in "aeio" or words.startswith("umbrella") else "a ") + words


def describe(names, size="", colour="", style="", opening="a") -> str:
    """The caption of a scene; every part but the names may be left out."""
    first = article(" ".join(filter(None, (size, names[0]))))
    text = (opening.removesuffix(" a") + " " if opening != "a" else "") + first
    if len(names) == 2:
        text += " next to " + article(names[1])
    return text + (f" on {article(colour)} background" if colour else "") + (f", {style}" if style else "")


class World:
    """Draws random scenes. `wide`: every name and art set in free places, else `THINGS` in canonical ones."""

    def __init__(self, drawings: Drawings, *, wide=False, jitter=1):
        self.drawings, self.wide, self.jitter = drawings, wide, jitter
        sets = tuple(STYLES) if wide else SMALL_STYLES
        names = drawings.names if wide else THINGS
        have = drawings.sprites[""]
        self.by_set = {s: [n for n in names if (s, n) in have] for s in sets}
        self.weights = [0.3, 0.2, 0.2, 0.1, 0.1, 0.1] if wide else [0.6, 0.4]

    def sample(self, rng: np.random.Generator, things: tuple[tuple[str, str], ...] = ()) -> Scene:
        """One random scene with its caption, of these `things` if any are given."""
        art = things[0][0] if things else str(rng.choice(list(self.by_set), p=self.weights))
        pair = len(things) == 2 if things else rng.random() < 0.25
        names = [n for _, n in things] or [str(n) for n in rng.choice(self.by_set[art], 2 if pair else 1, replace=False)]
        size = "pair" if pair else str(rng.choice(list(SIZES)[:3], p=[0.25, 0.5, 0.25]))
        colour = str(rng.choice(list(COLOURS)))
        said = {
            "size": "" if pair else size,
            "colour": colour if rng.random() < 0.85 else "",
            "style": STYLES[art] if art != "twemoji" or rng.random() < 0.3 else "",
            "opening": str(rng.choice(OPENINGS)),
        }
        called = [self._call(n, rng) for n in names]
        j = (SIDE - SIZES[size]) // 2 if self.wide and not pair else self.jitter
        offsets = tuple((int(a), int(b)) for a, b in rng.integers(-j, j + 1, (len(names), 2)))
        return Scene(tuple((art, n) for n in names), colour, size, offsets, describe(called, **said))

    def _call(self, name, rng):
        tags = self.drawings.tags.get(name) if self.wide and rng.random() < 0.15 else None
        return str(rng.choice(tags)) if tags else name

    def render(self, scene: Scene) -> np.ndarray:
        """uint8 RGB [64, 64, 3]."""
        canvas = np.empty((SIDE, SIDE, 3), np.float32)
        canvas[:] = COLOURS[scene.colour]
        for i, (key, (dx, dy)) in enumerate(zip(scene.things, scene.offsets)):
            sprite = self.drawings.sprites[scene.size][key]
            side = sprite.shape[0]
            centre = SIDE // 2 if len(scene.things) == 1 else (SIDE // 4 + 1, SIDE - SIDE // 4 - 1)[i]
            x = min(max(centre - side // 2 + dx, 0), SIDE - side)
            y = min(max(SIDE // 2 - side // 2 + dy, 0), SIDE - side)
            patch, alpha = canvas[y : y + side, x : x + side], sprite[..., 3:] / 255.0
            patch += alpha * (sprite[..., :3] - patch)
        return canvas.round().astype(np.uint8)

    def batch(self, count: int, rng: np.random.Generator):
        """(uint8 [count, 64, 64, 3], captions)."""
        return self.drawn([self.sample(rng) for _ in range(count)])

    def drawn(self, scenes: list[Scene]):
        """(uint8 [n, 64, 64, 3], captions)."""
        return np.stack([self.render(s) for s in scenes]), [s.caption for s in scenes]


def vocabulary(drawings: Drawings) -> list[str]:
    """Every word that a caption can hold, for the tokenizer."""
    words = {w for n in drawings.names for w in n.split()} | {w for t in drawings.tags.values() for x in t for w in x.split()}
    grammar = " ".join((*OPENINGS, *STYLES.values(), *COLOURS, "small large next to an and on in background the with of style"))
    return sorted(words | set(plain(grammar).split()))


__all__ = ["COLOURS", "HELD_OUT", "THINGS", "Scene", "World", "describe", "vocabulary"]
