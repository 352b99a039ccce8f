import csv
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import picture, taught

import cns
from cns import inspection
from cns.factored import factored, restored
from cns.inspection import Selector
from cns.parts import whole
from cns.selection import calibration_rms


@pytest.fixture(scope="module")
def session(tiny_base):
    first = taught(tiny_base, cns.Concept("rex", "dog", [picture("red")]))
    return taught(tiny_base, cns.Concept("tom", "cat face", [picture("gray")]), first)


@pytest.fixture
def selector(tiny_base):
    return Selector(tiny_base, lambda: whole(calibration_rms(tiny_base, torch.Generator().manual_seed(0))))


def every_plot(base, session):
    all_of_it = inspection.overlap(session), inspection.growth(base, session), inspection.updates(inspection.norms(base), session)
    return [inspection.funnel(session, "rex"), *all_of_it, *(inspection.spread(base, session, by) for by in inspection.WAYS)]


def test_a_plot_has_a_value_a_word_and_a_line_of_csv_for_everything(tiny_base, session):
    for plot in every_plot(tiny_base, session):
        shape = (len(plot.rows), len(plot.series))
        assert plot.values.shape == shape == np.array(plot.hover).shape and np.isfinite(plot.values).all()
        lines = [*csv.reader(io.StringIO(plot.csv()))]
        assert {len(line) for line in lines} == {len(plot.header)} and len(lines) == 1 + len(plot.table) > 1


def test_the_funnel_is_what_the_masks_are(session):
    rex = session.concept("rex")
    table = inspection.funnel(session, "rex").table
    by_name = {inspection.short(n): len(i) for n, i in rex.mask.items()}
    assert {row[0]: row[4] for row in table} == by_name and all(row[2] == row[3] + row[4] for row in table)
    with pytest.raises(ValueError, match="concept `max` was never taught. Taught: `rex`, `tom`"):
        inspection.funnel(session, "max")


@pytest.mark.parametrize("by", inspection.WAYS)
def test_wherever_the_network_is_cut_every_neuron_lies_in_one_part(tiny_base, session, by):
    plot = inspection.spread(tiny_base, session, by)
    for i, c in enumerate(session.concepts, 1):
        assert sum(row[i] for row in plot.table) == sum(map(len, c.mask.values()))
    assert plot.values.sum(0) == pytest.approx([100, 100])


def test_heads_are_rows_of_the_matrix_and_resolutions_halve(tiny_base, session):
    name = next(iter(tiny_base.weights))
    din, heads = tiny_base.weights[name].shape[1], tiny_base.layers[name.rsplit(".", 2)[0]].heads
    last = torch.tensor([tiny_base.weights[name].numel() - 1])
    assert inspection._parts(tiny_base, name, last, "head")[heads - 1] == (f"head {heads}", 1) and din == 16
    sides = {inspection.short(n)[:-2]: inspection.resolution(tiny_base, n) for n in tiny_base.weights}
    assert sides == {"down 0.0": 16, "mid 0": 8, "up 1.0": 16, "up 1.1": 16}
    with pytest.raises(ValueError, match="`by` is `colour`"):
        inspection.spread(tiny_base, session, "colour")


def test_layers_deep_in_a_block_have_names_of_their_own():
    name = "down_blocks.2.attentions.1.transformer_blocks.{}.attn2.to_v.weight"
    assert [inspection.short(name.format(i)) for i in (0, 1, 10)] == ["down 2.1 V", "down 2.1.1 V", "down 2.1.10 V"]
    assert {inspection.block(name.format(i)) for i in (0, 1, 10)} == {"down 2.1"}
    flat = [f"transformer_blocks.{i}.attn2.to_k.weight" for i in (10, 2, 0)]
    assert [inspection.short(n) for n in inspection.ordered(flat)] == ["block 0 K", "block 2 K", "block 10 K"]
    assert [inspection.short(f"transformer_blocks.3.attn.add_{p}_proj.weight") for p in "kv"] == ["block 3 K", "block 3 V"]


def test_the_parts_are_explained_where_they_are(tiny_base, session):
    said = {by: inspection.spread(tiny_base, session, by).about for by in inspection.WAYS}
    assert "down blocks take it in" in said["block"] and "coarse ones settle" in said["resolution"] and "Keys" in said["kind"] and "heads" in said["head"]
    assert len({*said.values()}) == len(said)
    assert "down" not in inspection._parts_said(["block 0", "block 1"], "block") and "equally finely" in inspection._parts_said(["32 x 32"], "resolution")


def test_a_transformer_looks_at_patches():
    class Base:
        denoiser, patches = type("", (), {"config": {"patch_size": 2}}), 32

    assert inspection.resolution(Base, "transformer_blocks.0.attn2.to_k.weight") == 32


def test_overlap_counts_shared_neurons(session):
    a, b = (c.mask for c in session.concepts)
    wanted = sum(len(set(a[n].tolist()) & set(b[n].tolist())) for n in a)
    sizes = [sum(len(i) for i in m.values()) for m in (a, b)]
    both, jaccard = inspection.shared([a, b])
    assert both.tolist() == [[sizes[0], wanted], [wanted, sizes[1]]]
    assert jaccard[0, 1] == pytest.approx(wanted / (sum(sizes) - wanted)) and jaccard[0, 0] == 1
    assert f"share {wanted:,} neurons" in inspection.overlap(session).hover[0][1]


