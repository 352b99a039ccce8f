"""The bases of true size have the published sizes, and the ratios are printed for any base."""

import re

import pytest
import torch

from cns import devices
from cns.__main__ import main
from cns.base import Base
from cns.bench.ratios import many, ratios
from cns.bench.sizes import RANDOM, random_base
from cns.families import FAMILIES

PUBLISHED = {  # weights of each part, and of the keys and values
    "sd15-random": ({"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}, 19_169_280),
    "sdxl-random": ({"unet": 2_567_463_684, "vae": 83_653_863, "text_encoder": 123_060_480, "text_encoder_2": 694_659_840}, 340_787_200),
}


@pytest.mark.parametrize("name", RANDOM)
def test_the_shapes_are_the_published_ones(name):
    with torch.device("meta"):
        parts = RANDOM[name][0]()
    sizes, kv = PUBLISHED[name]
    assert {n: sum(p.numel() for p in m.parameters()) for n, m in parts.items()} == sizes
    family = next(f for f in FAMILIES if f.pipeline == RANDOM[name][1].__name__)
    assert sum(getattr(m, p).weight.numel() for m in family.layers(parts["unet"]).values() for p in family.projections) == kv


def test_a_size_that_does_not_fit_is_refused_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(devices, "free", lambda device: 2**30)
    assert main(["bench", "speed", "--base", "sdxl-random"]) == 2
    err = capsys.readouterr().err
    assert "base `sdxl-random` takes 12.9 GiB as float32" in err and err.count("\n") == 1
    with pytest.raises(ValueError, match="sd15-random"):
        random_base("sd15-random", "cpu")


def test_ratios_are_printed_side_by_side(tiny_base, capsys):
    ratios(Base(tiny_base.pipe, tiny_base.card), 1)
    out = capsys.readouterr().out
    for line in ("teach step, CNS", r"teach step, all of K/V .*x CNS\)", r"LoRA on K/V .*CNS [\d.]+x\)", r"with one +\([\d.]+x\)", "50 concepts known", "remove a session of 10"):
        assert re.search(line, out), line
    assert all(float(v.replace(",", "")) >= 0 for v in re.findall(r"([\d,.]+) (?:ms|MiB)\n", out))


def test_many_concepts_are_a_session_that_can_be_put_on_and_taken_off(tiny_base, concept):
    from conftest import assert_unchanged, snapshot, taught

    one, before = taught(tiny_base, concept), snapshot(tiny_base)
    session = many(tiny_base, one, 10)
    assert len(session.concepts) == 10 and len(session.delta) > 3 * len(one.delta)
    with session.on(tiny_base):
        pass
    assert_unchanged(tiny_base, before)
