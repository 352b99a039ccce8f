import sys

import numpy as np
import pytest
from conftest import picture, taught

import cns
from cns import figures, inspection


@pytest.fixture(scope="module")
def session(tiny_base):
    first = taught(tiny_base, cns.Concept("rex", "dog", [picture("red")]))
    return taught(tiny_base, cns.Concept("tom", "cat face", [picture("gray")]), first)


def texts(figure):
    axes = figure.axes[0]
    return [t.get_text() for t in (*axes.get_xticklabels(), *axes.get_yticklabels(), *axes.texts)]


def test_stacked_bars_add_up_to_the_base_neurons(session):
    plot = inspection.funnel(session, "rex")
    bars = figures.draw(plot).axes[0].patches
    assert {"down 0.0 K", "mid 0 V"} <= set(texts(figures.draw(plot)))
    for i, (_, size, strong, *_) in enumerate(plot.table):
        assert bars[i].get_width() + bars[len(plot.rows) + i].get_width() == pytest.approx(100 * strong / size)
        assert bars[len(plot.rows) + i].get_x() == pytest.approx(bars[i].get_width())


def test_grouped_bars_lie_below_each_other(tiny_base, session):
    bars = figures.draw(inspection.spread(tiny_base, session)).axes[0].patches
    assert sum(b.get_width() for b in bars) == pytest.approx(200)
    assert bars[0].get_y() > bars[len(bars) // 2].get_y() and all(b.get_x() == 0 for b in bars)


def test_a_map_writes_its_values_where_there_are_any(session):
    plot = inspection.overlap(session)
    assert f"{plot.values[0, 1]:.2f}" in texts(figures.draw(plot))
    plot.values[0, 1] = np.nan
    assert len(figures.draw(plot).axes[0].texts) == 3


def test_numbers_within_a_map_are_brief():
    assert [inspection.brief(v) for v in (0.123, 9.994, 9.996, 45.67, 99.96, 100, -0.5)] == ["0.12", "9.99", "10.0", "45.7", "100", "100", "-0.50"]


def test_figures_leave_nothing_global_behind(session):
    figures.draw(inspection.overlap(session))
    plot = sys.modules.get("matplotlib.pyplot")
    assert plot is None or not plot.get_fignums()
