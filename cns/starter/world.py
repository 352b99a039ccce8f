"""Drawings in, captioned scenes out: what the starter can be asked for, and what it looks like.

A scene is one drawing (in one of three sizes, as it is or in another colour, in the middle or at a side), two different
ones side by side, or two or three of the same, on a coloured background or in one of a few simple sceneries. Two worlds
share the grammar: the small one, in canonical places, is what the U-Net learns to draw; the wide one, with free places and
every name, is what the CLIP and the autoencoder see.
"""

from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw

from .art import HELD_OUT, SIZES, STYLES, Drawings, plain

SIDE = 64  # pixels
COLOURS = {
    "red": (214, 64, 69), "orange": (244, 157, 66), "yellow": (250, 219, 95), "green": (104, 179, 106),
    "teal": (64, 168, 164), "blue": (74, 124, 214), "purple": (142, 98, 190), "pink": (244, 166, 193),
    "brown": (140, 98, 72), "gray": (158, 160, 164), "black": (34, 34, 38), "white": (250, 250, 248),
}  # fmt: skip
TINTS = tuple(COLOURS)[:9]  # colours that a drawing can be turned into without losing its light and shade
SCENERIES = {  # name -> (words, sky, ground, where the ground begins [share of the height])
    "beach": ("on a beach", (150, 210, 245), (238, 214, 160), 0.62),
    "night": ("at night", (24, 28, 66), (24, 28, 66), 1.0),
    "grass": ("on grass", (174, 222, 250), (112, 184, 88), 0.58),
    "room": ("in a room", (240, 226, 204), (164, 118, 84), 0.72),
    "snow": ("in the snow", (178, 200, 226), (248, 250, 252), 0.55),
    "forest": ("in a forest", (200, 228, 206), (98, 132, 78), 0.66),
}
THINGS = (
    "dog face", "cat face", "owl", "penguin", "fox", "panda", "pig face", "frog", "koala", "rabbit face", "octopus", "tropical fish",
    "butterfly", "turtle", "hatching chick", "strawberry", "red apple", "banana", "watermelon", "carrot", "mushroom", "hamburger",
    "pizza", "doughnut", "teapot", "rocket", "automobile", "sailboat", "house", "balloon", "wrapped gift", "crown", "umbrella",
    "cactus", "tulip", "sunflower", "soccer ball", "bell", "light bulb", "key", "bear", "monkey face", "cow face", "elephant", "snail",
    "lady beetle", "lemon", "cherries", "ice cream", "birthday cake", "beer mug", "guitar", "rose", "evergreen tree", "palm tree",
    "star", "candle", "camera", "backpack", "top hat", "bus", "airplane", "teddy bear", "trophy",
)  # fmt: skip
SMALL_STYLES = {"twemoji": 0.4, "noto": 0.25, "fluent-emoji-flat": 0.2, "noto-v1": 0.15}  # art set -> how often
WIDE_STYLES = dict(zip(STYLES, (0.3, 0.2, 0.2, 0.1, 0.1, 0.1)))
OPENINGS = ("a", "a", "a", "a photo of a", "a picture of a", "a drawing of a", "an image of a")
WHERE = {"on the left": (-1, 0), "on the right": (1, 0), "at the top": (0, -1), "at the bottom": (0, 1)}
ASIDE, JITTER = 13, 2  # pixels from the middle: of what stands at a side, of anything in the small world


@dataclass(frozen=True)
class Scene:
    """One scene: `things` are (art set, name) from left to right; `offsets` move them [pixels]."""

    things: tuple[tuple[str, str], ...]
    ground: str  # a colour or a scenery
    size: str = ""
    tint: str = ""  # colour that the drawings are turned into
    offsets: tuple[tuple[int, int], ...] = ((0, 0),)
    caption: str = field(default="", compare=False)

    @property
    def shown(self):
        """What there is to see, wherever it stands."""
        return self.things, self.tint


def article(words: str) -> str:
    """"a red apple", but "an owl"."""
    return ("an " if words[:1] in "aeio" or words.startswith("umbrella") else "a ") + words


def plural(words: str) -> str:
    """"owls", "foxes", "butterflies"; a fish is fish."""
    if words.endswith(("fish", "cherries")):
        return words
    if words.endswith("y") and words[-2] not in "aeo":
        return words[:-1] + "ies"
    return words + ("es" if words.endswith(("s", "x", "ch", "sh")) else "s")


