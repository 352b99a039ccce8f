import json
from dataclasses import replace

import pytest
import torch
from conftest import seeing

import cns
from cns.bench import ablations
from cns.bench.ablations import VARIANTS, Run, calibrated, only, random_anywhere, random_within, run_all, whole_rows
from cns.bench.scoring import Plan

MASKS = {"a.to_k.weight": torch.rand(8, 16) < 0.3, "a.to_v.weight": torch.rand(4, 16) < 0.6}


def counts(masks):
    return [int(m.sum()) for m in masks.values()]


def test_random_neurons_are_as_many_in_all_or_in_each_matrix():
    anywhere, within = random_anywhere(MASKS), random_within(MASKS)
    assert sum(counts(anywhere)) == sum(counts(MASKS)) and counts(within) == counts(MASKS)
    assert any(not torch.equal(within[n], m) for n, m in MASKS.items()) and [m.shape for m in anywhere.values()] == [m.shape for m in MASKS.values()]


def test_whole_rows_are_those_with_most_chosen_entries():
    mask = torch.zeros(4, 8, dtype=torch.bool)
    mask[1, :6], mask[3, :5], mask[0, :4], mask[2, :1] = True, True, True, True
    (rows,) = whole_rows({"w": mask}).values()
    assert rows.all(1).tolist() == [False, True, False, True] and int(rows.sum()) == 16


@pytest.mark.parametrize("names", [("to_k", "to_v"), ("add_k_proj", "add_v_proj")])
def test_only_values_leaves_the_keys_alone_whatever_a_family_calls_them(names):
    masks = {f"a.{n}.weight": m for n, m in zip(names, MASKS.values())}
    keys, values = counts(masks)
    assert counts(only("values")(masks)) == [0, values] and counts(only("keys")(masks)) == [keys, 0]


def test_another_calibration_set_leaves_the_base_as_it_is(starter):
    other = calibrated(starter, 128)
    assert len(other.card.calibration) == 128 == len(set(other.card.calibration)) and len(starter.card.calibration) == 64
    assert other.general is not starter.general and other.weights is starter.weights
    with pytest.raises(ValueError, match="not 1000000"):
        calibrated(starter, 1_000_000)


@pytest.mark.parametrize(("field", "value"), [("concepts", 1), ("variants", ("magic",))])
def test_a_run_that_cannot_be_is_refused(field, value):
    with pytest.raises(ValueError, match=r"`concepts` is 1|variant `magic`"):
        Run(**{field: value})


def test_every_variant_has_settings_that_can_be():
    for variant in VARIANTS.values():
        cns.TeachSettings(**variant.changes)


def test_variants_run_once_and_one_that_is_finished_does_not_again(tiny_base, starter, tmp_path, monkeypatch):
    base = seeing(tiny_base, starter)
    variants = ("as shipped", "no general subtraction", "random entries of all matrices", "values only", "the paper's method", "8 calibration prompts")
    monkeypatch.setitem(VARIANTS, "8 calibration prompts", ablations.Variant(calibration=len(base.card.calibration) - 1))
    run = Run(variants=variants, concepts=2, steps=1, plan=Plan(1, 1, 1, 1, 0, 1))
    result = run_all(base, run, tmp_path, "test")
    assert list(result["summary"]) == list(variants) and json.loads((tmp_path / "ablations.json").read_text())["summary"] == result["summary"]
    share = {v: s["changed_fraction"] for v, s in result["summary"].items()}
    assert share["values only"] < share["as shipped"] == share["random entries of all matrices"] <= share["no general subtraction"]
    assert (tmp_path / "ablations.md").read_text().count("\n| ") == len(variants) + 1

    def never(*_):
        raise AssertionError("a finished variant was run again")

    monkeypatch.setattr(ablations, "unit", never)
    assert run_all(base, run, tmp_path, "test")["summary"] == result["summary"]
    with pytest.raises(AssertionError, match="again"):
        run_all(base, replace(run, steps=2), tmp_path, "test")
