from dataclasses import replace

import pytest
import torch
from conftest import assert_unchanged, snapshot

from cns.parts import whole
from cns.selection import (
    Selection,
    attention_to_words,
    concept_rms,
    feature_rms,
    general_mask,
    importance,
    select_base,
    select_general,
    select_sensitive,
    top,
)  # fmt: skip
from cns.text import read


def test_feature_rms_equals_the_equation_by_hand():
    x = torch.tensor([[[1.0, 2.0], [3.0, 0.0]], [[2.0, 2.0], [0.0, 4.0]]])  # 2 prompts, 2 tokens, 2 features
    a = torch.tensor([[1.0, 0.5], [0.25, 0.0]])
    first, second = (1 * 1 + 0.5 * 9 + 0.25 * 4 + 0) / 2, (1 * 4 + 0 + 0.25 * 4 + 0) / 2
    assert torch.allclose(feature_rms(x, a), torch.tensor([first, second]).sqrt())


def test_importance_is_weight_times_feature():
    assert torch.equal(importance(torch.tensor([[-2.0, 1.0], [0.5, 3.0]]), torch.tensor([1.0, 4.0])), torch.tensor([[2.0, 4.0], [0.5, 12.0]]))


@pytest.mark.parametrize(("share", "expected"), [(0.25, [0, 0, 0, 1]), (0.5, [0, 1, 0, 1]), (1.0, [1, 1, 1, 1]), (0.01, [0, 0, 0, 1])])
def test_top_keeps_the_share_at_or_above_the_threshold(share, expected):
    assert top(torch.tensor([[1.0, 3.0], [2.0, 4.0]]), share).flatten().int().tolist() == expected


def test_general_neurons_are_strong_for_a_share_of_the_prompts():
    weight = torch.tensor([[1.0, 1.0, 1.0, 1.0]])
    rs = torch.tensor([[4.0, 3.0, 1.0, 2.0], [4.0, 1.0, 3.0, 2.0], [4.0, 3.0, 2.0, 1.0]])
    assert general_mask(weight, rs, 0.5, 1.0).int().tolist() == [[1, 0, 0, 0]]
    assert general_mask(weight, rs, 0.5, 0.6).int().tolist() == [[1, 1, 0, 0]]


def test_concept_neurons_are_base_and_not_general():
    base, general = torch.tensor([[True, True, False, False]]), torch.tensor([[True, False, True, False]])
    assert Selection({"w": base}, {"w": general}).concept["w"].int().tolist() == [[0, 1, 0, 0]]


def test_attention_sums_to_one_over_all_tokens_and_the_pass_is_undisturbed(tiny_base):
    before = snapshot(tiny_base)
    text = read(tiny_base, ["a dog", "a small cat"])
    z, t = torch.randn(2, 4, 16, 16), torch.tensor([500, 500])
    everything = attention_to_words(tiny_base, z, t, replace(text, words=torch.ones_like(text.words)))
    assert everything.keys() == tiny_base.layers.keys()
    for a in everything.values():
        assert torch.allclose(a.sum(1), torch.ones(2), atol=1e-5)
    assert all(type(m.processor).__name__ == "AttnProcessor2_0" for m in tiny_base.layers.values())
    assert_unchanged(tiny_base, before)


def test_selection_gives_the_asked_share_of_every_matrix_and_is_repeatable(tiny_base):
    z = torch.randn(2, 4, 16, 16)
    prompts = ["a dog", "a photo of a dog"]
    first, again = (select_base(tiny_base, whole(concept_rms(tiny_base, z, prompts, {}, torch.Generator().manual_seed(3))), 0.1) for _ in range(2))
    for name, mask in first.items():
        assert mask.shape == tiny_base.weights[name].shape
        assert mask.float().mean().item() == pytest.approx(0.1, abs=0.01)
        assert torch.equal(mask, again[name])


def test_the_score_sees_the_images(tiny_base):
    z = torch.randn(2, 4, 16, 16)
    rs = [whole(concept_rms(tiny_base, scale * z, ["a dog next to a house"] * 2, {}, torch.Generator().manual_seed(0))) for scale in (1, -3)]
    assert any(not torch.allclose(rs[0][n], rs[1][n], rtol=1e-4) for n in rs[0])


def test_general_mask_of_a_base_shrinks_as_gamma_grows(tiny_base):
    loose, strict = (whole(select_general(tiny_base, 0.2, gamma)) for gamma in (0.2, 1.0))
    for name in loose:
        assert strict[name].sum() <= loose[name].sum()
        assert not (strict[name] & ~loose[name]).any()


def test_sensitive_neurons_are_the_top_share_of_all_matrices_together():
    masks = select_sensitive({"a": torch.tensor([[0.1, 0.2], [0.3, 0.4]]), "b": torch.tensor([[5.0, 0.05], [0.35, 0.0]])}, 0.375)
    assert masks["a"].int().tolist() == [[0, 0], [0, 1]] and masks["b"].int().tolist() == [[1, 0], [1, 0]]
