from dataclasses import replace

import pytest
import torch
from conftest import assert_unchanged, snapshot

from cns.parts import whole
from cns.selection import (
    Selection,
    attention_to_words,
    calibration_rms,
    concept_rms,
    feature_rms,
    general_mask,
    importance,
    layer_of,
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
    for _, a in everything.values():
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


def test_a_concepts_rms_is_that_of_its_attention_averaged_over_three_levels_of_noise(tiny_base):
    z, prompts = torch.randn(3, 4, 16, 16), ["a dog", "a photo of a dog", "a cat", "a small dog on a red background"]
    got = whole(concept_rms(tiny_base, z, prompts, {}, torch.Generator().manual_seed(5)))
    text, luck, mean = read(tiny_base, prompts), torch.Generator().manual_seed(5), dict.fromkeys(tiny_base.layers, 0.0)
    for level in (166, 500, 833):  # the middles of three thirds of a thousand
        t, noise = torch.full((4,), level), torch.randn(4, 4, 16, 16, generator=luck)
        seen = attention_to_words(tiny_base, tiny_base.schedule.add_noise(z[[0, 1, 2, 0]], noise, t), t, text)
        assert all(torch.equal(x, text.features.float()) for x, _ in seen.values())
        mean = {n: mean[n] + a / 3 for n, (_, a) in seen.items()}
    assert got.keys() == tiny_base.layers.keys()
    for name, a in mean.items():
        assert not a[~text.words].any() and a[text.words].min() > 0
        assert torch.allclose(got[name], feature_rms(text.features, a), atol=1e-6)


def test_each_calibration_prompt_has_its_rms_from_pure_noise_that_those_read_together_share(tiny_base):
    got, prompts, luck = whole(calibration_rms(tiny_base, torch.Generator().manual_seed(5))), list(tiny_base.card.calibration), torch.Generator().manual_seed(5)
    for some in (slice(0, 4), slice(4, 6)):
        text, noise = read(tiny_base, prompts[some]), torch.randn((1, 4, 16, 16), generator=luck)
        t = torch.full((len(prompts[some]),), 999)
        seen = attention_to_words(tiny_base, noise.expand(len(t), -1, -1, -1), t, text)
        for name, (_, a) in seen.items():
            wanted = torch.stack([feature_rms(x[None], b[None]) for x, b in zip(text.features, a)])
            assert got[name].shape == (6, 16) and torch.allclose(got[name][some], wanted, atol=1e-6)


def test_a_bases_general_neurons_come_from_its_calibration_prompts_and_are_found_once(tiny_base):
    rs, found = whole(calibration_rms(tiny_base, torch.Generator().manual_seed(0))), whole(select_general(tiny_base, 0.3, 0.6))
    for name, mask in found.items():
        assert torch.equal(mask, general_mask(tiny_base.weights[name], rs[layer_of(name)], 0.3, 0.6)) and mask.any() and not mask.all()
    assert whole(select_general(tiny_base, 0.3, 0.6)) is found is not whole(select_general(tiny_base, 0.3, 0.7))


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
