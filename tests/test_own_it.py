"""The "Own it" part of the running app: what is changed there is saved, in the history, and can be undone."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import picture, taught, tiny_tokenizer
from gradio_client import Client
from test_keeping import Visitor, app  # noqa: F401  fixtures
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

import cns
from cns.export import export
from cns.scores import Scorer
from cns.store import pack


@pytest.fixture(scope="module")
def both(tiny_base, rex):
    return taught(tiny_base, cns.Concept("tom", "cat face", [picture("gray")]), rex)


@pytest.fixture
def tab(app, both):  # noqa: F811
    """A page whose session is `both`, and its key."""
    tab = Visitor(app)
    tab.key = tab.call("resume", "")[2]
    tab.call("take_in", tab.upload(pack(both)), None, tab.key)
    tab.call("refresh", None, None, "block")  # as the page does when what is known has changed
    return tab


def whats(tab):
    """What the history says was done, the newest first."""
    return [words.split(": ")[1] for words, _ in tab.call("show", tab.key, None)[2]["choices"]]


def test_renaming_and_forgetting_are_saved_and_can_be_undone(app, tab):  # noqa: F811
    out = tab.call("renamed", None, "rex", " Max ", None, tab.key)
    assert "&lt;max&gt; dog" in out[4] and out[5] is None  # states stay on the server
    assert whats(tab) == ["rename max", "upload"]
    tab.call("refresh", None, None, "block")
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
        tab.call("refresh", None, None, "block")
        lost, *out = tab.call("merged_file", None, tab.upload(content), None, tab.key)
        assert "&lt;hut&gt; added" in lost and all(f"<b>&lt;{n}&gt;</b>" in lost for n in ("rex", "tom", "hut"))
        assert "&lt;hut&gt; house" in out[2] and whats(tab)[0] == "merge"
        with pytest.raises(RuntimeError, match="oth sessions have a"):
            tab.call("merged_file", None, tab.upload(content), None, tab.key)
        tab.call("take_back", None, tab.key)
    neighbour = Visitor(app)
    key = neighbour.call("resume", "")[2]
    neighbour.call("take_in", neighbour.upload(pack(hut)), None, key)
    tab.call("refresh", None, None, "block")
    assert "&lt;hut&gt; added" in tab.call("merged", None, key, None, tab.key)[1]


@pytest.mark.parametrize(("do", "given", "said"), [("reordered", "rex", "does not name every concept once"), ("merged", "0" * 32, "o session was found"), ("merged", " ", "o session was found")])
def test_a_bad_order_or_source_changes_nothing(tab, do, given, said):
    with pytest.raises(RuntimeError, match=said):
        tab.call(do, None, given, None, tab.key)
    assert whats(tab) == ["upload"]


def tiny_clip():
    """A CLIP of random weights."""
    torch.manual_seed(0)
    tok, small = tiny_tokenizer(), {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    words = {**small, "vocab_size": len(tok), "max_position_embeddings": 16, "bos_token_id": tok.bos_token_id, "eos_token_id": tok.eos_token_id}
    clip = CLIPModel(CLIPConfig(text_config=words, vision_config={**small, "image_size": 32, "patch_size": 8}, projection_dim=8))
    return Scorer(clip, tok, CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}))


def test_forgetting_and_merging_show_the_clip_i_of_the_others_before_and_after(tab, tiny_base, monkeypatch):
    monkeypatch.setattr(tiny_base, "scorer", tiny_clip())
    first = taught(tiny_base, cns.Concept("rex", "dog", [picture("red")]))
    session = taught(tiny_base, cns.Concept("tom", "cat face", [picture("gray")]), first)
    tab.call("take_in", tab.upload(pack(session)), None, tab.key)
    tab.call("refresh", None, None, "block")
    page = tab.call("forgotten", None, "rex", None, tab.key)[0]
    tom, settings = session.concept("tom"), cns.GenerateSettings(seed=session.concept("tom").stats["seed"])
    scores = [tiny_base.scorer.clip_i(cns.generate(tiny_base, "a <tom> cat face", s, settings), tom.features) for s in (session, cns.forget(session, "rex"))]
    assert re.findall(r"<figcaption>(before|after) CLIP-I (-?[0-9.]+)", page) == [("before", f"{scores[0]:.3f}"), ("after", f"{scores[1]:.3f}")]
    tab.call("refresh", None, None, "block")
    page = tab.call("merged_file", None, tab.upload(pack(first)), None, tab.key)[0]
    assert len(re.findall(r"<figcaption>(?:before|after) CLIP-I", page)) == 4 and "of them in both sessions" in page
    program = Client(tab.url.removesuffix("/gradio_api"), verbose=False)
    tab.call("take_in", tab.upload(pack(session)), None, tab.key)
    lost = program.predict(tab.key, "rex", api_name="/forget")["lost"]
    assert [(c["token"], c["clip_i_before"], c["clip_i_after"]) for c in lost] == [("<tom>", *map(pytest.approx, scores))]
