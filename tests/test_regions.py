import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from conftest import assert_unchanged, picture, snapshot, taught

import cns
from cns import GenerateSettings, Region, explain, generate
from cns.attention import Heat, grid, mapped
from cns.images import to_pixels
from cns.regions import EDGE, LIMIT, MAX_BYTES, PRESETS, ROOM, Shares, bound, layered, load_layout, save_layout, set_into
from cns.text import encode

LEFT, RIGHT, ALL = (0, 0, 0.5, 1), (0.5, 0, 1, 1), (0, 0, 1, 1)


@pytest.fixture(scope="module")
def session(tiny_base):
    first = taught(tiny_base, cns.Concept("rex", "dog", [picture("red")]), response=0.0)  # nothing held still: a few steps show
    return taught(tiny_base, cns.Concept("tom", "cat face", [picture("gray")]), first, response=0.0)


def levels(a, b):
    """The largest difference of two pictures."""
    return np.abs(np.asarray(a, int) - np.asarray(b, int)).max()


@pytest.mark.parametrize(("height", "width", "queries", "wanted"), [(16, 16, 64, (8, 8)), (16, 24, 96, (8, 12)), (9, 13, 3 * 4, (3, 4)), (9, 13, 117, (9, 13))])
def test_a_layers_grid_follows_from_its_queries_also_when_not_square(height, width, queries, wanted):
    assert grid(queries, height, width) == wanted


def test_queries_that_fit_no_grid_are_an_error():
    with pytest.raises(ValueError, match="has 60 queries, which no halving of 16 x 16"):
        grid(60, 16, 16)


def test_shares_add_up_to_one_at_every_layer_and_have_soft_edges():
    shares = Shares((Region((0, 0, 0.5, 1), "a dog"), Region((0.3, 0.2, 0.9, 0.8), "a cat")), 32, 48)
    for queries in (32 * 48, 16 * 24, 8 * 12, 4 * 6):
        part = shares.at(queries)
        assert part.shape == (3, queries) and part.min() >= 0
        assert torch.allclose(part.sum(0), torch.ones(queries))
    row = shares.fine[1, 2]  # above the second region: the first's edge alone
    soft = ((row > 0) & (row < 1)).sum().item()
    assert row[0] == 1 and row[-1] == 0 and abs(soft - EDGE * 4 * 48) <= 1
    assert (row.diff() <= 0).all()


def test_a_later_region_lies_over_an_earlier_one():
    a, b = Region(ALL, "a dog"), Region((0.25, 0.25, 0.75, 0.75), "a cat")
    middle = 16 * 8 + 8
    assert Shares((a, b), 16, 16).at(256)[:, middle].tolist() == [0, 0, 1]
    assert Shares((b, a), 16, 16).at(256)[:, middle].tolist() == [0, 0, 1]
    assert Shares((a, b), 16, 16).at(256)[:, 0].tolist() == [0, 1, 0]


def test_a_region_over_the_whole_canvas_draws_its_words(tiny_base, session):
    bound_to_all = generate(tiny_base, "a house", session, GenerateSettings(seed=3, count=2, regions=(Region(ALL, "a <rex> dog"),)))
    plain = generate(tiny_base, "a <rex> dog", session, GenerateSettings(seed=3, count=2))
    assert all(levels(a, b) <= 1 for a, b in zip(bound_to_all, plain))
    assert levels(plain[0], generate(tiny_base, "a house", session, GenerateSettings(seed=3))[0]) > 1


def test_each_layer_gives_every_place_what_its_own_words_give_also_when_not_square(tiny_base):
    texts, _ = encode(tiny_base, ["", "a house", "a dog", "a cat face"])
    shares = Shares((Region(LEFT, "a dog"), Region(RIGHT, "a cat face")), 16, 24)
    layer = next(iter(tiny_base.layers.values()))
    x = torch.randn(4, 16 * 24, layer.to_q.in_features)
    read = torch.cat([texts[:1].expand(2, -1, -1), texts[1:2].expand(2, -1, -1)])
    with torch.no_grad():
        plain, left, right = layer(x, read), layer(x, texts[2:3].expand(4, -1, -1)), layer(x, texts[3:].expand(4, -1, -1))
        with bound(tiny_base.layers, texts[2:], shares, 2):
            out = layer(x, read)
    assert torch.equal(out[:2], plain[:2])
    got, left, right = (o[2:].unflatten(1, (16, 24)) for o in (out, left, right))
    assert torch.allclose(got[:, :, :10], left[:, :, :10], atol=1e-6)
    assert torch.allclose(got[:, :, 14:], right[:, :, 14:], atol=1e-6)
    assert not torch.allclose(got[:, :, 14:], left[:, :, 14:], atol=1e-6)


