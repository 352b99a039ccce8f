"""Art in, drawings out: emoji SVGs of seven npm packages, rasterised once to RGBA sprites and kept as one `.npz`.

The packages are fetched with `npm pack` (by name, so any registry mirror serves them) into the work folder.
"""

import io
import json
import re
import subprocess
import tarfile
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

STYLES = {  # art set -> the caption's style words; the first of them is drawn when a caption names no style
    "twemoji": "flat style",
    "noto": "shaded style",
    "fluent-emoji": "glossy style",
    "noto-v1": "blob style",
    "fxemoji": "soft style",
    "fluent-emoji-flat": "bold style",
}
HELD_OUT = "emojione"  # never seen in training: the concepts to teach come from it
GROUPS = (3, 4, 5, 6, 7)  # emojibase: animals, food, travel, activities, objects
SIZES = {"small": 28, "": 40, "large": 54, "pair": 30, "three": 21}  # side of a drawing [pixels of 64]; the last two: beside others
VERSION = {"@iconify-json/" + s: "1" for s in (*STYLES, HELD_OUT)} | {"emojibase-data": "17"}


@dataclass(frozen=True)
class Drawings:
    """Every drawing at every size: `sprites[size][(set, name)]` is uint8 RGBA [side, side, 4]."""

    names: tuple[str, ...]
    tags: dict[str, tuple[str, ...]]
    sprites: dict[str, dict[tuple[str, str], np.ndarray]]


def load(work: Path) -> Drawings:
    """Drawings from the cache in `work`, made (and the packages fetched) when it is not there yet."""
    cache = work / "drawings.npz"
    if not cache.exists():
        _rasterise(fetch(work / "npm"), cache)
    with np.load(cache) as z:
        index = json.loads(str(z["index"]))
        arrays = {size: z["size_" + (size or "default")] for size in SIZES}
    keys = [tuple(k) for k in index["keys"]]
    sprites = {size: dict(zip(keys, a)) for size, a in arrays.items()}
    return Drawings(tuple(index["names"]), {k: tuple(v) for k, v in index["tags"].items()}, sprites)


def fetch(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for package, major in VERSION.items():
        target = folder / package.split("/")[-1]
        if target.exists():
            continue
        try:
            out = subprocess.run(["npm", "pack", "--silent", f"{package}@{major}"], cwd=folder, check=True, capture_output=True)
        except FileNotFoundError:
            raise RuntimeError("`npm` is needed to fetch the art packages: install Node.js, then run this again") from None
        with tarfile.open(folder / out.stdout.decode().strip().splitlines()[-1]) as tar:
            tar.extractall(target, filter="data")
    return folder


def plain(label: str) -> str:
    """`label` in the letters that captions use: lower case a-z, digits and single spaces."""
    ascii_ = unicodedata.normalize("NFKD", label.lower()).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", " ", ascii_.replace("’", "")).strip()


def _icon_name(icons, chars, emoji):
    """The icon of `emoji` in one set, by code point where the set has a table, else by its label as a slug."""
    code = emoji["hexcode"].lower()
    found = chars.get(code) or chars.get(code.replace("-fe0f", ""))
    if found:
        return found
    slug = plain(emoji["label"]).replace(" ", "-")
    joined = slug.replace("-", "")
    if "regionalindicatorb" in icons:  # fxemoji: joined words, `dog` is the face and `dogside` the dog
        options = [joined + "side", joined.removesuffix("face") if joined.endswith("face") else joined, joined]
    else:
        options = [slug]
    return next((o for o in options if o in icons), None)


class ArtSet:
    """The icons of one npm package."""

    def __init__(self, packages: Path, name: str):
        root = packages / name / "package"
        self.table, self.chars = json.loads((root / "icons.json").read_text()), json.loads((root / "chars.json").read_text())
        self.icons, self.aliases = self.table["icons"], self.table.get("aliases", {})

    def draw(self, emoji, side: int) -> Image.Image | None:
        """RGBA [side, side], trimmed to the drawing; None when the set has none of `emoji`."""
        try:
            import resvg_py
        except ImportError:
            raise ModuleNotFoundError("`resvg_py` is needed to rasterise the art: pip install -r tests/requirements.txt") from None
        name = _icon_name(self.icons.keys() | self.aliases.keys(), self.chars, emoji)
        if name is None:
            return None
        icon = self.icons[self.aliases[name]["parent"] if name in self.aliases else name]
        w, h = icon.get("width", self.table.get("width", 16)), icon.get("height", self.table.get("height", 16))
        svg = (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="{side}" height="{side}" '
            f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {w} {h}">{icon["body"]}</svg>'
        )
        image = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side)))).convert("RGBA")
        box = image.getchannel("A").getbbox()
        return _square(image.crop(box)) if box else None


def emoji_of(packages: Path) -> list[dict]:
    """emojibase's entries of the permitted groups."""
    everything = json.loads((packages / "emojibase-data/package/en/data.json").read_text())
    return [e for e in everything if e.get("group") in GROUPS]


def _rasterise(packages: Path, cache: Path):
    emoji = emoji_of(packages)
    tags = {plain(e["label"]): [plain(t) for t in e.get("tags", [])] for e in emoji}
    stacks, keys = {size: [] for size in SIZES}, []
    for art in (*STYLES, HELD_OUT):
        icons = ArtSet(packages, art)
        for e in emoji:
            if (image := icons.draw(e, 128)) is None:
                continue
            keys.append((art, plain(e["label"])))
            for size, side in SIZES.items():
                small = image.convert("RGBa").resize((side, side), Image.Resampling.BOX if side < 40 else Image.Resampling.LANCZOS)
                stacks[size].append(np.asarray(small.convert("RGBA")))
    names = sorted({n for s, n in keys if s in STYLES})
    cache.parent.mkdir(parents=True, exist_ok=True)
    index = json.dumps({"keys": keys, "names": names, "tags": tags})
    np.savez_compressed(cache, index=index, **{"size_" + (s or "default"): np.stack(a) for s, a in stacks.items()})  # type: ignore[arg-type]


def _square(image):
    side = max(image.size)
    out = Image.new("RGBA", (side, side))
    out.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return out
