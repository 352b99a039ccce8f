import json
from dataclasses import replace

import pytest
from conftest import seeing

import cns
from cns.baselines import METHODS, method
from cns.bench import report
from cns.bench.continual import QUICK, STREAM, Run, run_all, stream, unit
from cns.bench.scoring import Plan


def test_the_stream_has_two_of_one_class_a_style_and_a_scene_among_the_first_five():
    words = [c.class_word for c in stream(5, 0)]
    assert sorted(words).count("dog face") == 2 and "style" in words and "sunrise" in words
    assert sorted(c.name for c in stream(20, 1)) == sorted(STREAM) and [c.name for c in stream(20, 1)] != list(STREAM)


def test_forgetting_is_the_best_ever_less_the_last():
    def cell(i):
        return {"clip": {"i": i, "t": 0.2, "other": 0.1}}

    raw = {"matrix": [{"a": cell(0.8)}, {"a": cell(0.5), "b": cell(0.7)}, {"a": cell(0.6), "b": cell(0.7), "c": cell(0.9)}], "end": {"clip": {}}}
    raw |= {"changed_fraction": 0.1, "peak_mib": 1.0, "bytes": [1, 2, 3], "teach_s": [1.0], "fusion_s": [0.0]}
    got = report.scores(raw)
    assert got["forgetting"] == pytest.approx((0.2 + 0 + 0) / 3) and got["clip_i"] == pytest.approx(2.2 / 3) and got["clip_t_scaled"] == pytest.approx(0.5)


@pytest.mark.parametrize(("field", "value"), [("concepts", 1), ("concepts", 21), ("seeds", 0), ("methods", ("magic",))])
def test_a_run_that_cannot_be_is_refused(field, value):
    with pytest.raises(ValueError, match=r"`seeds` is|`concepts` is|method `magic`"):
        Run(**{field: value})


def test_naive_fine_tuning_forgets_and_cns_does_not(starter, monkeypatch):
    monkeypatch.setattr(starter, "steps", 2)  # of the pictures that a teaching shows; those that are scored are drawn by the plan
    plan = replace(QUICK.plan, drift=4, pairs=1, triples=1)
    lost = {}
    for name in ("cns", "finetune_kv"):
        raw, _ = unit(starter, method(name, starter, steps=30), stream(QUICK.concepts, 0), plan)
        lost[name] = report.scores(raw)
    print({n: {k: round(v, 4) for k, v in s.items()} for n, s in lost.items()})
    assert lost["cns"]["forgetting"] < 0.5 * lost["finetune_kv"]["forgetting"]
    assert lost["cns"]["drift"] < lost["finetune_kv"]["drift"]
    assert lost["cns"]["changed_fraction"] < 0.0041


def test_a_run_goes_on_where_it_stopped_and_writes_all_it_found(tiny_base, starter, tmp_path, monkeypatch):
    base = seeing(tiny_base, starter)
    run = Run(methods=("base", "cns", "lora_solo"), concepts=2, seeds=1, orders=1, steps=1, plan=Plan(1, 1, 2, 1, 0, 2))
    monkeypatch.setattr("cns.bench.scoring.Plan.triples", 0)
    result = run_all(base, run, tmp_path, "test")
    assert set(result["summary"]) == {*run.methods, "own_pictures"} and result["summary"]["cns"]["clip_i"]["spread"] is None
    assert {f.name for f in tmp_path.iterdir()} == {"runs", "continual.json", "continual.md", "continual.png", "strip.png"}
    assert 0.95 > result["summary"]["own_pictures"]["clip_i"]["mean"] > result["summary"]["base"]["clip_i"]["mean"]
    assert json.loads((tmp_path / "continual.json").read_text())["summary"] == result["summary"]

    def never(*_):
        raise AssertionError("a finished unit was run again")

    monkeypatch.setattr("cns.bench.continual.unit", never)
    assert run_all(base, run, tmp_path, "test")["summary"] == result["summary"]
    with pytest.raises(AssertionError, match="again"):
        run_all(base, replace(run, steps=2), tmp_path, "test")


def test_every_method_has_settings():
    from cns.baselines import TUNED

    assert TUNED.keys() == METHODS.keys() and cns.TeachSettings(**TUNED["cns_paper"]).response == 0


def test_a_setting_of_cns_alone_is_no_reason_to_run_the_others_again(tiny_base):
    def read(name, **changes):
        return method(name, tiny_base, **changes).settings_read()

    for name in METHODS:
        assert (read(name) == read(name, room=7, base_share=0.3)) == (name not in ("cns", "cns_paper", "solo"))
        assert read(name) != read(name, token_rate=0.2)