def test_a_whole_pass_of_the_unet_can_be_bound_and_mapped_on_a_canvas_that_is_not_square(tiny_base):
    texts, _ = encode(tiny_base, ["", "a house", "a dog"])
    shares = Shares((Region(LEFT, "a dog"),), 16, 24)
    with torch.no_grad(), bound(tiny_base.layers, texts[2:], shares, 1), mapped(tiny_base.layers, texts[1:], shares, 1) as maps:
        out = tiny_base.pipe.unet(torch.randn(2, 4, 16, 24), 500, texts[:2]).sample
    assert out.shape == (2, 4, 16, 24) and len(maps) == len(tiny_base.layers)
    total = maps[0][0].sum(1)  # over tokens: the share of each text, [2, h, w]
    assert torch.allclose(total.sum(0), torch.ones(16, 24), atol=1e-5)
    assert total[1, :, :8].min() > 0.99 and total[1, :, 16:].max() < 0.01


def test_processors_and_weights_come_back_after_drawing_and_after_an_error(tiny_base, session, monkeypatch):
    before, processors = snapshot(tiny_base), [m.processor for m in tiny_base.layers.values()]
    settings = GenerateSettings(regions=(Region(LEFT, "a <rex> dog"),), strengths={"rex": 0.5})
    generate(tiny_base, "a house", session, settings)
    explain(tiny_base, "a house", session, settings)

    def broken(*_, **__):
        raise RuntimeError("broken")

    monkeypatch.setattr(type(tiny_base.pipe), "__call__", broken)
    with pytest.raises(RuntimeError, match="broken"):
        generate(tiny_base, "a house", session, settings)
    assert [m.processor for m in tiny_base.layers.values()] == processors
    assert_unchanged(tiny_base, before)


def test_settings_with_regions_and_strengths_go_through_json():
    settings = GenerateSettings(seed=3, regions=(Region(LEFT, "a dog"),), strengths={"rex": 0.5}, image_strength=0.3)
    assert GenerateSettings(**json.loads(json.dumps(asdict(settings)))) == settings


def test_a_layout_goes_to_a_file_and_back(tmp_path):
    regions = tuple(Region(box, "a dog") for box in PRESETS["grid"])
    save_layout(regions, tmp_path / "l.json")
    assert load_layout(tmp_path / "l.json") == regions
    for text, said in (("{", "is not JSON"), ("{}", "not a list"), ("[7]", "a layout is a list of regions"), ('[{"box": [0, 0, 1, 1]}]', "a layout is")):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ValueError, match=said):
            load_layout(tmp_path / "bad.json")
    (tmp_path / "long.json").write_text("[" + " " * MAX_BYTES + "]")
    with pytest.raises(ValueError, match="`long.json` is no layout: it has 1.0 MB, a layout at most 1"):
        load_layout(tmp_path / "long.json")


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_lie_on_the_canvas(preset):
    assert all(Region(box, "a dog") for box in PRESETS[preset])


BAD = {
    "outside the canvas": lambda: Region((0, 0, 1.2, 1), "a dog"),
    "outside the canvas: choose fractions": lambda: Region((0, 0, float("nan"), 1), "a dog"),
    "is 0 wide and 1 high": lambda: Region((0.5, 0, 0.5, 1), "a dog"),
    "-0.4 wide": lambda: Region((0.5, 0, 0.1, 1), "a dog"),
    "has no words": lambda: Region(LEFT, "  "),
    "text of the region at `0,0,0.5,1` has 4,001 characters: shorten it to 4,000 or fewer": lambda: Region(LEFT, "a" * 4001),
    "is not four numbers": lambda: Region((0, 0, 1), "a dog"),
    "is not four numbers: give left": lambda: Region.parse("0,x,1,1: a dog"),
    "has no colon": lambda: Region.parse("0,0,1,1 a dog"),
    f"there are {LIMIT + 1} regions": lambda: GenerateSettings(regions=(Region(LEFT, "a dog"),) * (LIMIT + 1)),
    "`together` is 1.5: choose 0 to 1": lambda: GenerateSettings(together=1.5),
    "`image_strength` is 0": lambda: GenerateSettings(image_strength=0),
}


@pytest.mark.parametrize("said", BAD)
def test_bad_regions_are_told_what_is_wrong(said):
    with pytest.raises(ValueError, match=said):
        BAD[said]()


