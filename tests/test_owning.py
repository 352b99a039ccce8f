import pytest
import torch
from conftest import QUICK, assert_unchanged, picture, snapshot, taught, tiny_pipeline

import cns
from cns import owning
from cns.base import Base, Card

COLOURS = {"rex": ("dog", "red"), "tom": ("cat face", "gray"), "hut": ("house", "teal")}


def one(name):
    return cns.Concept(name, COLOURS[name][0], [picture(COLOURS[name][1])])


@pytest.fixture(scope="module")
def steps(tiny_base):
    """The session after each of three concepts."""
    out = []
    for name in COLOURS:
        out.append(taught(tiny_base, one(name), out[-1] if out else None))
    return out


def assert_same_weights(a, b):
    for x, y in ((a.delta.indices, b.delta.indices), (a.delta.values, b.delta.values)):
        assert x.keys() == y.keys() and all(torch.equal(x[n], y[n]) for n in x)


def users(session, n, index):
    """How many concepts use each entry."""
    return sum(torch.isin(index, c.mask[n]).int() for c in session.concepts)


def test_the_delta_is_the_sum_of_what_each_concept_added(steps):
    session = steps[-1]
    for n, index in session.delta.indices.items():
        total = torch.zeros(len(index), dtype=torch.float64)
        for c in session.concepts:
            total[torch.isin(index, c.mask[n])] += session.increments(c.name)[n].double()
        assert torch.equal(session.delta.values[n], total.float())


def test_only_what_is_shared_is_kept_twice(steps):
    session = steps[-1]
    for c in session.concepts:
        for n, own in c.shared.items():
            assert len(own) == int((users(session, n, c.mask[n]) > 1).sum()) > 0


def test_forgetting_the_last_concept_gives_the_session_before_bit_for_bit(steps):
    for before, after, name in zip(steps, steps[1:], ("tom", "hut")):
        back = owning.forget(after, name)
        assert back.tokens == before.tokens
        assert_same_weights(back, before)
        assert all(torch.equal(own, b.shared[n]) for a, b in zip(back.concepts, before.concepts) for n, own in a.shared.items())


def test_forgetting_an_earlier_concept_hands_shared_entries_to_those_that_stay(steps, tiny_base):
    session = steps[-1]
    less = owning.forget(session, "<rex>")
    assert less.tokens == ("<tom>", "<hut>")
    rex, tom, hut = (c.mask for c in session.concepts)
    before = snapshot(tiny_base)
    with less.on(tiny_base):
        now = {n: w.detach().clone() for n, w in tiny_base.weights.items()}
    handed_back = 0
    for n, w in now.items():
        alone = rex[n][users(session, n, rex[n]) == 1]
        assert torch.equal(w.flatten()[alone], before[f"unet.{n}"].flatten()[alone])
        kept = torch.cat([tom[n], hut[n]]).unique()
        assert torch.equal(less.delta.indices[n], kept)
        with_tom = rex[n][torch.isin(rex[n], tom[n]) & ~torch.isin(rex[n], hut[n])]
        handed_back += len(with_tom)
        assert torch.equal(less.delta.at(n, with_tom), session.increments("tom")[n][torch.isin(tom[n], with_tom)])
    assert handed_back > 0
    assert_unchanged(tiny_base, before)


def test_forgetting_the_only_concept_leaves_an_empty_delta_and_the_base_bit_for_bit(steps, tiny_base):
    empty = owning.forget(steps[0], "rex")
    assert len(empty.delta) == 0 and empty.tokens == ()
    before = snapshot(tiny_base)
    with empty.on(tiny_base):
        assert_unchanged(tiny_base, before)


def test_forgetting_all_in_any_order_ends_empty_and_a_forgotten_concept_can_be_taught_again(steps, tiny_base):
    session = owning.forget(owning.forget(steps[-1], "tom"), "rex")
    hut = session.increments("hut")
    assert all(torch.equal(hut[n], v) for n, v in steps[-1].increments("hut").items())
    again = taught(tiny_base, one("rex"), session)
    assert again.tokens == ("<hut>", "<rex>")
    assert len(owning.forget(owning.forget(again, "hut"), "rex").delta) == 0


def test_more_pictures_change_the_increments_of_that_concept_alone(steps, tiny_base):
    *_, last = cns.teach(tiny_base, steps[-1], one("rex"), cns.TeachSettings(**QUICK), more=True)
    for name in ("tom", "hut"):
        assert all(torch.equal(v, last.session.increments(name)[n]) for n, v in steps[-1].increments(name).items())
    assert any(not torch.equal(v, last.session.increments("rex")[n]) for n, v in steps[-1].increments("rex").items())
    assert_same_weights(owning.forget(last.session, "rex"), owning.forget(steps[-1], "rex"))