def surroundings(ground: str) -> str:
    """ "on a teal background", "on a beach"."""
    return SCENERIES[ground][0] if ground in SCENERIES else f"on {article(ground)} background"


def describe(names, size="", tint="", where="", ground="", style="", opening="a") -> str:
    """The caption of a scene; every part but the names may be left out."""
    names = [" ".join(w for w in n.split() if not (tint and w in COLOURS)) for n in names]  # no blue red apples
    if len(names) > 1 and len(set(names)) == 1:
        first = {2: "two ", 3: "three "}[len(names)] + plural(names[0])
    else:
        first = " next to ".join([article(" ".join(filter(None, (size, tint, names[0])))), *map(article, names[1:])])
    text = (opening.removesuffix(" a") + " " if opening != "a" else "") + first
    return " ".join(filter(None, (text, where, surroundings(ground) if ground else ""))) + (f", {style}" if style else "")


def tinted(sprite: np.ndarray, colour) -> np.ndarray:
    """`sprite` uint8 RGBA [side, side, 4] in shades of `colour`: its mean lightness becomes the colour, black and white stay."""
    light = sprite[..., :3] @ np.array([0.299, 0.587, 0.114]) / 255
    middle = np.clip((light * sprite[..., 3]).sum() / sprite[..., 3].sum(), 0.2, 0.8)
    c, light = np.array(colour, float), light[..., None]
    shade = np.where(light < middle, c * light / middle, c + (255 - c) * (light - middle) / (1 - middle))
    return np.dstack([shade.round().astype(np.uint8), sprite[..., 3:]])


def scenery(name: str) -> np.ndarray:
    """float32 RGB [64, 64, 3]: sky, ground and a few simple shapes."""
    _, sky, ground, horizon = SCENERIES[name]
    big = 4 * SIDE
    image = Image.new("RGB", (big, big), sky)
    draw = ImageDraw.Draw(image)

    def disc(x, y, r, colour):
        draw.ellipse([big * (x - r), big * (y - r), big * (x + r), big * (y + r)], fill=colour)

    if name == "beach":
        draw.rectangle([0, big * 0.5, big, big * horizon], fill=(70, 150, 210))
        disc(0.84, 0.16, 0.1, (255, 224, 110))
    if name == "night":
        disc(0.82, 0.18, 0.11, (250, 240, 190))
        for x, y in ((0.12, 0.14), (0.38, 0.08), (0.6, 0.2), (0.08, 0.5), (0.92, 0.56), (0.2, 0.86), (0.5, 0.92), (0.8, 0.86)):
            disc(x, y, 0.018, (250, 250, 235))
    if name == "grass":
        for x, y in ((0.16, 0.2), (0.26, 0.17), (0.36, 0.2), (0.74, 0.12), (0.84, 0.12)):
            disc(x, y, 0.07, (252, 253, 255))
    if name == "room":
        draw.rectangle([big * 0.06, big * 0.1, big * 0.3, big * 0.4], fill=(150, 205, 240), outline=(255, 255, 255), width=big // 32)
    if name == "snow":
        for x, y in ((0.1, 0.1), (0.34, 0.2), (0.58, 0.08), (0.86, 0.18), (0.08, 0.4), (0.92, 0.42)):
            disc(x, y, 0.022, (255, 255, 255))
    draw.rectangle([0, big * horizon, big, big], fill=ground)
    if name == "forest":
        for x in (0.08, 0.3, 0.72, 0.94):
            draw.rectangle([big * (x - 0.025), big * 0.4, big * (x + 0.025), big * 0.72], fill=(110, 84, 62))
            draw.polygon([(big * (x - 0.14), big * 0.5), (big * (x + 0.14), big * 0.5), (big * x, big * 0.04)], fill=(66, 120, 76))
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)


def perhaps(rng: np.random.Generator, chance: float, options) -> str:
    """One of `options`, or nothing."""
    return str(rng.choice(options)) if rng.random() < chance else ""


