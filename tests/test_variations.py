import json
from dataclasses import replace

import pytest
from conftest import picture, taught
from test_cli import teach, tiny  # noqa: F401  a fixture

import cns
from cns.__main__ import main
from cns.regions import PRESETS, arranged
from cns.ui import gpu
from cns.ui.generate import sweep
from cns.variations import columns, parse, usual


@pytest.fixture(scope="module")
def session(tiny_base):
    return taught(tiny_base, cns.Concept("guidance", "dog", [picture("red")]), taught(tiny_base, cns.Concept("rex", "dog", [picture("blue")])))


def test_a_column_is_the_settings_with_one_value(session):
    settings = cns.GenerateSettings(seed=7, guidance=3.0, strengths={"rex": 0.5})
    assert columns(session, settings, "guidance", (1, 2)) == [(v, replace(settings, guidance=v)) for v in (1, 2)]
    assert columns(None, settings, "image_strength", (0.5,)) == [(0.5, replace(settings, image_strength=0.5))]
    assert [s.strengths for _, s in columns(session, settings, "rex", (0, 1.5))] == [{"rex": 0}, {"rex": 1.5}]
    assert columns(session, settings, ["rex", "guidance"], (1.5,))[0][1].strengths == {"rex": 1.5, "guidance": 1.5}
    assert columns(session, settings, "<guidance>", (0,))[0][1].strengths == {"rex": 0.5, "<guidance>": 0}


def test_usual_values_lie_around_the_guidance_and_sweep_a_strength():
    assert usual("guidance", 3.0) == (1.5, 3, 4.5, 7.5) and usual("guidance", 25.0)[-1] == 30 and usual("rex", 3.0) == (0, 0.5, 1, 1.5)
    assert parse("rex=0,0.5") == ("rex", (0, 0.5)) and parse("guidance") == ("guidance", ())


BAD = {
    "names no values: write it": lambda s: parse("rex=x"),
    "there are 0 values": lambda s: columns(s, cns.GenerateSettings(), "rex", ()),
    "there are 9 values to vary `rex`": lambda s: columns(s, cns.GenerateSettings(), "rex", [1] * 9),
    "`guidance` is 31: choose 0 to 30": lambda s: columns(s, cns.GenerateSettings(), "guidance", (1, 31)),
    "strength of `rex` is 1.6: choose 0 to 1.5": lambda s: columns(s, cns.GenerateSettings(), "rex", (1, 1.6)),
    "`max` was never taught. Taught: nothing yet": lambda s: columns(None, cns.GenerateSettings(), "max", (1,)),
    "give numbers": lambda s: columns(s, cns.GenerateSettings(), "rex", ("x",)),
    "`count` is 1.5: choose a whole number": lambda s: cns.GenerateSettings(count=1.5),
    "`guidance` is x": lambda s: cns.GenerateSettings(guidance="x"),
    "`strengths` is rex": lambda s: cns.GenerateSettings(strengths="rex"),
    "layout `heap` is unknown: choose `side by side`": lambda s: arranged("heap", ["a dog"]),
    "layout `grid` has 4 boxes, but there are words for 1": lambda s: arranged("grid", ["a dog"]),
}


@pytest.mark.parametrize("said", BAD)
def test_bad_variations_are_refused_before_anything_is_drawn(session, said):
    with pytest.raises(ValueError, match=said):
        BAD[said](session)


def test_the_pages_strip_is_four_strengths_from_none_to_more(tiny_base, session):
    gpu.use(tiny_base)
    strip = sweep("rex", "0" * 32, "a <rex> dog", None, session, 4, 7, {"rex": 0.3}, "", 2, 2.0, 60, 100)
    assert [strip.count(f">{said}</figcaption>") for said in ("0%", "50%", "100%", "150%")] == [1] * 4


def test_a_table_and_a_preset_from_the_shell(tiny, tmp_path, capsys):  # noqa: F811
    base, out = ["--base", str(tiny / "base")], tmp_path / "out"
    assert teach(tiny, tmp_path / "s") == 0
    draw = ["generate", *base, "--session", str(tmp_path / "s"), "--prompt", "a house", "--steps", "2", "--out", str(out)]
    boxes = ["--preset", "side by side", "--words", "a <rex> dog", "--words", "a cat", "--save-layout", str(tmp_path / "l.json")]
    assert main([*draw, *boxes, "--vary", "rex=0,1.5", "--count", "2", "--seed", "7"]) == 0
    assert sorted(p.name for p in out.iterdir()) == ["7-rex-0.png", "7-rex-1.5.png", "8-rex-0.png", "8-rex-1.5.png"]
    assert [tuple(r["box"]) for r in json.loads((tmp_path / "l.json").read_text())] == [*PRESETS["side by side"]]
    drawn = (out / "7-rex-1.5.png").read_bytes()
    assert main([*draw, "--layout", str(tmp_path / "l.json"), "--strength", "rex=1.5", "--seed", "7"]) == 0
    assert (out / "7.png").read_bytes() == drawn
    assert main([*draw, "--vary", "guidance"]) == 0 and len([*out.glob("0-guidance-*.png")]) == len(set(usual("guidance", 7.5)))
    for bad in (["--vary", "rex=0,2"], ["--vary", "max"], ["--preset", "heap"], ["--words", "a cat"], ["--vary", "rex=x"]):
        assert main([*draw, *bad]) == 2, bad
