"""The starter's world and training, on drawings made up here: no art package is needed."""

import copy
import io
import json
import os
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

import cns
from cns.scores import Scorer
from cns.starter import art, train
from cns.starter.__main__ import main as shell
from cns.starter.art import HELD_OUT, SIZES, STYLES, Drawings, plain
from cns.starter.concepts import SIDE, compose
from cns.starter.evaluate import SHEET, nearest, pairs
from cns.starter.export import export
from cns.starter.world import COLOURS, SCENERIES, THINGS, TINTS, World, describe, plural, tinted, vocabulary


def drawings() -> Drawings:
    """A disc for every thing, in a colour and of an art set's own brightness."""
    rng, sprites = np.random.default_rng(0), {}
    colours = {n: rng.integers(0, 256, 3) for n in THINGS}
    for size, side in SIZES.items():
        y, x = np.mgrid[:side, :side] - (side - 1) / 2
        disc = 255 * (x**2 + y**2 <= (side / 2) ** 2)
        sprites[size] = {
            (s, n): np.dstack([np.broadcast_to(c // k, (side, side, 3)), disc]).astype(np.uint8)
            for k, s in enumerate(STYLES, 1)
            for n, c in colours.items()
        }
    return Drawings(tuple(sorted(THINGS)), {n: ("thing",) for n in THINGS}, sprites)


@pytest.fixture(scope="module")
def world():
    return World(drawings())


@pytest.mark.parametrize(
    ("asked", "caption"),
    [
        ({"names": ["owl"]}, "an owl"),
        ({"names": ["owl"], "size": "small", "ground": "orange"}, "a small owl on an orange background"),
        ({"names": ["owl"], "tint": "orange", "where": "on the left", "ground": "beach"}, "an orange owl on the left on a beach"),
        ({"names": ["red apple"], "tint": "blue"}, "a blue apple"),
        ({"names": ["owl"] * 2, "ground": "night"}, "two owls at night"),
        ({"names": ["butterfly"] * 3, "style": "flat style"}, "three butterflies, flat style"),
        ({"names": ["teapot", "umbrella"], "style": "shaded style", "opening": "a photo of a"}, "a photo of a teapot next to an umbrella, shaded style"),
    ],
)
def test_captions_read_as_sentences(asked, caption):
    assert describe(**asked) == caption


def test_a_scene_shows_what_its_caption_says(world):
    rng = np.random.default_rng(1)
    for _ in range(50):
        scene = world.sample(rng)
        picture = world.render(scene)
        assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
        said = [n.removeprefix("red ") if scene.tint else n for _, n in scene.things]
        calls = [{n, plural(n), *world.synonyms[n]} for n in said if n in world.synonyms] or [set(said)]
        assert all(any(c in scene.caption for c in call) for call in calls)
        assert scene.tint in scene.caption
        if scene.ground in COLOURS:
            assert tuple(picture[0, 0]) == COLOURS[scene.ground]
            assert f"{scene.ground} background" in scene.caption or "background" not in scene.caption
        else:
            assert SCENERIES[scene.ground][0] in scene.caption


def test_every_side_size_count_and_scenery_comes_up_and_moves_what_it_says(world):
    rng, left, right, top = np.random.default_rng(4), [], [], []
    scenes = [world.sample(rng) for _ in range(800)]
    for s in scenes:
        (left if "on the left" in s.caption else right if "on the right" in s.caption else top if "at the top" in s.caption else []).append(s.offsets[0])
    assert max(x for x, _ in left) < -5 and min(x for x, _ in right) > 5 and max(y for _, y in top) < -5
    assert {s.ground for s in scenes} == {*COLOURS, *SCENERIES} and {s.size for s in scenes} == set(SIZES)
    assert {s.tint for s in scenes} == {"", *TINTS} and all(s.tint != s.ground for s in scenes)
    assert {len(s.things) for s in scenes} == {1, 2, 3} and {"two", "three"} <= {s.caption.split()[0] for s in scenes}


def test_a_scene_like_another_shows_the_same(world):
    rng = np.random.default_rng(6)
    for scene in [world.sample(rng) for _ in range(200)]:
        assert world.sample(rng, scene).shown == scene.shown


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """An `npm` whose packages all hold one dog face, a disc that is larger in later versions; the names of those that were fetched."""
    shelf = tmp_path / "registry"
    shelf.mkdir()
    for major in (1, 2, 17):
        disc = f'<circle cx="8" cy="8" r="{3 + major % 4}" fill="red"/><circle cx="8" cy="8" r="7.9" fill="blue" fill-opacity="0.2"/>'
        files = {
            "package.json": {"version": f"{major}.4.0"}, "chars.json": {"1f436": "dog-face"}, "icons.json": {"icons": {"dog-face": {"body": disc}}},
            "en/data.json": [{"label": "dog face", "hexcode": "1F436", "group": art.GROUPS[0], "tags": ["pet"]}],
        }  # fmt: skip
        with tarfile.open(shelf / f"{major}.tgz", "w:gz") as tar:
            for name, content in files.items():
                about = tarfile.TarInfo(f"package/{name}")
                about.size = len(body := json.dumps(content).encode())
                tar.addfile(about, io.BytesIO(body))
    (shelf / "npm").write_text(f'#!/bin/sh\necho "$3" >> {shelf}/asked\ncp "{shelf}/${{3##*@}}.tgz" . && echo "${{3##*@}}.tgz"\n')
    (shelf / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{shelf}:{os.environ['PATH']}")
    return lambda: (shelf / "asked").read_text().split()


def test_a_cache_of_drawings_that_was_made_for_something_else_is_made_anew(tmp_path, monkeypatch, capsys, registry):
    pytest.importorskip("resvg_py", reason="nothing draws SVG: pip install -r tests/requirements.txt")
    work, cache = tmp_path / "work", tmp_path / "work" / "drawings.npz"

    def loaded(sets=(*STYLES, HELD_OUT), sizes=SIZES):
        found = art.load(work)
        assert found.names == ("dog face",) and found.tags == {"dog face": ("pet",)} and {s for s, _ in found.sprites[""]} == {*sets}
        assert {size: sprites["noto", "dog face"].shape for size, sprites in found.sprites.items()} == {n: (side, side, 4) for n, side in sizes.items()}
        return found, capsys.readouterr().out

    with monkeypatch.context() as earlier:
        earlier.setattr(art, "SIZES", {n: side for n, side in SIZES.items() if n != "three"})
        assert loaded(sizes=art.SIZES)[1] == ""
    (first, said), packages = loaded(), registry()
    assert said == f"`{cache}` was made for other sizes, art sets or versions: it is made anew\n"
    made = cache.stat().st_mtime_ns
    assert loaded()[1] == "" and cache.stat().st_mtime_ns == made and len(registry()) == len(packages) == len(art.VERSION)  # as it is: nothing is made or fetched
    changes = (
        ("SIZES", {**SIZES, "large": 50}, {"sizes": {**SIZES, "large": 50}}), ("HELD_OUT", "noto", {"sets": STYLES}),
        ("VERSION", {**art.VERSION, "@iconify-json/noto": "2"}, {}),
    )  # fmt: skip
    for name, value, wanted in changes:
        with monkeypatch.context() as later:
            later.setattr(art, name, value)
            found, said = loaded(**wanted)
            assert "made anew" in said and loaded(**wanted)[1] == ""
    assert registry()[len(packages) :] == ["@iconify-json/noto@2"] and not np.array_equal(found.sprites[""]["noto", "dog face"], first.sprites[""]["noto", "dog face"])
    assert not [*work.glob("*.part*")]


def test_a_cache_from_before_versions_were_noted_is_read(tmp_path, registry):
    pytest.importorskip("resvg_py", reason="nothing draws SVG: pip install -r tests/requirements.txt")
    art.load(tmp_path)
    with np.load(tmp_path / "drawings.npz") as z:
        content = dict(z)
    index = json.loads(str(content.pop("index")))
    np.savez(tmp_path / "drawings.npz", index=json.dumps({k: v for k, v in index.items() if k != "versions"}), **content)
    made = (tmp_path / "drawings.npz").stat().st_mtime_ns
    assert art.load(tmp_path).names == ("dog face",) and (tmp_path / "drawings.npz").stat().st_mtime_ns == made


def test_a_tinted_drawing_keeps_its_shape_black_and_white():
    sprite = np.zeros((2, 2, 4), np.uint8)
    sprite[..., 3] = [[255, 255], [255, 0]]
    sprite[0, 0, :3], sprite[0, 1, :3], sprite[1, 0, :3] = 0, 255, 128
    out = tinted(sprite, COLOURS["blue"])
    assert (out[..., 3] == sprite[..., 3]).all() and (out[0, 0, :3] == 0).all() and (out[0, 1, :3] == 255).all()
    assert abs(out[1, 0, :3].astype(int) - COLOURS["blue"]).max() < 3


def test_every_word_of_a_caption_is_in_the_vocabulary(world):
    words, rng = set(vocabulary(world.drawings)), np.random.default_rng(2)
    said = {w for _ in range(300) for w in plain(world.sample(rng).caption).split()}
    assert said <= words


@pytest.mark.parametrize("name", ["ae", "judge", "unet"])
def test_a_stage_resumes_exactly(name, tmp_path, monkeypatch):
    monkeypatch.setattr("cns.starter.art.load", lambda work: drawings())
    monkeypatch.setattr(train, "BATCH", dict.fromkeys(train.BATCH, 4))

    def stage():
        return train.STAGES[name](tmp_path, "cpu", seed=3)

    first = stage()
    before = copy.deepcopy(first.models)
    losses = [first.advance() for _ in range(2)]
    first.save()
    losses += [first.advance() for _ in range(2)]
    again = stage()
    assert again.step == 2
    assert [again.advance() for _ in range(2)] == losses[2:]
    for kind in ("models", "ema"):
        for k, m in getattr(first, kind).items():
            assert all(torch.equal(p, getattr(again, kind)[k].state_dict()[n]) for n, p in m.state_dict().items())
    assert any(not torch.equal(p, before[k].state_dict()[n]) for k, m in first.models.items() for n, p in m.state_dict().items())


def test_the_decoder_alone_is_trained_on_both_worlds_and_the_encoder_stays(tmp_path, monkeypatch):
    monkeypatch.setattr("cns.starter.art.load", lambda work: drawings())
    monkeypatch.setattr(train, "BATCH", {**train.BATCH, "ae": 2})
    stage = train.STAGES["decoder"](tmp_path, "cpu", 0)
    before = copy.deepcopy(stage.models["ae"].state_dict())
    for _ in range(2):
        stage.advance()
    stage.save()
    changed = {n.split(".")[0] for n, w in train.trained(tmp_path, "ae").items() if not torch.equal(w, before[n])}
    assert changed == {"decoder", "post_quant_conv"} and [w.wide for w in stage.worlds] == [True, False]


def test_without_a_checkpoint_a_stage_goes_on_from_the_committed_weights_or_anew(tmp_path, monkeypatch):
    monkeypatch.setattr("cns.starter.art.load", lambda work: drawings())
    committed = train.trained(tmp_path, "ae")
    warm, cold = (train.STAGES["ae"](tmp_path, "cpu", 0, anew).models["ae"].state_dict() for anew in (False, True))
    assert all(torch.equal(w.float(), warm[n]) for n, w in committed.items())
    assert not any(torch.equal(w.float(), cold[n]) for n, w in committed.items() if n.endswith("conv_in.weight"))


def test_what_was_trained_is_exported_as_a_base_with_its_clips_and_card(tmp_path, monkeypatch):
    monkeypatch.setattr("cns.starter.art.load", lambda work: drawings())
    export(tmp_path / "work", tmp_path / "out")  # no checkpoints: the committed weights
    base, committed = cns.load_base(tmp_path / "out", "cpu"), cns.load_base()
    weights, wanted = (b.denoiser.state_dict() for b in (base, committed))
    assert weights.keys() == wanted.keys() and all(torch.equal(w, weights[n]) for n, w in wanted.items())
    assert base.revision == committed.revision and len(base.card.calibration) == 64 and set(base.class_words) == {*THINGS}
    images = [Image.fromarray(World(drawings()).render(World(drawings()).sample(np.random.default_rng(4))))]
    for one, other in ((base.scorer, committed.scorer), (Scorer.load(tmp_path / "out/judge", tokenizer=tmp_path / "out/tokenizer"), Scorer.load(cns.STARTER / "judge", tokenizer=cns.STARTER / "tokenizer"))):
        assert torch.equal(one.image_features(images), other.image_features(images))


def test_the_marks_are_printed_and_the_contact_sheet_is_written(tmp_path, monkeypatch, capsys):
    base = cns.load_base()
    monkeypatch.setattr(base, "steps", 1)
    monkeypatch.setattr("cns.starter.art.load", lambda work: drawings())
    monkeypatch.setattr("cns.starter.evaluate.load_base", lambda: base)
    monkeypatch.setattr("sys.argv", ["cns.starter", "--work", str(tmp_path), "evaluate", "--out", str(tmp_path / "sheet.png"), "--count", "12"])
    shell()
    marks = {line[:64].strip(): float(line[64:]) for line in capsys.readouterr().out.splitlines()}
    assert len(marks) == 6 and all(0 <= v <= 1 for name, v in marks.items() if "PSNR" not in name)
    assert marks["autoencoder PSNR on real scenes [dB]"] > 15
    assert Image.open(tmp_path / "sheet.png").size == (2 * 64 * 12, 2 * 2 * 64 * -(-len(SHEET) // 12))


def test_a_stage_is_trained_from_the_shell_for_its_minutes(tmp_path, monkeypatch):
    asked = []

    class Stage:
        def __init__(self, *args):
            asked.append(args)

        def train(self, minutes, decay):
            asked.append((round(minutes, 3), decay))

    monkeypatch.setattr(train, "STAGES", dict.fromkeys(("ae", "clip", "judge", "unet"), Stage))
    for options in (["--stage", "unet", "--minutes", "5", "--decay"], ["--minutes", "9", "--seed", "2", "--anew"]):
        monkeypatch.setattr("sys.argv", ["cns.starter", "--work", str(tmp_path), "train", "--device", "cpu", *options])
        shell()
    assert asked[:2] == [(tmp_path, "cpu", 0, False), (5, True)]
    assert asked[2:] == [(tmp_path, "cpu", 2, True), (1, False)] * 3 + [(tmp_path, "cpu", 2, True), (6, False)]


def test_the_shell_says_in_one_line_what_is_missing(tmp_path, monkeypatch):
    def missing(*_):
        raise FileNotFoundError("no art")

    monkeypatch.setattr("cns.starter.art.load", missing)
    monkeypatch.setattr("sys.argv", ["cns.starter", "--work", str(tmp_path), "export", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="cns.starter export: no art"):
        shell()
    assert not (tmp_path / "out").exists()


def test_a_drawing_is_set_on_its_colour_as_large_and_where_it_is_asked_for():
    drawing = Image.new("RGBA", (256, 256), (10, 20, 30, 255))
    picture = compose(drawing, "teal", 0.5, (6, -4))
    there = np.all(np.asarray(picture) == (10, 20, 30), axis=-1)
    y, x = there.nonzero()
    assert picture.size == (SIDE, SIDE) and picture.getpixel((0, 0)) == COLOURS["teal"] and there.sum() == 128 * 128
    assert (x.min(), y.min()) == (64 + 6, 64 - 4)


def test_the_nearest_colour_is_read_off_the_corners(world):
    for colour, value in COLOURS.items():
        image = Image.new("RGB", (64, 64), value)
        image.paste((0, 0, 0), (16, 16, 48, 48))
        assert nearest(image) == colour


def test_a_pair_counts_only_when_both_halves_are_named_right(world):
    class Blind:
        """Knows a crop by its centre: the thing of that colour, whatever is asked."""

        def text_features(self, texts):
            return torch.eye(len(THINGS)).repeat_interleave(len(texts) // len(THINGS), 0)

        def image_features(self, images):
            centre = torch.tensor([i.getpixel((32, 32)) for i in images]).float()
            known = torch.tensor(np.stack([world.drawings.sprites[""]["twemoji", n][20, 20, :3] for n in THINGS])).float()
            return -torch.cdist(centre, known)

    rng = np.random.default_rng(5)
    scenes = [s for s in (world.sample(rng) for _ in range(60)) if len(set(s.things)) == 2 and s.things[0][0] == "twemoji"]
    images = [Image.fromarray(world.render(s)) for s in scenes]
    assert len(scenes) > 3 and pairs(Blind(), images, scenes) == 1.0
    mirrored = [i.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for i in images]
    assert pairs(Blind(), mirrored, scenes) == 0.0
