"""Files that people drop in, pictures that a model can learn from out: upright 8-bit RGB, or an error that says what to do.

Nothing here trusts a file: the format is on a list, the size is read from the header before anything is decoded, and
whatever goes wrong inside the decoder comes out as one ValueError that names the file.
"""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
MAX_BYTES = 20 * 2**20  # of one file
MAX_PIXELS = 50_000_000
MIN_SIDE = 16  # pixels
Source = str | Path | bytes | Image.Image


class Missing(ValueError):
    """There is no file at the given path; `name` is the file's own."""

    def __init__(self, path: str | Path):
        super().__init__(f"there is no file `{path}`: check the path")
        self.name = Path(path).name


def load_images(sources: Sequence[Source]) -> list[Image.Image]:
    """1 to 10 pictures as upright RGB. Raises ValueError that names the file, what is wrong with it and what to do."""
    if not 1 <= len(sources) <= 10:
        raise ValueError(f"there are {len(sources)} images: give 1 to 10 (4 or 5 work well)" if sources else "there is no image: give 1 to 10")
    return [_load(s, Path(s).name if isinstance(s, str | Path) else f"image {i}") for i, s in enumerate(sources, 1)]


def _load(source: Source, name: str) -> Image.Image:
    if isinstance(source, Image.Image):
        _check_size(source, name)
        return _upright_rgb(source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            content = source if isinstance(source, bytes) else _read(Path(source), name)
            image = Image.open(io.BytesIO(content), formats=FORMATS)
        except ValueError:
            raise
        except FileNotFoundError:
            raise Missing(source) from None  # type: ignore[arg-type]  # bytes come from no file
        except Image.DecompressionBombError:
            raise ValueError(_too_large(name)) from None
        except Exception:
            raise ValueError(f"`{name}` is not a picture that can be read: save it as PNG or JPEG and try again") from None
        _check_size(image, name)
        try:
            frames = getattr(image, "n_frames", 1)
            if frames == 1 or image.format == "MPO":  # an MPO is a JPEG with previews or a second eye behind it
                image.load()
                return _upright_rgb(image)
        except Exception:
            raise ValueError(f"`{name}` is damaged or cut off: open it in a picture viewer and save it again") from None
    raise ValueError(f"`{name}` is animated ({frames} frames): save one frame of it as PNG and give that")


def _read(path: Path, name: str) -> bytes:
    if path.is_dir():
        raise ValueError(f"`{name}` is a folder: give the images in it")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"`{name}` has {size / 2**20:.0f} MB: make it smaller than {MAX_BYTES // 2**20} MB")
    return path.read_bytes()


def _check_size(image: Image.Image, name: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(_too_large(name, f" ({image.width}x{image.height})"))
    if min(image.size) < MIN_SIDE:
        raise ValueError(f"`{name}` is {image.width}x{image.height} pixels: give a picture of at least {MIN_SIDE}x{MIN_SIDE}")


def _too_large(name: str, size: str = "") -> str:
    return f"`{name}` is too large{size}: make it smaller than {MAX_PIXELS // 1_000_000} megapixels"


def _upright_rgb(image: Image.Image) -> Image.Image:
    """EXIF rotation done, 16 bits scaled to 8, transparency on white."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, np.float64)
        image = Image.fromarray((np.clip(values / (257 if values.max() > 255 else 1), 0, 255)).round().astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def square(image: Image.Image, size: int) -> Image.Image:
    """The centre square of `image`, `size` pixels wide: what the model sees."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.convert("RGB").crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.LANCZOS)


def to_pixels(images: Sequence[Image.Image], size: int) -> Tensor:
    """float32 [n, 3, size, size] in [-1, 1]."""
    arrays = np.stack([np.asarray(square(i, size)) for i in images])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 127.5 - 1


def withheld(size: tuple[int, int]) -> Image.Image:
    """What is shown for a picture that a base's safety checker holds back."""
    picture = Image.new("RGB", size, "#30343a")
    ImageDraw.Draw(picture).multiline_text(
        (size[0] / 2, size[1] / 2), "held back by the\nmodel's safety checker:\ntry another seed", "#d5d8dc", anchor="mm", align="center", font_size=max(6, size[0] // 14)
    )
    return picture


def to_pictures(pixels: Tensor) -> list[Image.Image]:
    """The inverse of `to_pixels`."""
    levels = ((pixels + 1) * 127.5).round().clamp(0, 255).byte()
    return [Image.fromarray(p.permute(1, 2, 0).numpy()) for p in levels]
