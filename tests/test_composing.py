"""The Generate tab of the running app, as its page calls it: what it draws is what the core draws with the session, and where words acted."""

import io
import json
import re
from pathlib import Path

import pytest
from conftest import picture
from PIL import Image
from test_bad_input import LEFT, drawn, tab  # noqa: F401  a fixture
from test_keeping import app  # noqa: F401  a fixture

import cns
from cns.regions import LIMIT, PRESETS
from cns.ui import html

BOX = {"box": LEFT, "words": "a <rex> dog"}


def shown(pictures) -> list[bytes]:
    """The pixels of a gallery's pictures."""
    return [Image.open(p["image"]["path"]).convert("RGB").tobytes() for p in pictures["value"]]


def test_the_page_draws_what_the_core_draws_with_session_strengths_and_regions(tab, tiny_base, rex):  # noqa: F811
    rows = ["a <rex> dog", "0,0,0.5,1", *[""] * (2 * LIMIT - 2)]
    out = tab.call("generated", False, None, "a house", None, None, 2, 7, {}, "", 2, 2.0, 60, 100, *rows)
    settings = cns.GenerateSettings(2, 7, 2, 2.0, regions=(cns.Region(**BOX),), together=1)
    assert shown(out[1]) == [html.enlarged(p).tobytes() for p in cns.generate(tiny_base, "a house", rex, settings)]


def test_the_page_starts_from_an_uploaded_picture_with_the_session(tab, tiny_base, rex):  # noqa: F811
    content = io.BytesIO()
    picture("blue").save(content, "PNG")
    start = tab.upload(content.getvalue(), "start.png")
    out = tab.call("generated", False, None, "a <rex> dog", start, None, 1, 7, {}, "", 4, 2.0, 50, 100, *[""] * (2 * LIMIT))
    settings = cns.GenerateSettings(1, 7, 4, 2.0, image_strength=0.5)
    with_it, without = (cns.generate(tiny_base, p, s, settings, picture("blue"))[0] for p, s in (("a <rex> dog", rex), ("a dog", None)))
    assert shown(out[1]) == [html.enlarged(with_it).tobytes()] != [html.enlarged(without).tobytes()]


def test_the_page_shows_where_each_word_of_what_was_drawn_acted(tab):  # noqa: F811
    assert tab.call("acted", True, None, None, None) == [""]  # nothing was drawn yet
    drawn(tab, [BOX])
    heat = tab.call("acted", True, None, None, None)[0]
    assert re.findall("<figcaption>(.*?)</figcaption>", heat) == ["a", "house", "a", "&lt;rex&gt;", "dog"]
    assert len(set(re.findall('src="([^"]*)"', heat))) == 5 and tab.call("acted", False, None, None, None) == [""]


@pytest.mark.parametrize("name", PRESETS)
def test_a_layout_of_the_page_is_saved_and_loaded_again(tab, name):  # noqa: F811
    words = [f"a <rex> dog number {i}" for i in range(len(PRESETS[name]))]
    rows = tab.call("choose", name, *[w for i in range(LIMIT) for w in ((words[i : i + 1] or [""])[0], "")])
    boxes = [rows[3 * i + 2] for i in range(len(words))]
    saved = tab.call("kept", *[c for w, b in zip(words, boxes) for c in (w, b)], *[""] * (2 * (LIMIT - len(words))))[0]
    content = Path(saved["path"] if "path" in saved else saved["value"]["path"]).read_bytes()
    assert [(r["words"], tuple(r["box"])) for r in json.loads(content)] == list(zip(words, PRESETS[name]))
    loaded = tab.call("opened", tab.upload(content, "layout.json"))[1:]
    assert [(loaded[3 * i + 1], loaded[3 * i + 2]) for i in range(len(words))] == list(zip(words, boxes))
    assert [loaded[3 * i]["visible"] for i in range(LIMIT)] == [i < len(words) for i in range(LIMIT)]
