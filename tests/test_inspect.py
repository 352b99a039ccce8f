"""What the Inspect tab says and shows of a session, without a browser."""

import re
from urllib.parse import unquote

import pytest
from conftest import picture, taught
from test_keeping import Visitor, app  # noqa: F401

import cns
from cns import inspection
from cns.probing import Probe
from cns.scores import CLIP_I
from cns.store import pack
from cns.ui import build, gpu, inspect, probing

MOVING, NEARLY = -1, -2  # where `show` says what the sliders do


@pytest.fixture(scope="module")
def desk(tiny_base):
    gpu.use(tiny_base)
    return inspect.Desk(tiny_base)


@pytest.fixture(scope="module")
def session(tiny_base, rex):
    """`rex` as is usual here, and two things taught otherwise."""
    session = taught(tiny_base, cns.Concept("max", "dog", [picture("blue")]), rex, base_share=0.1, general_share=0.8)
    return taught(tiny_base, cns.Concept("all", "cat", [picture("gray")]), session, base_share=1.0, general_share=1.01)


@pytest.mark.parametrize(("name", "rho", "gamma", "most"), [("rex", 0.2, 0.5, (0.6, 1)), ("max", 0.1, 0.8, (0.6, 1)), ("all", 1.0, 1.01, (1.0, 1.01))])
def test_the_sliders_stand_where_the_concept_was_taught_and_as_taught_puts_them_back(desk, session, name, rho, gamma, most):
    shown, reset = desk.show(session, name, "block")[6:8], desk.reset(session, name)
    for sliders in (shown, reset[:2]):
        assert [s["value"] for s in sliders] == [rho, gamma] and tuple(s["maximum"] for s in sliders) == most
    assert reset[2:] == desk.reselect(session, name, rho, gamma) and "if rho were" not in reset[2]
    assert "if rho were 0.3 " in desk.reselect(session, name, 0.3, gamma)[0]


def test_the_sliders_are_explained_as_this_concept_was_chosen(desk, rex, tiny_base):
    by_response, by_gradient = (desk.show(s, "rex", "block") for s in (rex, taught(tiny_base, cns.Concept("rex", "dog", [picture("red")]), score="gradient")))
    assert "how much of each matrix counts" in by_response[MOVING] and by_response[NEARLY] == ""
    assert "how much of all matrices together counts" in by_gradient[MOVING] and "&lt;rex&gt;, so the sliders choose close to" in by_gradient[NEARLY]


@pytest.mark.parametrize("by", inspection.WAYS)
def test_a_changed_session_is_divided_as_the_radio_says(desk, rex, tom, by):
    *_, names, numbers, funnel, overlap, growth, where = desk.refresh(tom, "", by)[:10]
    assert names["value"] == "tom" and f"by {inspection.WAYS[by]}" in where
    assert (numbers, funnel, overlap, growth, where) == desk.show(tom, "tom", by)[:5]


def test_what_redraws_the_tab_reads_the_radio(tiny_base):
    (refresh,) = (f for f in build(tiny_base).fns.values() if f.name == "refresh")
    assert refresh.inputs[-1].elem_id == "by"


def test_every_probe_says_whose_it_is(desk, tom):
    """It may end after another concept was chosen."""
    *_, (waiting, page) = probing.probe(tom, "rex", "tom", 0, "0" * 32)
    captions = re.findall("<figcaption>(.*?)</figcaption>", page)
    assert waiting == "" and len(captions) == probing.PROBES and all(c.startswith("&lt;rex&gt;, ") for c in captions)


def test_a_link_opens_its_concept_once_and_elsewhere_says_why_not(app, tom):  # noqa: F811
    tab = Visitor(app)
    key = tab.call("resume", "")[2]
    tab.call("take_in", tab.upload(pack(tom)), None, key)
    linked = Visitor(app, search="?concept=rex&__theme=dark")
    assert "This link" not in linked.call("resume", key)[4]
    first, later = (linked.call("refresh", None, None, "block") for _ in range(2))
    assert (first[0].get("selected"), first[4]["value"]) == ("inspect", "rex") and (later[0].get("selected"), later[4]["value"]) == (None, "tom")
    for search, name in (("?concept=rex", "rex"), ("?concept=%3Cb%3E" + 99 * "x", "&lt;b&gt;" + 21 * "x")):
        stranger = Visitor(app, search=search)
        assert f"This link opens &lt;{name}&gt; only in the browser that was taught it" in stranger.call("resume", "")[4]
    assert "This link" not in Visitor(app).call("resume", "")[4]


def test_silencing_is_the_first_two_probes_with_the_concepts_own_seed(desk, tom):
    *_, (_, quiet) = probing.silence(tom, "rex", None, "0" * 32)
    *_, (_, every) = probing.probe(tom, "rex", probing.NOBODY, tom.concept("rex").stats["seed"], "0" * 32)
    shown, all_shown = (re.findall("<figure>.*?</figure>", page) for page in (quiet, every))
    assert len(shown) == probing.SILENCED == 2 and shown == all_shown[:2] and "unlearned" in shown[1] and len(all_shown) == probing.PROBES - 2


def test_probes_come_with_their_numbers_as_a_file_and_with_what_clip_i_is():
    found = [Probe("untouched", "with all", 0, picture(), 0.5, 0.0), Probe("unlearned", "without", 7, picture(), 0.25, -0.25)]
    page = probing.probed("<rex>", found)
    content = re.search('download="rex-probes.csv" href="data:text/csv;charset=utf-8,([^"]*)"', page)[1]
    assert unquote(content) == "probe,neurons,clip_i,change\nuntouched,0,0.5,0.0\nunlearned,7,0.25,-0.25\n"
    assert "without (7). CLIP-I 0.250 (-0.250)" in page and "CLIP-I 0.500<" in page and page.count(CLIP_I) == 1
    assert CLIP_I not in probing.probed("<rex>", [Probe("untouched", "with all", 0, picture(), None, None)])  # where there is no CLIP


def test_one_swaps_with_another_if_there_is_one(rex, tom):
    assert probing.others(rex, "rex")[0]["choices"] == [("teach a second thing to swap", probing.NOBODY)]
    for name, other in (("rex", "tom"), ("tom", "rex")):
        choices = probing.others(tom, name)[0]
        assert choices["choices"] == [probing.NOBODY, (f"<{other}>", other)] and choices["value"] == probing.NOBODY
