"""What the running app lets a visitor carry away, as a file or to a model repo of his own; and what it takes in again."""

import secrets
import shutil
import zipfile
from pathlib import Path

import gradio as gr
import pytest
from gradio_client import Client, handle_file
from test_keeping import Visitor, app  # noqa: F401  fixtures
from test_push import hub  # noqa: F401  a fixture
from test_session import assert_same

from cns.export import KINDS
from cns.store import pack, unpack
from cns.ui import carrying, gpu, temp

REPO = "me/rex"
OWNERS = "hf_writer"  # what the app's own machine is signed in with


@pytest.fixture
def tab(app, rex, monkeypatch):  # noqa: F811
    """A page whose session is `rex`, and its key, in an app whose owner's token may write."""
    monkeypatch.setenv("HF_TOKEN", OWNERS)
    tab = Visitor(app)
    tab.key = tab.call("resume", "")[2]
    tab.call("take_in", tab.upload(pack(rex)), None, tab.key)
    return tab


def test_the_page_offers_what_can_be_exported():
    assert sorted(carrying.KINDS.values()) == sorted(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_made_on_the_page_and_taken_in_again(app, tab, rex, tiny_base, kind):  # noqa: F811
    *_, file, said = tab.call("made", None, kind, 2, None)
    content = Path(file["value"]["path"]).read_bytes()
    assert ("relative error" in said) == (kind == "lora") and file["label"] == f"Download cns-{kind}.zip"
    assert_same(rex, unpack(content, tiny_base))
    assert ("model_index.json" in zipfile.ZipFile(file["value"]["path"]).namelist()) == (kind == "pipeline")
    other = Visitor(app)
    key = other.call("resume", "")[2]
    assert "&lt;rex&gt; dog" in other.call("take_in", other.upload(content), None, key)[2]


def test_a_pipeline_that_is_too_large_is_not_sent_and_the_way_out_is_said(tab, monkeypatch):
    monkeypatch.setattr(carrying, "MAX_SENT", 1000)
    with pytest.raises(RuntimeError, match="too large to be sent: push it to a model repo, or make it with `python -m cns export pipeline`"):
        tab.call("made", None, "pipeline", 16, None)


@pytest.mark.parametrize(("kind", "rank", "said"), [("lora", 0, "less than minimum value 1"), ("lora", 999, "`rank` is 999"), ("onnx", 1, "not in the list of choices")])
def test_what_cannot_be_exported_is_said(tab, kind, rank, said):
    with pytest.raises(RuntimeError, match=said):
        tab.call("made", None, kind, rank, None)
    other = Visitor(tab.demo)
    other.call("resume", "")
    with pytest.raises(RuntimeError, match="nothing to export"):
        other.call("made", None, "lora", 2, None)


@pytest.mark.parametrize("kind", ["lora", "pipeline"])
def test_a_push_acts_with_the_visitors_token_alone(tab, hub, kind):  # noqa: F811
    hub.create("me/other")
    assert f"{hub.url}/{REPO}" in tab.call("pushed", None, kind, 2, f" {REPO} ", " hf_writer ", False, None)[2]
    assert hub.private[REPO] and "README.md" in hub.head(REPO).tree and hub.tokens == {"hf_writer"}


@pytest.mark.parametrize(
    ("token", "asked_with", "said"),
    [("hf_reader", {"hf_reader"}, "give it the scope to write"), ("hf_wrong", {"hf_wrong"}, "does not accept the token"), ("", set(), "needs a token of yours"), (None, set(), "needs a token of yours")],
)  # fmt: skip
def test_the_apps_own_token_never_stands_in_for_a_visitors(tab, hub, token, asked_with, said):  # noqa: F811
    with pytest.raises(RuntimeError, match=said) as caught:
        tab.call("pushed", None, "lora", 2, REPO, token, True, None)
    assert hub.tokens == asked_with and REPO not in hub.repos and "hf_" not in str(caught.value)


@pytest.fixture
def desk(tiny_base, tmp_path, monkeypatch):
    """What the controls do, and their components; what it writes lies under `tmp_path`."""
    gpu.use(tiny_base)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(temp, "ROOT", tmp_path)
    with gr.Blocks():
        page = carrying.Layout()
    return carrying.Desk(tiny_base, page)


def run_until(updates, line, times, stop=lambda: None) -> list[dict]:
    """All updates of the page; after so many of the bar it is stopped."""
    seen = []
    for update in updates:
        seen.append(update)
        if sum("cns-bar" in u.get(line, "") for u in seen) == times:
            stop()
    return seen


@pytest.mark.parametrize("kind", ["lora", "pipeline"])
def test_a_file_that_is_being_made_says_how_far_it_is_and_can_be_stopped_and_leaves_nothing(desk, rex, tmp_path, kind):
    page, run = desk.page, secrets.token_hex(16)
    seen = run_until(desk.made(rex, kind, 2, run), page.making, 0)
    bars = [u[page.making] for u in seen if "cns-bar" in u.get(page.making, "")]
    assert "Making the file" in bars[1] and "Packing it" in bars[-1] and "width:100%" in bars[-1] and len(bars) > 6
    assert [f.name for f in tmp_path.rglob("*") if f.is_file()] == [f"cns-{kind}.zip"] and seen[-1][page.file]["visible"]
    shutil.rmtree(next(tmp_path.iterdir()))
    for at in range(1, len(bars) + 1):
        seen = run_until(desk.made(rex, kind, 2, run), page.making, at, lambda: carrying.stopping("export", run))
        assert sum("cns-bar" in u.get(page.making, "") for u in seen) == at  # nothing is done after the stop
        assert "Stopped: no file was made" in seen[-1][page.making] and not any(u.get(page.file, {}).get("visible") for u in seen)
        assert seen[-2][page.make]["visible"] and not seen[-2][page.stop_making]["visible"] and not [*tmp_path.iterdir()]


def test_a_push_can_be_stopped_until_it_is_uploaded_and_leaves_nothing(desk, rex, tmp_path, hub, monkeypatch):  # noqa: F811
    monkeypatch.setattr("cns.store.push.LARGE", 5000)
    page, run = desk.page, secrets.token_hex(16)
    seen = run_until(desk.pushed(rex, "pipeline", 2, REPO, "hf_writer", False, run), page.sending, 0)
    bars = [u[page.sending] for u in seen if "cns-bar" in u.get(page.sending, "")]
    assert "Making the export" in bars[1] and "Uploading" in bars[-1] and REPO in hub.repos and f">{REPO}<" in seen[-1][page.sending]
    hub.repos.clear()
    for at in range(1, len(bars) + 1):
        seen = run_until(desk.pushed(rex, "pipeline", 2, REPO, "hf_writer", False, run), page.sending, at, lambda: carrying.stopping("push", run))
        assert "Stopped: nothing was pushed" in seen[-1][page.sending] and seen[-2][page.send]["visible"] and not seen[-2][page.stop_sending]["visible"]
        assert hub.repos == {} and not [*tmp_path.iterdir()]


def test_programs_export_import_and_push(tab, hub, rex, tiny_base):  # noqa: F811
    client = Client(tab.url.removesuffix("/gradio_api"), verbose=False)
    for kind in KINDS:
        file = client.predict(tab.key, kind, 2, api_name="/export")
        file = file["path"] if isinstance(file, dict) else file
        assert_same(rex, unpack(Path(file).read_bytes(), tiny_base))
        again = client.predict(client.predict(api_name="/new_session"), handle_file(file), api_name="/import_session")
        assert [c["token"] for c in again["concepts"]] == ["<rex>"]
    for token, said in (("hf_reader", "give it the scope to write"), ("", "needs a token of yours")):
        with pytest.raises(Exception, match=said):
            client.predict(tab.key, REPO, token, api_name="/push")
    assert hub.tokens == {"hf_reader"} and REPO not in hub.repos
    about = client.predict(tab.key, REPO, "hf_writer", "lora", 2, True, api_name="/push")
    assert about["url"] == f"{hub.url}/{REPO}" and about["relative_error"] > 0 and not hub.private[REPO]
