"""Exports in model repos: the real client over HTTP against the stand-in of `hub.py`."""

import pytest
from conftest import picture, taught
from hub import running
from huggingface_hub import HfApi, constants
from test_session import assert_same

import cns
from cns.__main__ import main
from cns.store.push import client, push

REPO = "me/rex"


@pytest.fixture(scope="module")
def rex(tiny_base):
    return taught(tiny_base, cns.Concept("rex", "dog", [picture("red")]))


@pytest.fixture
def hub(monkeypatch):
    for name, value in (("HF_HUB_OFFLINE", False), ("HF_HUB_DISABLE_XET", True)):
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        yield hub


def pushed(hub, base, session, folder, kind="lora", token="hf_writer", rank=4):
    about = cns.export(base, session, kind, folder, rank)
    return push(folder, session, about, REPO, api=HfApi(endpoint=hub.url, token=token))


@pytest.mark.parametrize("kind", ["pipeline", "patch", "lora", "session"])
def test_every_kind_of_export_comes_with_a_card_and_samples_and_comes_back(hub, tiny_base, rex, tmp_path, kind):
    assert pushed(hub, tiny_base, rex, tmp_path / "out", kind) == f"{hub.url}/{REPO}"
    tree = hub.head(REPO).tree
    text = tree["README.md"][0].decode()
    assert "`<rex>` (dog)" in text and "![rex](samples/rex.png)" in text and f"{rex.concepts[0].stats['neurons']:,}" in text and "no CLIP" in text
    assert tree["samples/rex.png"][0][:4] == b"\x89PNG" and hub.private[REPO]
    for path, (content, _) in tree.items():
        (tmp_path / "back" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "back" / path).write_bytes(content)
    assert_same(rex, cns.load_export(tmp_path / "back", tiny_base))


def test_a_later_push_takes_the_place_of_the_earlier_but_not_of_what_is_not_ours(hub, tiny_base, rex, tmp_path):
    pushed(hub, tiny_base, rex, tmp_path / "1", "patch")
    pushed(hub, tiny_base, rex, tmp_path / "2", "lora")
    assert "cns.lora.safetensors" in hub.head(REPO).tree and "cns.diff.safetensors" not in hub.head(REPO).tree
    hub.commit(REPO, {"model.safetensors": (b"x", True)}, "mine")
    with pytest.raises(FileExistsError, match="no export of ours: choose a new name"):
        pushed(hub, tiny_base, rex, tmp_path / "3")


@pytest.mark.parametrize(("token", "said"), [("hf_reader", "give it the scope to write there"), ("hf_wrong", "does not accept the token")])
def test_a_token_that_may_not_write_is_told_what_it_needs(hub, tiny_base, rex, tmp_path, token, said):
    with pytest.raises(OSError, match=said) as caught:
        pushed(hub, tiny_base, rex, tmp_path / "out", token=token)
    assert token not in str(caught.value)


def test_the_hubs_errors_and_a_network_that_is_down_are_said(hub, tiny_base, rex, tmp_path):
    hub.fail("POST", "/commit/", 403)
    with pytest.raises(OSError, match="scope"):
        pushed(hub, tiny_base, rex, tmp_path / "1")
    hub.fail("POST", "/repos/create", 418)
    with pytest.raises(OSError, match="error 418"):
        pushed(hub, tiny_base, rex, tmp_path / "2")
    about = cns.export(tiny_base, rex, "session", tmp_path / "3")
    with pytest.raises(OSError, match="the Hub cannot be reached"):
        push(tmp_path / "3", rex, about, REPO, api=HfApi(endpoint="http://127.0.0.1:9", token="hf_writer"))


def test_bad_names_and_a_missing_token_are_refused_before_any_work(monkeypatch, capsys):
    monkeypatch.setattr("cns.store.push.get_token", lambda: None)
    for bad in ("rex", "", "a/b/c", "me/../x", None):
        with pytest.raises(ValueError, match="names no model repo: write `owner/name`"):
            client(bad, "hf_writer")
    assert main(["push", "lora", "--session", "nowhere", "--repo", REPO]) == 2
    err = capsys.readouterr().err
    assert "reads it from `HF_TOKEN`" in err and err.count("\n") == 1


@pytest.mark.parametrize("token", [None, "", "  ", "hf_a b", "hf_\u00e9", "hf_a\nX-Evil: 1"])
def test_without_a_token_that_could_be_one_there_is_no_client_whatever_the_machine_has(monkeypatch, token):
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    with pytest.raises(ValueError, match="needs a token of yours") as caught:
        client(REPO, token)
    assert "hf_" not in str(caught.value)