def test_a_token_that_was_never_taught_is_refused_in_a_region_too(tiny_base, session):
    with pytest.raises(ValueError, match="`<max>` was never taught"):
        generate(tiny_base, "a house", session, GenerateSettings(regions=(Region(LEFT, "a <max> dog"),)))
    with pytest.raises(ValueError, match="strength of `rex` is 2"):
        generate(tiny_base, "a house", session, GenerateSettings(strengths={"rex": 2}))


def test_strength_changes_the_picture_and_none_is_the_token_alone(tiny_base, session):
    drawn = [generate(tiny_base, "a <rex> dog", session, GenerateSettings(seed=3, strengths={"rex": s, "tom": s}))[0] for s in (0, 1, 1.5)]
    with cns.Session.new(tiny_base).on(tiny_base):
        alone = cns.generation.sample(tiny_base, "a <rex> dog", session.vectors, GenerateSettings(seed=3))[0]
    assert drawn[0].tobytes() == alone.tobytes()
    assert len({d.tobytes() for d in drawn}) == 3


def test_the_explained_picture_is_the_generated_one_and_every_word_has_its_heat(tiny_base, session):
    settings = GenerateSettings(seed=3, regions=(Region(RIGHT, "a <tom> cat face"),))
    drawn, heats = explain(tiny_base, "a red <rex> dog", session, settings)
    assert drawn.tobytes() == generate(tiny_base, "a red <rex> dog", session, settings)[0].tobytes()
    assert [h.word for h in heats] == ["a", "red", "<rex>", "dog", "a", "<tom>", "cat", "face"]
    for heat in heats:
        assert heat.map.shape == (16, 16) and heat.map.min() >= 0 and heat.map.max() <= 1
    assert heats[2].map[:, :6].mean() > 10 * heats[2].map[:, 10:].mean()
    assert heats[5].map[:, 10:].mean() > 10 * heats[5].map[:, :6].mean()


def test_where_a_word_acted_is_the_mean_over_layers_and_steps(tiny_base, monkeypatch):
    seen = [torch.rand(1, 1, 16, 4, 4) for _ in range(3)]  # [count, texts, tokens, h, w]
    monkeypatch.setattr("cns.generation.sample", lambda base, prompt, vectors, settings, image, maps: maps.extend(seen) or [picture()])
    heats = explain(tiny_base, "a dog")[1]
    assert [h.word for h in heats] == ["a", "dog"]
    assert all(np.allclose(heat.map, torch.cat(seen).mean(0)[0, token]) for token, heat in enumerate(heats, 1))


def test_the_overlay_is_brightest_where_the_word_acted_most():
    heat = np.zeros((8, 8), np.float32)
    heat[2, 6] = 0.3
    over = np.asarray(Heat("dog", heat).over(picture("gray", 64)), int).sum(-1)
    assert np.unravel_index(over.argmax(), over.shape) == pytest.approx((20, 52), abs=5)
    assert Heat("dog", np.zeros((8, 8))).over(picture()).size == (48, 48)


def test_a_picture_to_start_from_is_kept_the_more_the_lower_the_strength(tiny_base, session):
    start = cns.square(picture("red"), 32)
    again = tiny_base.pixels(tiny_base.latents(cns.images.to_pixels([start], 32)))[0].permute(1, 2, 0).numpy()

    def away(strength):
        drawn = generate(tiny_base, "a <rex> dog", session, GenerateSettings(seed=3, steps=20, image_strength=strength, count=2), start)
        return np.abs(np.asarray(drawn[1]) / 127.5 - 1 - again).mean()

    assert away(0.1) < away(0.5) < away(1)
    with pytest.raises(ValueError, match=r"`image_strength` 0.1 of 3 steps is none"):
        generate(tiny_base, "a dog", None, GenerateSettings(image_strength=0.1), start)


def test_a_picture_to_start_from_and_regions_work_together(tiny_base, session):
    settings = GenerateSettings(seed=3, regions=(Region(ALL, "a <rex> dog"),))
    both = generate(tiny_base, "a house", session, settings, picture())[0]
    assert levels(both, generate(tiny_base, "a <rex> dog", session, GenerateSettings(seed=3), picture())[0]) <= 1


def test_where_soft_edges_meet_nothing_shines_through():
    boxes = PRESETS["side by side"]
    share = Shares(tuple(Region(b, "a dog") for b in boxes), 16, 16).fine
    assert share[0].abs().max() < 1e-6 and torch.allclose(share.sum(0), torch.ones(64, 64)) and 0.2 < share[1, 8, 31] < 0.8
    a, b, c = torch.full((1, 1), 0.6), torch.full((1, 1), 0.2), torch.ones(1, 1)
    assert layered(torch.stack([a, c, b]))[:, 0, 0].tolist() == pytest.approx([0, 0, 0.8, 0.2])