def test_the_union_grows_to_the_whole_delta(tiny_base, session):
    rows = inspection.growth(tiny_base, session).table
    assert rows[-1][4] == len(session.delta) and rows[0][3] == rows[0][1]
    assert rows[1][4] == rows[0][4] + rows[1][3] and rows[1][2] == inspection.shared([c.mask for c in session.concepts])[0][0, 1]


def test_updates_are_the_lengths_of_each_concepts_own_increments(tiny_base, session):
    plot, own = inspection.updates(inspection.norms(tiny_base), session), session.increments("tom")
    for name, row in zip(inspection.ordered(own), plot.values):
        assert row[1] == pytest.approx(100 * float(own[name].norm() / tiny_base.weights[name].norm()), rel=1e-5)


def test_selecting_again_at_the_taught_thresholds_gives_the_taught_neurons(session, selector, tiny_base):
    other = taught(tiny_base, cns.Concept("max", "dog", [picture("blue")]), base_share=0.1, general_share=0.8).concepts[0]
    assert inspection.thresholds(tiny_base, other) == (0.1, 0.8) != inspection.thresholds(tiny_base, session.concepts[0])
    for c in (*session.concepts, other):
        index, counts = selector.select(c, *inspection.thresholds(tiny_base, c))
        assert all(torch.equal(index[n], c.mask[n]) for n in c.mask) and counts == c.stats["funnel"]


def test_thresholds_move_the_funnel_and_the_overlap_and_touch_nothing(session, selector, tiny_base):
    rex = session.concept("rex")
    size = {at: sum(map(len, selector.select(rex, *at)[0].values())) for at in ((0.3, 0.5), (0.3, 1.0), (0.3, 0.0))}
    assert 0 == size[0.3, 0.0] < size[0.3, 0.5] <= size[0.3, 1.0]
    few, many = (sum(c[0] for c in selector.select(rex, rho, 0.5)[1].values()) for rho in (0.1, 0.3))
    assert few < many
    funnel, overlap = selector.plots(session, "rex", 0.3, 0.5)
    assert sum(r[4] for r in funnel.table) == size[0.3, 0.5] == overlap.table[0][2]
    assert "rho were 0.3" in funnel.title
    for rho, gamma in ((0, 0.5), (1.1, 0.5), (0.2, -1), (0.2, 2)):
        with pytest.raises(ValueError, match="`rho` is"):
            selector.select(rex, rho, gamma)


def test_a_session_that_does_not_say_its_thresholds_had_the_bases_own(session, tiny_base, monkeypatch):
    monkeypatch.setattr(tiny_base, "card", replace(tiny_base.card, teach={"base_share": 0.15}))
    rex = session.concept("rex")
    old = replace(rex, stats={k: v for k, v in rex.stats.items() if k != "settings"})
    assert inspection.thresholds(tiny_base, old) == (0.15, 0.5) and inspection.thresholds(tiny_base, rex) == (0.2, 0.5)


def test_at_a_gamma_above_one_nothing_is_general(session, selector):
    assert all(strong == concept for strong, concept, _ in selector.select(session.concept("rex"), 0.2, 1.01)[1].values())


def test_an_old_session_says_why_its_thresholds_cannot_move(session, selector):
    old = replace(session.concept("rex"), rms={})
    with pytest.raises(ValueError, match="`<rex>` was taught by a version .* teach it again"):
        selector.select(old, 0.2, 0.5)
    mixed = replace(session, concepts=(old, session.concept("tom")))
    assert selector.plots(mixed, "tom", 0.1, 0.5)[1].table[0][2] == sum(map(len, old.mask.values()))


def test_by_gradient_the_sliders_choose_nearly_what_was_taught_and_the_papers_score_does_not(tiny_base, selector, tmp_path):
    session = taught(tiny_base, cns.Concept("max", "dog", [picture("blue")]), score="gradient", base_share=0.2)
    session.save(tmp_path)
    c, s = cns.Session.load(tmp_path, tiny_base).concept("max"), cns.TeachSettings()

    def found(chosen):
        return sum(int(torch.isin(i, chosen[n]).sum()) for n, i in c.mask.items()) / sum(map(len, c.mask.values()))

    nearly, otherwise = (found(selector.select(x, 0.2, s.general_share)[0]) for x in (c, replace(c, gradients={})))
    assert nearly > 0.75 and nearly > 1.5 * otherwise
    few, many = (sum(k[0] for k in selector.select(c, rho, 0.5)[1].values()) for rho in (0.1, 0.3))
    assert few == pytest.approx(many / 3, rel=0.01)


def test_factors_of_a_product_give_it_back():
    g = torch.rand(5, 1) * torch.rand(1, 3)
    assert torch.allclose(restored(factored(g), g.shape), g, atol=1e-6)
