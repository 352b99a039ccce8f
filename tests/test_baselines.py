import pytest
import torch
from conftest import assert_unchanged, snapshot

from cns.baselines import METHODS, method

FEW = {"steps": 4, "batch_size": 2, "rate": 1e-2}


@pytest.mark.parametrize("name", METHODS)
def test_each_way_learns_two_concepts_and_leaves_the_base_as_it_was(tiny_base, concept, other_concept, name):
    before, way = snapshot(tiny_base), method(name, tiny_base, **FEW)
    for c in (concept, other_concept):
        if name != "joint":
            way.teach(c)
            assert_unchanged(tiny_base, before)
    if name == "joint":
        way.teach_all([concept, other_concept])
    assert set(way.vectors) == {"<rex>", "<tom>"} and way.bytes() > 0
    for names in (["rex"], ["tom"], ["rex", "tom"] if way.together else ["rex"]):
        with way.on(names):
            now = snapshot(tiny_base)
        changed = {n.removeprefix("unet.") for n in before if not torch.equal(before[n], now[n])}
        assert bool(changed) == (name not in ("base", "token_only"))
        assert name == "finetune_unet" or changed <= set(tiny_base.weights)
    assert_unchanged(tiny_base, before)


def test_a_sum_of_loras_is_the_sum_of_what_each_changed(tiny_base, concept, other_concept):
    way = method("lora_sum", tiny_base, **FEW)
    way.teach(concept)
    way.teach(other_concept)
    for n, w in tiny_base.weights.items():
        assert torch.allclose(way.now[n] - w, way.parts["rex"][n] + way.parts["tom"][n], atol=1e-6)
        assert way.parts["rex"][n].abs().sum() > 0


def test_the_closed_form_merge_answers_each_concepts_words_as_its_own_model_did(tiny_base, concept, other_concept):
    from cns.text import encode

    way = method("custom_diffusion", tiny_base, **FEW, token_rate=5e-2)
    way.teach(concept)
    way.teach(other_concept)
    for c in (concept, other_concept):
        x, words = encode(tiny_base, [f"a {c.words}"], way.vectors)
        for n, w in tiny_base.weights.items():
            wanted, got, plain = (x[words] @ m.T for m in (way.parts[c.name][n], way.now[n], w))
            assert (wanted - got).norm() < 0.7 * (wanted - plain).norm()


@pytest.mark.parametrize("name", ["ewc", "c_lora"])
def test_a_strong_tie_to_earlier_concepts_holds_the_weights(tiny_base, concept, other_concept, name):
    moved = []
    for strength in (0.0, 1e5):
        way = method(name, tiny_base, **FEW | {"steps": 12, "lambda_previous": strength})
        way.teach(concept)
        before = {n: w.clone() for n, w in way.now.items()}
        way.teach(other_concept)
        moved.append(sum((w - before[n]).square().sum() for n, w in way.now.items()))
    assert moved[1] < 0.5 * moved[0]


def test_an_unknown_way_is_named(tiny_base):
    with pytest.raises(ValueError, match="method `magic` is unknown: choose of cns"):
        method("magic", tiny_base)