def test_a_session_that_was_changed_goes_to_disk_and_back(steps, tiny_base, tmp_path):
    session = owning.rename(owning.forget(steps[-1], "tom"), "rex", "max")
    session.save(tmp_path)
    loaded = cns.Session.load(tmp_path, tiny_base)
    assert loaded.tokens == ("<max>", "<hut>")
    assert_same_weights(loaded, session)
    assert_same_weights(owning.forget(loaded, "hut"), owning.forget(session, "hut"))


def test_a_renamed_concept_draws_the_same_picture_under_its_new_name(steps, tiny_base):
    session = owning.rename(steps[-1], "rex", " Max ")
    assert session.tokens == ("<max>", "<tom>", "<hut>")
    settings = cns.GenerateSettings(seed=3)
    old, new = cns.generate(tiny_base, "a <rex> dog", steps[-1], settings)[0], cns.generate(tiny_base, "a <max> dog", session, settings)[0]
    assert old.tobytes() == new.tobytes()
    assert [m.name for m in cns.remember(tiny_base, session)] == ["max", "tom", "hut"]


@pytest.mark.parametrize(("to", "said"), [("tom", "`<tom>` was already taught"), ("rex", "already taught"), ("", "name is empty"), ("a b", "cannot have")])
def test_a_bad_new_name_is_refused(steps, to, said):
    with pytest.raises(ValueError, match=said):
        owning.rename(steps[-1], "rex", to)


def test_reordering_leaves_the_weights_bit_for_bit(steps):
    session = owning.reorder(steps[-1], ["hut", "rex", "tom"])
    assert session.tokens == ("<hut>", "<rex>", "<tom>")
    assert_same_weights(session, steps[-1])
    for bad in (["hut", "rex"], ["hut", "rex", "rex"], ["hut", "rex", "max"]):
        with pytest.raises(ValueError, match="does not name every concept once"):
            owning.reorder(steps[-1], bad)


def test_merging_two_sessions_keeps_what_each_concept_added(steps, tiny_base):
    other = taught(tiny_base, cns.Concept("max", "tree", [picture("green")]))
    both = owning.merge(steps[1], other)
    assert both.tokens == ("<rex>", "<tom>", "<max>")
    assert_same_weights(owning.forget(both, "max"), steps[1])
    assert_same_weights(owning.forget(owning.forget(both, "rex"), "tom"), other)
    changes = owning.compared(tiny_base, steps[1], both) + owning.compared(tiny_base, other, both)
    assert [c.name for c in changes] == ["rex", "tom", "max"]
    assert changes[0].before.tobytes() == cns.remember(tiny_base, steps[1])[0].now.tobytes()


def test_sessions_that_cannot_be_merged_are_told_why(steps):
    with pytest.raises(ValueError, match="both sessions have a `<rex>`: rename it"):
        owning.merge(steps[0], steps[1])
    with pytest.raises(ValueError, match="only sessions of one base"):
        owning.merge(steps[0], cns.Session("tiny", "another"))


def test_strength_scales_a_concepts_own_increments(steps, tiny_base):
    session = steps[-1]
    half = session.scaled({"tom": 0.5, "hut": 1.5})
    for name, times in (("rex", 1), ("tom", 0.5), ("hut", 1.5)):
        assert all(torch.equal(times * v, half.increments(name)[n]) for n, v in session.increments(name).items())
    assert session.scaled({"rex": 1}) is session
    silent = session.scaled({"hut": 0})
    with silent.on(tiny_base):
        without = {n: w.detach().clone() for n, w in tiny_base.weights.items()}
    with owning.forget(session, "hut").on(tiny_base):
        assert all(torch.equal(without[n], w) for n, w in tiny_base.weights.items())


@pytest.mark.parametrize(("strengths", "said"), [({"rex": 1.6}, "strength of `rex` is 1.6: choose 0 to 1.5"), ({"rex": -1}, "choose"), ({"rex": float("nan")}, "choose"), ({"max": 1}, "never taught")])  # fmt: skip
def test_a_strength_out_of_range_or_of_nobody_is_refused(steps, strengths, said):
    with pytest.raises(ValueError, match=said):
        steps[-1].scaled(strengths)


def test_the_size_of_a_session_grows_with_what_is_shared_and_not_with_the_masks(steps):
    sizes = [sum(t.nbytes for k, t in s._tensors().items() if k.startswith(("delta/", "concept/")) and "picture" not in k and "/rms/" not in k) for s in steps]
    shared = sum(len(own) for c in steps[-1].concepts for own in c.shared.values())
    dense = sum(len(i) for c in steps[-1].concepts for i in c.mask.values())
    union = len(steps[-1].delta)
    matrices = len(steps[-1].delta.indices)
    assert shared < dense and sizes[-1] <= 8 * union + 4 * shared + 3 * (union / 8 + 8 * matrices + 4 * 16 * (1 + matrices / 2))


def test_another_base_is_refused_when_comparing(steps):
    with pytest.raises(ValueError, match="not on `other`"):
        owning.compared(Base(tiny_pipeline(), Card("other", 32)), steps[0], steps[1])
