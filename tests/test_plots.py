"""What the app makes of a plot: every value under the pointer and in a table, files without a server."""

import re
import xml.etree.ElementTree as xml
from dataclasses import replace
from urllib.parse import unquote

import numpy as np
import pytest
from conftest import NO_BROWSER, picture, taught

import cns
from cns import inspection
from cns.ui import plots, probing


@pytest.fixture(scope="module")
def session(tiny_base):
    first = taught(tiny_base, cns.Concept("rex", "dog", [picture("red")]))
    return taught(tiny_base, cns.Concept("tom", "cat face", [picture("gray")]), first)


def many(session, count):
    """A session of so many things of a wide name, all with the neurons of one."""
    c = session.concept("rex")
    return session.of([replace(c, name=f"mammoth-{i}") for i in range(count)], [session.increments("rex")] * count)


def size(svg):
    """(width, height) [pixels]"""
    return tuple(map(float, re.search(r'viewBox="0 0 (\d+) (\d+)"', svg).groups()))


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
    width, height = size(plots.svg(plot))
    for _, rect in found:
        x, y, w, h = (float(rect.get(k)) for k in ("x", "y", "width", "height"))
        assert x >= 0 and x + w <= width and y >= plots.TIP and y + h <= height


def test_stacked_marks_lie_end_to_end(session):
    (_, first), (_, second) = marks(inspection.funnel(session, "rex"))[:2]
    assert float(first.get("x")) + float(first.get("width")) == pytest.approx(float(second.get("x")), abs=0.11)


def test_ten_things_have_a_colour_each_and_more_are_a_matrix(tiny_base, session):
    ten = xml.fromstring(plots.svg(inspection.spread(tiny_base, many(session, 10))))
    bars, legend = ({r.get("fill") for r in rects} for rects in (ten.findall("g/rect"), ten.findall("rect")))
    assert bars == legend == {*inspection.COLOURS} and len(bars) == 10
    for plot in (inspection.spread(tiny_base, many(session, 11)), inspection.updates(inspection.norms(tiny_base), many(session, 11))):
        assert plot.kind == "heat" and len(marks(plot)) == 11 * len(plot.rows)


def light(colour):
    """Linear [r, g, b] of "#rrggbb"."""
    c = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


SIGHT = {  # who sees linear light so: Machado, Oliveira and Fernandes, 2009
    "most": np.eye(3),
    "protanope": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranope": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanope": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("who", SIGHT)
def test_colours_can_be_told_apart_by(who):
    """Distances in OKLab, in which 0.02 is what one just notices."""
    seen = np.array([np.clip(SIGHT[who] @ light(c), 0, 1) for c in inspection.COLOURS])
    cones = np.cbrt(seen @ np.array([[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]]).T)
    lab = cones @ np.array([[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]).T
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=2)[np.triu_indices(len(lab), 1)]
    assert apart.min() > 0.055


@pytest.mark.parametrize("page", ["#ffffff", "#020617"])
def test_colours_stand_out_from(page):
    behind, *lights = (0.05 + float(light(c) @ [0.2126, 0.7152, 0.0722]) for c in (page, *inspection.COLOURS))
    assert min(max(behind, x) / min(behind, x) for x in lights) >= 3


@pytest.mark.parametrize("count", [1, 2, 5, 10, 20])
def test_a_matrix_of_many_writes_names_in_full_and_values_only_where_they_fit(session, count):
    s = many(session, count)
    drawn = xml.fromstring(plots.svg(inspection.overlap(s)))
    cells = drawn.findall("g")
    assert len(cells) == count**2
    for cell in cells:
        wide, values = float(cell[0].get("width")), [t.text for t in cell if t.tag == "text" and t.get("class") is None]
        assert len(values) == (wide + 2 >= plots.WRITTEN) and all(plots._long(v) <= wide + 2 for v in values)
    names = [t for t in drawn.findall("text") if t.get("text-anchor") != "end" and t.text in s.tokens]
    assert [t.text for t in names] == [*s.tokens]
    room = 2 + float(cells[0][0].get("width"))
    assert all((t.get("transform") is not None) == (plots._margin(s.tokens) > room) for t in names)
    assert min(float(t.get("y")) for t in names) - (max(map(plots._long, s.tokens)) if names[0].get("transform") else 0) >= plots.TIP


OVERLAPPING = """[...document.querySelectorAll('svg')].flatMap(svg => {
    const texts = [...svg.querySelectorAll('text:not(.cns-tip)')].map(t => [t.textContent, t.getBoundingClientRect()]), side = svg.getBoundingClientRect();
    const out = texts.filter(([, a]) => a.left < side.left - 1 || a.right > side.right + 1).map(([t]) => t + ' sticks out');
    const over = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2;
    return [...out, ...texts.flatMap(([t, a], i) => texts.slice(i + 1).filter(([, b]) => over(a, b)).map(([u]) => t + ' over ' + u))];
})"""


@NO_BROWSER
@pytest.mark.parametrize("width", [1280, 390])
def test_plots_of_many_things_can_be_read_on_any_screen_and_do_not_widen_it(tiny_base, session, browser, width):
    s, ten = many(session, 20), many(session, 10)
    drawn = inspection.overlap(s), inspection.spread(tiny_base, s), inspection.growth(tiny_base, s), inspection.overlap(ten), inspection.spread(tiny_base, ten)
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.set_content(f"<style>{plots.CSS} body {{ font-family: system-ui, sans-serif; }}</style>{''.join(map(plots.shown, drawn))}")
    sizes = page.evaluate("[...document.querySelectorAll('svg')].map(s => 11 * s.getBoundingClientRect().width / s.viewBox.baseVal.width)")
    assert len(sizes) == len(drawn) and min(sizes) >= 10.9
    assert page.evaluate(OVERLAPPING) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


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
