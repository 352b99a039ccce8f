"""Bad layouts, strengths, sessions and targets through all three doors: the page, the endpoints, the shell. Each says what is wrong, and nothing is kept."""

import json

import pytest
from conftest import picture, taught, tiny_pipeline
from gradio_client import Client, handle_file
from test_cli import teach, tiny  # noqa: F401  a fixture
from test_keeping import Visitor, app  # noqa: F401  fixtures
from test_push import hub  # noqa: F401  a fixture

import cns
from cns.__main__ import main
from cns.base import Base, Card, load_base
from cns.regions import LIMIT
from cns.store import pack
from cns.text import LONGEST

LEFT = [0, 0, 0.5, 1]
LAYOUTS = {
    "outside the canvas": [{"box": [0, 0, 1.2, 1], "words": "a cat"}],
    "is 0 wide and 1 high": [{"box": [0.5, 0, 0.5, 1], "words": "a cat"}],
    "has no words": [{"box": LEFT, "words": " "}],
    "is not four numbers": [{"box": [0, 0, 1], "words": "a cat"}],
    "`<max>` was never taught": [{"box": LEFT, "words": "a <max> cat"}],
    f"here are {LIMIT + 1} regions": [{"box": LEFT, "words": "a cat"}] * (LIMIT + 1),
}


@pytest.fixture
def tab(app, rex):  # noqa: F811
    tab = Visitor(app)
    tab.key = tab.call("resume", "")[2]
    tab.call("take_in", tab.upload(pack(rex)), None, tab.key)
    tab.client = Client(tab.url.removesuffix("/gradio_api"), verbose=False)
    return tab


@pytest.fixture
def foreign():
    """A session of another base."""
    return taught(Base(tiny_pipeline("v_prediction"), Card("other", 32)), cns.Concept("tom", "dog", [picture("gray")]))


def drawn(tab, regions=(), strengths=None):
    """Generate on the page."""
    rows = [c for r in regions for c in (r["words"], ",".join(map(str, r["box"])))]
    return tab.call("generated", False, None, "a house", None, None, 1, 0, strengths or {}, "", 2, 2.0, 60, 100, *rows, *[""] * (2 * LIMIT - len(rows)))


