"""The "Own it" part of the running app: what is changed there is saved, in the history, and can be undone."""

import shutil
from pathlib import Path

import pytest
from conftest import picture, taught
from test_keeping import Visitor, app, rex  # noqa: F401  fixtures

import cns
from cns.export import export
from cns.store import pack


@pytest.fixture(scope="module")
def both(tiny_base, rex):  # noqa: F811
    return taught(tiny_base, cns.Concept("tom", "cat face", [picture("gray")]), rex)


@pytest.fixture
def tab(app, both):  # noqa: F811
    """A page whose session is `both`, and its key."""
    tab = Visitor(app)
    tab.key = tab.call("resume", "")[2]
    tab.call("take_in", tab.upload(pack(both)), None, tab.key)
    tab.call("refresh", None, "")  # as the page does when what is known has changed
    return tab


def whats(tab):
    """What the history says was done, the newest first."""
    return [words.split(": ")[1] for words, _ in tab.call("show", tab.key, None)[2]["choices"]]


def test_renaming_and_forgetting_are_saved_and_can_be_undone(app, tab):  # noqa: F811
    out = tab.call("renamed", None, "rex", " Max ", None, tab.key)
    assert "&lt;max&gt; dog" in out[4] and out[5] is None  # states stay on the server
    assert whats(tab) == ["rename max", "upload"]
    tab.call("refresh", None, "")
    lost, *out = tab.call("forgotten", None, "tom", None, tab.key)
    assert "&lt;tom&gt; is forgotten" in lost and "&lt;max&gt;" in lost and "tom" not in out[2]
    assert whats(tab) == ["forget tom", "rename max", "upload"]
    line = Visitor(app).call("resume", tab.key)[4]
    assert "&lt;max&gt; dog" in line and "tom" not in line
    assert "&lt;tom&gt; cat face" in tab.call("take_back", None, tab.key)[2]
    assert "Saved" in tab.call("show", tab.key, None)[0]


def test_a_bad_name_changes_nothing(tab):
    for bad, said in (("", "name is empty"), ("tom", "already taught")):
        with pytest.raises(RuntimeError, match=said):
            tab.call("renamed", None, "rex", bad, None, tab.key)
    assert whats(tab) == ["upload"]


def test_reordering_and_merging_are_saved_and_say_what_each_lost(app, tab, tiny_base, tmp_path):  # noqa: F811
    out = tab.call("reordered", None, "tom, <rex>", None, tab.key)
    assert "&lt;tom&gt; cat face</b>, <b>&lt;rex&gt;" in out[3]
    hut = taught(tiny_base, cns.Concept("hut", "house", [picture("blue")]))
    export(tiny_base, hut, "patch", tmp_path / "patch")
    zipped = Path(shutil.make_archive(str(tmp_path / "patch"), "zip", tmp_path / "patch")).read_bytes()
    for content in (pack(hut), zipped):
        tab.call("refresh", None, "")
        lost, *out = tab.call("merged_file", None, tab.upload(content), None, tab.key)
        assert "&lt;hut&gt; added" in lost and all(f"<b>&lt;{n}&gt;</b>" in lost for n in ("rex", "tom", "hut"))
        assert "&lt;hut&gt; house" in out[2] and whats(tab)[0] == "merge"
        with pytest.raises(RuntimeError, match="oth sessions have a"):
            tab.call("merged_file", None, tab.upload(content), None, tab.key)
        tab.call("take_back", None, tab.key)
    neighbour = Visitor(app)
    key = neighbour.call("resume", "")[2]
    neighbour.call("take_in", neighbour.upload(pack(hut)), None, key)
    tab.call("refresh", None, "")
    assert "&lt;hut&gt; added" in tab.call("merged", None, key, None, tab.key)[1]


@pytest.mark.parametrize(("do", "given", "said"), [("reordered", "rex", "does not name every concept once"), ("merged", "0" * 32, "o session was found"), ("merged", " ", "o session was found")])
def test_a_bad_order_or_source_changes_nothing(tab, do, given, said):
    with pytest.raises(RuntimeError, match=said):
        tab.call(do, None, given, None, tab.key)
    assert whats(tab) == ["upload"]
