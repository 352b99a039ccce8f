import pickle

import numpy as np
import pytest
import torch
from conftest import assert_unchanged, picture, snapshot, taught

import cns
from cns import inspection, probing
from cns.delta import written
from cns.session import unpack


@pytest.fixture(scope="module")
def session(tiny_base):
    first = taught(tiny_base, cns.Concept("rex", "dog", [picture("red")]), response=0, rate=0.1)  # so far that every probe shows in the picture
    return taught(tiny_base, cns.Concept("tom", "cat face", [picture("gray")]), first, response=0, rate=0.1)


def test_every_probe_draws_and_leaves_the_base_bit_for_bit(tiny_base, session):
    before, found = snapshot(tiny_base), []
    for probe in probing.probes(tiny_base, session, "rex", "tom"):
        assert_unchanged(tiny_base, before)
        found.append(probe)
    assert [p.title for p in found] == ["untouched", "unlearned", "keys only", "values only", "its neurons at zero", "random ones at zero",
                                        "general ones at zero", "its own changes alone", "<tom>'s changes alone"]  # fmt: skip
    pictures = [p.picture.tobytes() for p in found]
    assert pictures[0] == cns.generate(tiny_base, "a <rex> dog", session)[0].tobytes()
    assert len(set(pictures)) == len(pictures)
    silent = cns.silence(tiny_base, session, "rex")[1]
    assert pictures[1] == silent.tobytes()
    assert {p.clip_i for p in found} == {None} == {p.change for p in found}
    assert [p.title for p in pickle.loads(pickle.dumps(found))] == [p.title for p in found]  # as a GPU worker returns them


def test_a_probe_that_fails_leaves_the_base_as_it_was(tiny_base, session, monkeypatch):
    before = snapshot(tiny_base)

    def broken(*_):
        raise RuntimeError("out of luck")

    monkeypatch.setattr("cns.probing.sample", broken)
    with pytest.raises(RuntimeError):
        [*probing.probes(tiny_base, session, "rex")]
    assert_unchanged(tiny_base, before)


def test_what_is_silenced_is_what_is_said(tiny_base, session):
    rex = session.concept("rex")
    done = {title: (changed, zeroed, n) for title, _, changed, zeroed, n in probing.interventions(tiny_base, session, rex, None, 3)}
    general = {n: unpack(bits, tiny_base.weights[n].numel()) for n, bits in session.general.items()}
    for n, mask in rex.mask.items():
        assert torch.equal(done["its neurons at zero"][1][n], mask)
        random, common = done["random ones at zero"][1][n], done["general ones at zero"][1][n]
        assert not torch.isin(random, mask).any() and not general[n][random].any() and len(random) == len(mask)
        assert general[n][common].all() and len(common) == min(len(mask), int(general[n].sum()))
        kept = done["keys only"][0].delta.at(n, mask)
        assert torch.equal(kept, session.delta.at(n, mask) if "to_k" in n else torch.zeros(len(mask)))
    again = {t: z for t, _, _, z, _ in probing.interventions(tiny_base, session, rex, None, 3)}
    assert all(torch.equal(again["random ones at zero"][n], i) for n, i in done["random ones at zero"][1].items())


def test_zeros_are_zeros_while_drawing(tiny_base, session):
    mask = session.concept("rex").mask
    with session.on(tiny_base), written(tiny_base.weights, mask, {n: torch.zeros(len(i)) for n, i in mask.items()}):
        assert all((tiny_base.weights[n].view(-1)[i] == 0).all() for n, i in mask.items())


def test_a_row_of_the_forgetting_matrix_is_the_session_as_it_was_then(tiny_base):
    first = taught(tiny_base, cns.Concept("rex", "dog", [picture("red")]), response=0, rate=0.1)  # so far that every probe shows in the picture
    both = taught(tiny_base, cns.Concept("tom", "cat face", [picture("gray")]), first, response=0)
    assert probing.after(both, 1).tokens == ("<rex>",)
    before = snapshot(tiny_base)
    rows = [probing.row(tiny_base, both, k) for k in (1, 2)]
    assert_unchanged(tiny_base, before)
    close = np.abs(np.asarray(rows[0][0][0], int) - np.asarray(first.concepts[0].picture, int)).max()
    assert close <= 1  # taken apart again, so equal but for the rounding of a sum
    assert rows[1][1][0].tobytes() == cns.remember(tiny_base, both)[1].now.tobytes() and len(rows[1]) == 2


def test_the_forgetting_matrix_says_what_was_lost_since_it_was_taught(session):
    plot = inspection.forgetting(session, [[0.8], [0.6, 0.7]])
    assert plot.values[1].tolist() == [0.6, 0.7] and np.isnan(plot.values[0, 1])
    assert ("<tom>", "<rex>", 0.6, -0.2) in [(*row[:2], round(row[2], 6), round(row[3], 6)) for row in plot.table] and len(plot.table) == 3
    assert "0.200 less than when it was taught" in plot.hover[1][0]
    with pytest.raises(ValueError, match="needs a CLIP"):
        inspection.forgetting(session, [[None], [None, None]])


def test_with_a_clip_the_change_is_measured_against_the_untouched_picture(starter, monkeypatch):
    monkeypatch.setattr(starter, "steps", 4)
    session = taught(starter, cns.Concept("rex", "dog face", [picture("red", 64)]), steps=2)
    first, second, *_ = probing.probes(starter, session, "rex")
    assert first.change == 0 and second.change == pytest.approx(second.clip_i - first.clip_i)
    plot = inspection.forgetting(session, [[score for _, score in probing.row(starter, session, 1)]])
    assert plot.values.shape == (1, 1) and np.isfinite(plot.values).all()
