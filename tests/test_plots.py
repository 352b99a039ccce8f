"""What the app makes of a plot: every value under the pointer and in a table, files without a server."""

import re
import xml.etree.ElementTree as xml
from dataclasses import replace
from urllib.parse import unquote

import numpy as np
import pytest
from conftest import picture, taught

import cns
from cns import inspection
from cns.ui import plots, probing


@pytest.fixture(scope="module")
def session(tiny_base):
    first = taught(tiny_base, cns.Concept("rex", "dog", [picture("red")]))
    return taught(tiny_base, cns.Concept("tom", "cat face", [picture("gray")]), first)


def marks(plot):
    """[(what is said, rectangle)]"""
    groups = [g for g in xml.fromstring(plots.svg(plot)) if g.get("class") == "cns-mark"]
    return [(" ".join(t.text for t in g if t.get("class") == "cns-tip"), g[0]) for g in groups]


@pytest.mark.parametrize("kind", ["funnel", "overlap", "where", "growth"])
def test_every_value_is_a_mark_that_says_what_it_is_within_the_plot(tiny_base, session, kind):
    plot = {"funnel": inspection.funnel(session, "rex"), "overlap": inspection.overlap(session), "where": inspection.spread(tiny_base, session),
            "growth": inspection.growth(tiny_base, session)}[kind]  # fmt: skip
    found = marks(plot)
    assert [said for said, _ in found] == [said for row in plot.hover for said in row]
    height = float(re.search(r'viewBox="0 0 \d+ (\d+)"', plots.svg(plot))[1])
    for _, rect in found:
        x, y, w, h = (float(rect.get(k)) for k in ("x", "y", "width", "height"))
        assert x >= 0 and x + w <= plots.WIDTH and y >= plots.TIP and y + h <= height


def test_stacked_marks_lie_end_to_end(session):
    (_, first), (_, second) = marks(inspection.funnel(session, "rex"))[:2]
    assert float(first.get("x")) + float(first.get("width")) == pytest.approx(float(second.get("x")), abs=0.11)


def test_what_is_not_there_has_no_mark(session):
    plot = inspection.overlap(session)
    plot.values[0, 1] = np.nan
    assert len(marks(plot)) == 3


def test_the_csv_travels_in_its_link_and_words_are_escaped(session):
    plot = inspection.overlap(session)
    page = plots.shown(plot, "tom-overlap")
    assert unquote(re.search('download="tom-overlap.csv" href="data:text/csv;charset=utf-8,([^"]*)"', page)[1]) == plot.csv()
    assert "<rex>" not in page and "&lt;rex&gt;" in page
    assert "<b>bad" not in plots.shown(
        replace(plot, title="<b>bad", about="<b>bad", rows=("<b>bad", "x"), header=("<b>bad", *plot.header[1:]))
    )


def test_the_forgetting_matrix_shows_each_picture_in_its_cell_and_how_long_it_takes(session):
    rows = [[(picture(), 0.5)], [(picture(), 0.25), (picture(), None)]]
    page = probing.table(session, rows)
    assert page.count("<img") == 3 and page.count("<td></td>") == 2 and "&lt;rex&gt; after &lt;tom&gt;" in page and "CLIP-I 0.250" in page
    assert "<rex>" not in page
    assert "picture 3 of 4, about 10 s left" in probing.waiting(2, 4, 10.0) and probing.waiting(4, 4, 20.0) == ""