class World:
    """Draws random scenes. `wide`: every name and art set in free places, else `THINGS` in canonical ones."""

    def __init__(self, drawings: Drawings, *, wide=False):
        self.drawings, self.wide = drawings, wide
        styles, names = (WIDE_STYLES, drawings.names) if wide else (SMALL_STYLES, THINGS)
        self.by_set = {s: [n for n in names if (s, n) in drawings.sprites[""]] for s in styles}
        self.weights = list(styles.values())
        tags = [t for n in names for t in set(drawings.tags.get(n, ()))]
        self.synonyms = {n: [t for t in drawings.tags.get(n, ()) if tags.count(t) == 1] for n in names if not wide} or drawings.tags
        self.grounds = {g: np.full((SIDE, SIDE, 3), c, np.float32) for g, c in COLOURS.items()} | {g: scenery(g) for g in SCENERIES}

    def sample(self, rng: np.random.Generator, like: Scene | None = None) -> Scene:
        """One random scene with its caption; `like`: one that shows the same otherwise."""
        art, names = self._things(rng, like)
        alone = len(names) == 1
        size = str(rng.choice(list(SIZES)[:3], p=[0.25, 0.5, 0.25])) if alone else ("pair", "three")[len(names) - 2]
        tint = like.tint if like else perhaps(rng, 0.2, TINTS) if alone else ""
        ground = perhaps(rng, 0.2, list(SCENERIES)) or str(rng.choice([c for c in COLOURS if c != tint]))
        where = perhaps(rng, 0.12, list(WHERE)) if alone and size != "large" and not self.wide else ""
        caption = self._caption(rng, art, names, size if alone else "", tint, where, ground)
        reach = (SIDE - SIZES[size]) // 2 if alone and self.wide else JITTER
        aside = np.array(WHERE.get(where, (0, 0))) * ASIDE
        offsets = tuple((int(x), int(y)) for x, y in rng.integers(-reach, reach + 1, (len(names), 2)) + aside)
        return Scene(tuple((art, n) for n in names), ground, size, tint, offsets, caption)

    def _things(self, rng, like: Scene | None) -> tuple[str, list[str]]:
        """(art set, names from left to right)"""
        art = like.things[0][0] if like else str(rng.choice(list(self.by_set), p=self.weights))
        count = len(like.things) if like else int(rng.choice([1, 2, 3], p=[0.75, 0.22, 0.03]))
        alike = count == 3 or rng.random() < 0.15  # three are always of one thing, two sometimes
        if like:
            return art, [n for _, n in like.things]
        names = [str(n) for n in rng.choice(self.by_set[art], 1 if alike else count, replace=False)]
        return art, names * (count // len(names))

    def _caption(self, rng, art: str, names: list[str], size: str, tint: str, where: str, ground: str) -> str:
        """What the scene is called; the ground and the style are not always said, things sometimes by another name."""
        called = [self._call(n, rng) for n in dict.fromkeys(names)]
        ground = ground if ground in SCENERIES or rng.random() < 0.85 else ""
        style = STYLES[art] if art != "twemoji" or rng.random() < 0.3 else ""
        opening = str(rng.choice(OPENINGS)) if len(called) == len(names) else "a"
        return describe(called * (len(names) // len(called)), size, tint, where, ground, style, opening)

    def _call(self, name, rng):
        tags = self.synonyms.get(name) if rng.random() < 0.08 else None
        return str(rng.choice(tags)) if tags else name

    def render(self, scene: Scene) -> np.ndarray:
        """uint8 RGB [64, 64, 3]."""
        canvas, n = self.grounds[scene.ground].copy(), len(scene.things)
        centres = {1: (SIDE // 2,), 2: (SIDE // 4 + 1, SIDE - SIDE // 4 - 1), 3: (SIDE // 6, SIDE // 2, SIDE - SIDE // 6)}[n]
        for key, (dx, dy), centre in zip(scene.things, scene.offsets, centres):
            sprite = self.drawings.sprites[scene.size][key]
            sprite = tinted(sprite, COLOURS[scene.tint]) if scene.tint else sprite
            side = sprite.shape[0]
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
    words |= {plural(w) for n in drawings.names for w in n.split()[-1:]}
    places = (*WHERE, *(words for words, *_ in SCENERIES.values()))
    grammar = " ".join((*OPENINGS, *STYLES.values(), *COLOURS, *places, "small large two three next to an and on in background the with of style"))
    return sorted(words | set(plain(grammar).split()))


__all__ = ["COLOURS", "HELD_OUT", "SCENERIES", "THINGS", "Scene", "World", "describe", "vocabulary"]