def test_a_view_is_set_smaller_into_the_middle_of_its_box_and_its_ground_fills_the_box():
    view = torch.full((1, 1, 64, 64), 0.1)
    view[..., 24:40, 24:40] = 1  # a thing in the middle
    out, part = set_into(view, (0.5, 0, 1, 1))
    assert out.shape == view.shape and part.shape == (64, 64) and part[:, :28].max() == 0 and part[:, 36:].min() == 1
    thing = (out - 0.1)[0, 0] * part
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    assert (thing * y).sum() / thing.sum() == pytest.approx(31.5, abs=1) and (thing * x).sum() / thing.sum() == pytest.approx(47.5, abs=1)
    assert thing.sum() == pytest.approx(0.9 * (ROOM * 0.5 * 16) ** 2, rel=0.1) and torch.allclose(out[..., :8, :], torch.tensor(0.1))
    assert torch.equal(set_into(view, ALL)[0], view) and set_into(view, ALL)[1].min() == 1
    assert set_into(view, (0, 0, 0.05, 0.05))[1].sum() > 0


def test_drawn_apart_each_box_holds_its_words_drawn_alone(tiny_base, session):
    settings = GenerateSettings(seed=3, count=2, regions=(Region(LEFT, "a <rex> dog"), Region((0.6, 0.6, 1, 1), "a <tom> cat face")), together=0)
    got = to_pixels(generate(tiny_base, "a house", session, settings), 32)
    canvas, rex, tom = (to_pixels(generate(tiny_base, p, session, GenerateSettings(seed=3, count=2)), 32) for p in ("a house", "a <rex> dog, a house", "a <tom> cat face, a house"))
    (rex, at_rex), (tom, at_tom) = (set_into(v, r.box) for v, r in zip((rex, tom), settings.regions))
    for where, wanted in (((at_rex == 1) & (at_tom == 0), rex), (at_tom == 1, tom), ((at_rex == 0) & (at_tom == 0), canvas)):
        assert where.sum() > 10 and (got - wanted)[..., where].abs().max() < 0.01


def test_drawing_over_binds_all_from_what_was_set_in(tiny_base, session):
    settings = GenerateSettings(seed=3, regions=(Region(LEFT, "a <rex> dog"),), together=0.5, steps=4)
    apart = generate(tiny_base, "a house", session, GenerateSettings(**{**vars(settings), "together": 0}))[0]
    over = generate(tiny_base, "a house", session, GenerateSettings(**{**vars(settings), "image_strength": 0.5}), apart)[0]
    assert levels(generate(tiny_base, "a house", session, settings)[0], over) <= 1 < levels(over, apart)


@pytest.mark.parametrize("together", [0, 0.5])
def test_where_words_acted_follows_them_into_their_boxes(tiny_base, session, together):
    settings = GenerateSettings(seed=3, regions=(Region(RIGHT, "a <tom> cat face"),), together=together)
    drawn, heats = explain(tiny_base, "a house", session, settings)
    assert drawn.tobytes() == generate(tiny_base, "a house", session, settings)[0].tobytes()
    assert [h.word for h in heats] == ["a", "house", "a", "<tom>", "cat", "face"]
    assert heats[3].map.shape == (16, 16) and heats[3].map[:, 10:].mean() > 10 * heats[3].map[:, :6].mean()


def test_a_gesture_on_the_canvas_adds_changes_or_takes_away_a_box():
    from cns.ui.regions import drawn, placed

    rows = ["a dog", "0, 0, 0.5, 1", "a <b>", "0.5,0,1,1", "", "", None, None]

    def after(index, *box):
        return placed(json.dumps({"index": index, "box": box}), rows)

    dog, cat = ([0, 0, 0.5, 1], "a dog"), ([0.5, 0, 1, 1], "a <b>")
    assert after(-1, 0.1, 0.1, 0.9, 0.9) == [dog, cat, ([0.1, 0.1, 0.9, 0.9], "")]
    assert after(0, 0.1, 0, 0.6, 1) == [([0.1, 0, 0.6, 1], "a dog"), cat]
    assert after(0) == [cat] and after(7) == [dog, cat]
    with pytest.raises(ValueError, match=f"there are {LIMIT + 1} regions"):
        placed(json.dumps({"index": -1, "box": [0, 0, 1, 1]}), ["a dog", "0,0,1,1"] * LIMIT)
    with pytest.raises(ValueError, match="outside the canvas"):
        after(-1, 0, 0, 2, 1)
    assert drawn(after(0)).count("<rect") == 1 and "&lt;b&gt;" in drawn(after(0)) and "<rect" not in drawn([([], "words")])