def shell(capsys, *argv):
    """The one line that the shell says when it refuses."""
    capsys.readouterr()
    assert main([*map(str, argv)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize("said", LAYOUTS)
def test_bad_layouts_are_refused_at_every_door(tab, tiny, tmp_path, capsys, said):  # noqa: F811
    regions = LAYOUTS[said]
    (tmp_path / "l.json").write_text(json.dumps(regions))
    if len(regions) <= LIMIT:  # the page has no more rows
        with pytest.raises(RuntimeError, match=said.replace("<max>", "&lt;max&gt;")):
            drawn(tab, regions)
    if "taught" not in said:  # a file may name what is to be taught yet
        with pytest.raises(RuntimeError, match=said):
            tab.call("opened", tab.upload((tmp_path / "l.json").read_bytes(), "l.json"))
    for endpoint in ("/generate", "/attention"):
        with pytest.raises(Exception, match=said.replace("<max>", "&lt;max&gt;")):
            tab.client.predict("a house", tab.key, regions=regions, api_name=endpoint)
    assert said in shell(capsys, "generate", "--base", tiny / "base", "--prompt", "a house", "--layout", tmp_path / "l.json", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_texts_much_too_long_are_refused_at_every_door(tab, tiny, tmp_path, capsys):  # noqa: F811
    prompt, said = "a" * (LONGEST + 1), f"has {LONGEST + 1:,} characters: shorten it to {LONGEST:,} or fewer"
    how = None, None, 1, 0, {}
    rest = 2, 2.0, 60, 100, *[""] * (2 * LIMIT)
    for page in (("generated", False, None, prompt, *how, "", *rest), ("generated", False, None, "a house", *how, prompt, *rest)):
        with pytest.raises(RuntimeError, match=said):
            tab.call(*page)
    for texts in ({"prompt": prompt}, {"prompt": "a house", "negative": prompt}, {"prompt": "a house", "regions": [{"box": LEFT, "words": prompt}]}):
        with pytest.raises(Exception, match=said):
            tab.client.predict(**texts, api_name="/generate")
    draw = ["generate", "--base", tiny / "base", "--out", tmp_path / "out"]
    assert said in shell(capsys, *draw, "--prompt", prompt) and said in shell(capsys, *draw, "--prompt", "a house", "--negative", prompt)
    with pytest.raises(Exception, match="`xxx.*has 100000 characters: use at most 24"):
        tab.client.predict(tab.key, "rex", "x" * 100_000, api_name="/rename")


@pytest.mark.parametrize(("strengths", "said"), [({"rex": 1.6}, "trength of `rex` is 1.6: choose 0 to 1.5"), ({"rex": -1}, "choose 0 to 1.5"), ({"max": 1}, "`max` was never taught")])
def test_strengths_out_of_range_are_refused_at_every_door(tab, tiny, tmp_path, capsys, strengths, said):  # noqa: F811
    (name, value), = strengths.items()
    with pytest.raises(Exception, match=said):
        tab.client.predict("a house", tab.key, strengths=strengths, api_name="/generate")
    with pytest.raises(Exception, match=said):
        tab.client.predict("a house", name, tab.key, values=[value], api_name="/vary")
    assert teach(tiny, tmp_path / "s") == 0
    draw = ["generate", "--base", tiny / "base", "--session", tmp_path / "s", "--prompt", "a house", "--out", tmp_path / "out"]
    assert said in shell(capsys, *draw, "--strength", f"{name}={value}") and said in shell(capsys, *draw, "--vary", f"{name}={value}")


def test_a_session_of_another_base_is_refused_at_every_door(tab, foreign, tiny, tmp_path, capsys):  # noqa: F811
    said, content = "taught on base `other`", pack(foreign)
    for call in (lambda: tab.call("take_in", tab.upload(content), None, tab.key), lambda: tab.call("merged_file", None, tab.upload(content), None, tab.key)):
        with pytest.raises(RuntimeError, match=said):
            call()
    (tmp_path / "foreign.safetensors").write_bytes(content)
    with pytest.raises(Exception, match=said):
        tab.client.predict(tab.key, handle_file(tmp_path / "foreign.safetensors"), api_name="/import_session")
    assert [c["token"] for c in tab.client.predict(tab.key, api_name="/inspect")["concepts"]] == ["<rex>"]
    foreign.save(tmp_path / "foreign")
    assert teach(tiny, tmp_path / "s") == 0
    assert said in shell(capsys, "merge", "--base", tiny / "base", "--session", tmp_path / "s", "--with", tmp_path / "foreign", "--out", tmp_path / "both")
    assert said in shell(capsys, "import", "--base", tiny / "base", "--session", tmp_path / "new", tmp_path / "foreign")
    assert not (tmp_path / "both").exists() and not (tmp_path / "new").exists()


def test_the_shell_says_when_it_may_not_write_here_or_on_the_hub(tiny, tmp_path, capsys, monkeypatch, hub):  # noqa: F811
    session = ["--base", tiny / "base", "--session", tmp_path / "s"]
    assert teach(tiny, tmp_path / "s") == 0
    (tmp_path / "there").mkdir()
    assert "is there already" in shell(capsys, "export", "patch", *session, "--out", tmp_path / "there")
    monkeypatch.setattr("cns.store.push.get_token", lambda: "hf_reader")
    said = shell(capsys, "push", "patch", *session, "--repo", "me/rex")
    assert "give it the scope to write" in said and "hf_reader" not in said
    taught(load_base(tiny / "base"), cns.Concept("tom", "dog", [picture("gray")])).save(tmp_path / "other")
    monkeypatch.setattr("os.mkdir", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    said = f"`{tmp_path / 'out'}` cannot be written: choose a folder that you may write to"
    assert said in shell(capsys, "export", "patch", *session, "--out", tmp_path / "out")
    assert said in shell(capsys, "merge", *session, "--with", tmp_path / "other", "--out", tmp_path / "out")
    assert said in shell(capsys, "import", *session[:2], "--session", tmp_path / "out", tmp_path / "other")
