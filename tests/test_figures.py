import pytest
from conftest import picture, taught

import cns
from cns import figures


@pytest.fixture(scope="module")
def session(tiny_base):
    first = taught(tiny_base, cns.Concept("rex", "dog", [picture("red")]))
    return taught(tiny_base, cns.Concept("tom", "cat face", [picture("gray")]), first)


def texts(figure):
    axes = figure.axes[0]
    return [t.get_text() for t in (*axes.get_xticklabels(), *axes.get_yticklabels(), *axes.texts)]


def test_the_funnel_shows_every_matrix_and_its_bars_add_up_to_the_base_neurons(tiny_base, session):
    figure = figures.funnel(tiny_base, session, "rex")
    counts = session.concept("rex").stats["funnel"]
    bars = figure.axes[0].patches
    assert len(bars) == 2 * len(counts)
    assert {"down 0.0 K", "mid 0 V"} <= set(texts(figure))
    for i, (strong, _, size) in enumerate(counts.values()):
        assert bars[i].get_width() + bars[len(counts) + i].get_width() == pytest.approx(100 * strong / size)


def test_the_location_bars_add_up_to_all_neurons(session):
    assert sum(p.get_height() for p in figures.location(session, "tom").axes[0].patches) == pytest.approx(100)


def test_overlap_counts_shared_neurons(session):
    a, b = (c.mask for c in session.concepts)
    wanted = sum(len(set(a[n].tolist()) & set(b[n].tolist())) for n in a)
    both, jaccard = figures.shared(session)
    sizes = [sum(len(i) for i in m.values()) for m in (a, b)]
    assert both.tolist() == [[sizes[0], wanted], [wanted, sizes[1]]]
    assert jaccard[0, 1] == pytest.approx(wanted / (sum(sizes) - wanted)) and jaccard[0, 0] == 1
    assert f"{jaccard[0, 1]:.2f}\n{wanted:,}" in texts(figures.overlap(session))


def test_a_concept_never_taught_is_named_with_the_taught_ones(tiny_base, session):
    with pytest.raises(ValueError, match="concept `max` was never taught. Taught: `rex`, `tom`"):
        figures.funnel(tiny_base, session, "max")


def test_figures_leave_nothing_global_behind(session):
    import sys

    figures.loss([3.0, 2.0, 1.0])
    figures.overlap(session)
    plot = sys.modules.get("matplotlib.pyplot")
    assert plot is None or not plot.get_fignums()
