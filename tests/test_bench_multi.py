import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import seeing
from PIL import Image
from tqdm import tqdm

from cns.bench.multi import BOXES, PLACELESS, QUICK, Finder, Run, collage, crop, groups, run_all, scores, summary, things


def test_a_crop_is_the_square_in_the_middle_of_its_box():
    picture = Image.fromarray(np.arange(64, dtype=np.uint8)[:, None].repeat(64, 1))  # each row its own gray
    left = np.asarray(crop(picture, (0, 0, 0.5, 1)))
    assert left.shape == (64, 64) and left[0, 0] == 16 and left[-1, 0] == 47
    assert np.array_equal(np.asarray(crop(picture, (0, 0, 1, 1))), np.asarray(picture))


def test_pairs_and_triples_are_of_things_that_a_box_can_hold():
    found = groups(things(4), replace(Run(), pairs=6, triples=2))
    assert sorted(map(len, found)) == [2] * 6 + [3] * 2 and len({tuple(c.name for c in g) for g in found}) == 8
    assert not {c.name for c in things(18)} & set(PLACELESS)


def test_own_pictures_in_the_boxes_score_higher_than_in_each_others(starter):
    finder, pair = Finder(starter, 4), things(2)
    eye = list(finder.eyes.encoders)[-1]
    right, wrong = (finder.look(collage(starter, g, BOXES[2], 1), pair, BOXES[2])[eye] for g in (pair, pair[::-1]))
    assert np.mean(right["own"]) > np.mean(right["other"]) and np.mean(wrong["own"]) < np.mean(wrong["other"])


def test_the_bar_lies_halfway_between_two_pictures_of_one_thing_and_pictures_of_two(starter):
    finder = Finder(starter, 3)
    finder.eyes.references["clip"] = {"a": torch.eye(2)[[0, 0]], "b": torch.eye(2)}  # cosines within: 1 and 0; between: 0.5
    assert finder._bar("clip") == pytest.approx((0.5 + 0.5) / 2)
    finder.eyes.references["clip"] = {"a": torch.eye(2)[[0, 0]], "b": torch.eye(2)[[1, 1]]}  # within: 1 and 1; between: 0
    assert finder._bar("clip") == pytest.approx(0.5)


def test_scores_count_what_is_there_in_its_place_and_mixed_up():
    def row(found, shows, own, other):
        return {"things": ["a", "b"], "regions": True, "eyes": {"clip": {"found": found, "shows": shows, "own": own, "other": other}}}

    got = scores([row(["a", "b"], ["a", "b"], [0.8, 0.6], [0.1, 0.2]), row(["a"], ["a", "a"], [0.8, 0.2], [0.1, 0.7])], "clip")
    assert got == pytest.approx({"both": 0.5, "placed": 0.75, "clip_i": 0.6, "confused": 0.25})


@pytest.mark.parametrize(("field", "value"), [("concepts", 2), ("pairs", 0), ("seeds", 17), ("methods", ("magic",)), ("methods", ("lora_solo",))])
def test_a_run_that_cannot_be_is_refused(field, value):
    with pytest.raises(ValueError, match=r"`(concepts|pairs|seeds)` is|does not put things into one model"):
        Run(**{field: value})


def test_a_run_goes_on_where_it_stopped_and_writes_all_it_found(tiny_base, starter, tmp_path, monkeypatch):
    bars, base = [], seeing(tiny_base, starter)

    class Bar(tqdm):
        def __exit__(self, *error):
            bars.append((self.n, self.total))
            super().__exit__(*error)

    monkeypatch.setattr("cns.bench.multi.tqdm", Bar)
    run = replace(QUICK, methods=("cns",), steps=1, draw_steps=1)
    result = run_all(base, run, tmp_path, "test")
    assert list(result["summary"]) == ["real", "cns"] and set(result["summary"]["cns"]) == {f"{n}, {w}" for n in ("pairs", "triples") for w in ("prompt", "regions")}
    assert {f.name for f in tmp_path.iterdir()} == {"runs", "multi.json", "multi.md"}
    assert json.loads((tmp_path / "multi.json").read_text())["summary"] == result["summary"]
    kept = json.loads((tmp_path / "runs/multi-cns.json").read_text())["rows"]
    assert len(kept) == 4 and summary({"cns": kept})["cns"] == result["summary"]["cns"]

    def never(*_):
        raise AssertionError("a finished unit was run again")

    monkeypatch.setattr("cns.bench.multi.unit", never)
    assert run_all(base, run, tmp_path, "test")["summary"] == result["summary"]
    assert bars == [(14, 14)] * 2  # three things, a pair and a triple, each without regions and with; twice
    with pytest.raises(AssertionError, match="again"):
        run_all(base, replace(run, steps=2), tmp_path, "test")
