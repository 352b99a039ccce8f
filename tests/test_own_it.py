"""The "Own it" part of the running app: what is changed there is saved, in the history, and can be undone."""

import pytest
from conftest import picture, taught
from test_keeping import Visitor, app, rex  # noqa: F401  fixtures

import cns
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
    tab.call("refresh", None)  # as the page does when what is known has changed
    return tab


def whats(tab):
    """What the history says was done, the newest first."""
    return [words.split(": ")[1] for words, _ in tab.call("show", tab.key, None)[2]["choices"]]


def test_renaming_and_forgetting_are_saved_and_can_be_undone(app, tab):  # noqa: F811
    out = tab.call("renamed", None, "rex", " Max ", None, tab.key)
    assert "&lt;max&gt; dog" in out[4] and out[5] is None  # states stay on the server
    assert whats(tab) == ["rename max", "upload"]
    tab.call("refresh", None)
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
