"""Exports in model repos: the real client over HTTP against the stand-in of `hub.py`."""

from dataclasses import replace

import pytest
from hub import running
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import RepositoryNotFoundError
from test_hub_writer import refused
from test_session import assert_same

import cns
from cns.__main__ import main
from cns.store.push import HOW, card, client, own_token, push, pushing

REPO = "me/rex"


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


def exported(base, session, folder):
    """The files of a whole pipeline."""
    cns.export(base, session, "pipeline", folder)
    return [f for f in folder.rglob("*") if f.is_file()]


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
    hub.repos.clear()
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


@pytest.mark.parametrize("token", [None, "", "  ", "hf_a b", "hf_\u00e9", "hf_a\nX-Evil: 1", "hf_" + "a" * 8190])
def test_without_a_token_that_could_be_one_there_is_no_client_whatever_the_machine_has(monkeypatch, token):
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    with pytest.raises(ValueError, match="needs a token of yours") as caught:
        client(REPO, token)
    assert "hf_" not in str(caught.value)


WHOLE = """---
library_name: diffusers
pipeline_tag: text-to-image
tags: [text-to-image, concept-neurons, lora]
---

# things

What CNS Studio (Concept Neuron Selection) taught to `tiny` (revision abc): `<rex>` (dog), `<tom>` (cat face). `cns.lora.safetensors` is a LoRA of rank 4 for A1111 and ComfyUI with a relative error of 12.3%; the other files are the embeddings of the tokens: in a prompt, A1111 calls one by its file's name, ComfyUI by `embedding:` and that name.

| | prompt | neurons | of the model | CLIP-I before | CLIP-I |
|---|---|---|---|---|---|
| ![rex](samples/rex.png) | `a <rex> dog` | 12,345 | 0.40% | no CLIP | 0.512 |
| ![tom](samples/tom.png) | `a <tom> cat face` | 7 | 1.50% | 0.000 | 0.700 |

CLIP-I is the mean cosine of the CLIP embeddings of drawn pictures and of those that it was taught from, before and after. The pictures
show what the model drew when each concept was just taught. `cns-session` holds the session itself: `python -m cns import` takes it in
bit for bit.
"""


def test_the_card_says_what_was_taught_how_to_use_it_and_how_well_it_does(rex):
    c, about = rex.concepts[0], {"base": "tiny", "revision": "abc", "kind": "lora", "rank": 4, "relative_error": 0.1234}
    rex_stats = {"prompt": "a <rex> dog", "neurons": 12345, "share_of_model": 0.00402, "clip_i_before": None, "clip_i": 0.51234}
    tom_stats = {"prompt": "a <tom> cat face", "neurons": 7, "share_of_model": 0.015, "clip_i_before": 0.0, "clip_i": 0.7}
    both = replace(rex, concepts=(replace(c, stats=rex_stats), replace(c, name="tom", class_word="cat face", stats=tom_stats)))
    assert card(both, about, "me/things") == WHOLE
    for kind in ("pipeline", "patch", "session"):
        text = card(rex, {**about, "kind": kind}, "me/things")
        assert HOW[kind] in text and ", lora" not in text


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (refused(403), "the token may not write to the model repo `me/rex`: give it the scope to write there (a fine-grained token: write access to contents of repos)"),
        (refused(401), "the Hub does not accept the token: give one that is valid and may write"),
        (refused(404), "the model repo `me/rex` is not there, or the token may not see it: check its name"),
        (refused(401, RepositoryNotFoundError), "the model repo `me/rex` is not there, or the token may not see it: check its name"),
        (refused(502), "the Hub answers with error 502: push again later"),
        (refused(None), "the Hub answers with error 0: push again later"),
    ],
)
def test_what_the_hub_refuses_is_said_in_one_sentence(error, said, rex, tmp_path):
    class Api:
        def repo_exists(self, repo):
            raise error

    tmp_path.joinpath("out").mkdir()
    with pytest.raises(OSError) as caught:
        push(tmp_path / "out", rex, {"base": "tiny", "revision": "abc", "kind": "session"}, "me/rex", Api())
    assert str(caught.value) == said


@pytest.mark.parametrize("private", [True, False])
def test_what_is_pushed_is_one_commit_on_what_was_seen_private_unless_asked(hub, tiny_base, rex, tmp_path, private):
    about = cns.export(tiny_base, rex, "session", tmp_path / "out")
    push(tmp_path / "out", rex, about, REPO, HfApi(endpoint=hub.url, token="hf_writer"), private)
    assert [c.title for c in hub.repos[REPO]] == ["initial commit", "Add <rex>"] and hub.private[REPO] == private
    assert {*hub.head(REPO).tree} == {".gitattributes", "README.md", "samples/rex.png", "cns-export.json", *about["files"]}


def dropped(hub, base, session, folder, after: int, meanwhile=lambda: None):
    """A push that is dropped after so many large files."""
    about = cns.export(base, session, "pipeline", folder)
    parts = pushing(folder, session, about, REPO, HfApi(endpoint=hub.url, token="hf_writer"))
    shares = [next(parts) for _ in range(after)]
    assert shares == sorted(shares) and 0 < shares[0] < shares[-1] == 1.0 and hub.counts["lfs"] > 1
    meanwhile()
    parts.close()


def test_a_push_that_is_stopped_before_its_commit_leaves_nothing(hub, tiny_base, rex, tmp_path, monkeypatch):
    monkeypatch.setattr("cns.store.push.LARGE", 5000)
    large = sum(f.stat().st_size >= 5000 for f in exported(tiny_base, rex, tmp_path / "0"))
    dropped(hub, tiny_base, rex, tmp_path / "1", large)
    assert hub.repos == {}
    pushed(hub, tiny_base, rex, tmp_path / "2")
    there = hub.head(REPO)
    dropped(hub, tiny_base, rex, tmp_path / "3", large)
    assert hub.head(REPO) is there and len(hub.repos[REPO]) == 2  # a repo that was there is as it was


def test_a_new_repo_that_somebody_else_wrote_to_or_that_cannot_be_deleted_stays_when_a_push_is_stopped(hub, tiny_base, rex, tmp_path, monkeypatch):
    monkeypatch.setattr("cns.store.push.LARGE", 5000)
    large = sum(f.stat().st_size >= 5000 for f in exported(tiny_base, rex, tmp_path / "0"))
    dropped(hub, tiny_base, rex, tmp_path / "1", large, lambda: hub.commit(REPO, {"mine": (b"x", False)}, "mine"))
    assert "mine" in hub.head(REPO).tree
    hub.repos.clear()
    hub.fail("DELETE", "/repos/delete", 403)
    with pytest.raises(OSError, match="the new model repo `me/rex` is still there, empty: delete it on the Hub"):
        dropped(hub, tiny_base, rex, tmp_path / "2", large)


def test_a_client_acts_with_the_token_that_was_shown(monkeypatch):
    monkeypatch.setattr("cns.store.push.get_token", lambda: "hf_owner")
    assert client(REPO, " hf_writer\n").token == "hf_writer" and own_token() == "hf_owner"
