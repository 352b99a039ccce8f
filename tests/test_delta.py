import pytest
import torch

from cns.delta import SparseDelta, applied, trainable, written


@pytest.fixture
def weights():
    torch.manual_seed(1)
    return {"a": torch.nn.Parameter(torch.randn(4, 5)), "b": torch.nn.Parameter(torch.randn(3, 3).bfloat16())}


def delta_of(**entries):
    pairs = {n: (torch.tensor(i), torch.tensor(v)) for n, (i, v) in entries.items()}
    return SparseDelta({n: i for n, (i, _) in pairs.items()}, {n: v for n, (_, v) in pairs.items()})


def test_an_applied_delta_is_added_at_its_entries_and_nowhere_else(weights):
    before = weights["a"].detach().clone()
    with applied(weights, delta_of(a=([2, 7], [0.5, -1.0]))):
        changed = weights["a"].detach() - before
    assert changed.flatten().nonzero().flatten().tolist() == [2, 7]
    assert torch.allclose(changed.flatten()[[2, 7]], torch.tensor([0.5, -1.0]))
    assert torch.equal(weights["a"], before)


def test_the_originals_come_back_bit_for_bit_after_an_exception_in_any_precision(weights):
    before = {n: w.detach().clone() for n, w in weights.items()}
    with pytest.raises(RuntimeError), applied(weights, delta_of(a=([0, 19], [1e-9, 1e9]), b=([4], [0.123]))):
        raise RuntimeError
    assert all(torch.equal(weights[n], before[n]) for n in weights)


def test_nested_patches_unwind_in_order(weights):
    before = weights["a"].detach().clone()
    with applied(weights, delta_of(a=([1, 2], [1.0, 1.0]))):
        outer = weights["a"].detach().clone()
        with written(weights, {"a": torch.tensor([2, 3])}, {"a": torch.tensor([9.0, 9.0])}):
            assert weights["a"].flatten()[[2, 3]].tolist() == [9.0, 9.0]
        assert torch.equal(weights["a"], outer)
    assert torch.equal(weights["a"], before)


def test_an_unknown_weight_is_an_error_and_nothing_is_changed(weights):
    before = {n: w.detach().clone() for n, w in weights.items()}
    with pytest.raises(KeyError), applied(weights, delta_of(a=([0], [1.0]), zzz=([0], [1.0]))):
        pass
    assert all(torch.equal(weights[n], before[n]) for n in weights)


def test_at_reads_values_and_zeros(weights):
    delta = delta_of(a=([2, 7, 11], [0.5, -1.0, 3.0]))
    assert delta.at("a", torch.tensor([0, 2, 8, 11, 19])).tolist() == [0.0, 0.5, 0.0, 3.0, 0.0]
    assert delta.at("b", torch.tensor([1])).tolist() == [0.0]
    assert delta_of(b=([], [])).at("b", torch.tensor([1, 2])).tolist() == [0.0, 0.0]


def test_replaced_covers_the_union_and_newer_values_win():
    delta = delta_of(a=([2, 7], [0.5, -1.0])).replaced({"a": torch.tensor([1, 7])}, {"a": torch.tensor([4.0, 8.0])})
    assert delta.indices["a"].tolist() == [1, 2, 7]
    assert delta.values["a"].tolist() == [4.0, 0.5, 8.0]
    assert len(delta) == 3


def test_gradients_flow_within_and_nothing_of_them_stays_also_after_an_error(weights):
    for w in weights.values():
        w.requires_grad_(False)
    with pytest.raises(RuntimeError), trainable(weights.values()) as given:
        assert all(w.requires_grad for w in given) and len(given) == 2
        weights["a"].square().sum().backward()
        assert weights["a"].grad is not None
        raise RuntimeError
    assert not any(w.requires_grad or w.grad is not None for w in weights.values())
