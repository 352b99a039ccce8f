import io
import random
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from cns.images import Missing, load_images, square, to_pixels

GRADIENT = Image.fromarray(np.stack([np.tile(np.arange(48, dtype=np.uint8) * 5, (32, 1)), np.full((32, 48), 40, np.uint8), np.tile(np.arange(32, dtype=np.uint8)[:, None] * 7, (1, 48))], -1))


def encoded(image, kind, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def refused(tmp_path, content: bytes, message: str, name="thing.png"):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_images([tmp_path / name])
    assert f"`{name}`" in str(caught.value) and str(tmp_path) not in str(caught.value)


def huge_png(side=30_000) -> bytes:
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def test_what_is_no_picture_is_refused(tmp_path):
    refused(tmp_path, b"hello, I am text", "not a picture")
    refused(tmp_path, b"", "not a picture")
    refused(tmp_path, b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture", "drawing.svg")
    refused(tmp_path, encoded(GRADIENT, "ICO"), "not a picture")


def test_truncated_files_are_refused(tmp_path):
    for kind in ("PNG", "JPEG", "WEBP"):
        content = encoded(GRADIENT.resize((200, 200)), kind)
        refused(tmp_path, content[: len(content) // 2], "damaged or cut off|not a picture")


def test_animated_files_are_refused(tmp_path):
    for kind in ("GIF", "PNG", "WEBP"):
        content = encoded(GRADIENT, kind, save_all=True, append_images=[GRADIENT.transpose(0)])
        refused(tmp_path, content, "animated .2 frames")


def test_tiny_and_huge_pictures_are_refused_from_the_header(tmp_path):
    refused(tmp_path, encoded(Image.new("RGB", (1, 1)), "PNG"), "1x1 pixels: give")
    refused(tmp_path, huge_png(), "too large")
    refused(tmp_path, huge_png(9_000), r"too large \(9000x9000\)")


def test_a_file_too_heavy_is_refused(tmp_path):
    refused(tmp_path, b"\0" * (21 * 2**20), "has 21 MB")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(Missing, match=f"there is no file `{tmp_path}/none.png`: check the path") as missing:
        load_images([tmp_path / "none.png"])
    assert missing.value.name == "none.png"
    with pytest.raises(ValueError, match="is a folder"):
        load_images([tmp_path])


def test_none_and_too_many_are_refused():
    with pytest.raises(ValueError, match="there is no image"):
        load_images([])
    with pytest.raises(ValueError, match="there are 11 images: give 1 to 10"):
        load_images([GRADIENT] * 11)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotated_pictures_come_right_way_up(orientation):
    turns = {2: [0], 3: [3], 4: [1], 5: [5], 6: [2], 7: [6], 8: [4]}  # what was done to the pixels, undone by the viewer
    stored = GRADIENT
    for turn in turns.get(orientation, []):
        stored = stored.transpose({0: 0, 3: 3, 1: 1, 5: 5, 2: 2, 6: 6, 4: 4}[turn])
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = load_images([encoded(stored, "PNG", exif=exif)])[0]
    assert out.size == GRADIENT.size and out.tobytes() == GRADIENT.tobytes()


def test_cmyk_gray_and_palette_become_rgb():
    red = Image.new("RGB", (32, 32), (200, 30, 30))
    cases = [encoded(red.convert("CMYK"), "JPEG"), encoded(red.quantize(4), "PNG"), encoded(red.convert("L"), "PNG"), encoded(red, "GIF"), encoded(red, "BMP"), encoded(red, "TIFF")]
    for content in cases:
        image = load_images([content])[0]
        assert image.mode == "RGB"
    assert np.abs(np.asarray(load_images([cases[0]])[0], int) - [200, 30, 30]).max() < 12


def test_sixteen_bit_gray_is_scaled_and_not_clipped():
    values = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    out = np.asarray(load_images([encoded(Image.fromarray(values), "PNG")])[0])
    assert out[0, 0].tolist() == [0, 0, 0] and out[-1, -1].tolist() == [255, 255, 255]
    assert abs(int(out[16, 0, 0]) - 128) < 3


def test_transparency_is_put_on_white():
    clear = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    half = Image.new("LA", (32, 32), (0, 128))
    assert load_images([encoded(clear, "PNG")])[0].getpixel((5, 5)) == (255, 255, 255)
    assert load_images([encoded(half, "PNG")])[0].getpixel((5, 5)) == (127, 127, 127)
    assert load_images([clear])[0].getpixel((5, 5)) == (255, 255, 255)


def test_square_crops_the_centre():
    image = Image.new("RGB", (90, 30), "blue")
    image.paste("red", (30, 0, 60, 30))
    out = np.asarray(square(image, 16))
    assert out.shape == (16, 16, 3) and (out == [255, 0, 0]).all()


def test_pixels_are_scaled_to_minus_one_to_one():
    pixels = to_pixels([Image.new("RGB", (20, 20), "black"), Image.new("RGB", (40, 20), "white")], 16)
    assert pixels.shape == (2, 3, 16, 16) and pixels.dtype == torch.float32
    assert (pixels[0] == -1).all() and (pixels[1] == 1).all()


def test_mutated_files_are_read_or_refused_but_never_crash():
    dice = random.Random(5)
    originals = [encoded(GRADIENT, k) for k in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP")]
    outcomes = {"read": 0, "refused": 0}
    for _ in range(600):
        content = bytearray(dice.choice(originals))
        for _ in range(dice.randint(1, 8)):
            content[dice.randrange(len(content))] = dice.randrange(256)
        try:
            assert load_images([bytes(content)])[0].mode == "RGB"
            outcomes["read"] += 1
        except ValueError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 50
