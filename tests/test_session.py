import hashlib
import json

import pytest
import torch
from conftest import WORDS, taught, tiny_pipeline
from safetensors.torch import load_file, save

import cns
from cns.base import Base, Card
from cns.session import pack, unpack


@pytest.fixture(scope="module")
def session(tiny_base):
    from conftest import picture

    first = taught(tiny_base, cns.Concept("rex", "dog", [picture("red")]))
    return taught(tiny_base, cns.Concept("tom", "cat face", [picture("gray")]), first)


def assert_same(a, b):
    assert (a.base_id, a.base_revision, a.tokens) == (b.base_id, b.base_revision, b.tokens)
    for x, y in ((a.delta.indices, b.delta.indices), (a.delta.values, b.delta.values), (a.general, b.general)):
        assert x.keys() == y.keys() and all(torch.equal(x[n], y[n]) for n in x)
    for c, d in zip(a.concepts, b.concepts):
        assert (c.name, c.class_word, c.stats) == (d.name, d.class_word, d.stats)
        assert torch.equal(c.vector, d.vector) and c.picture.tobytes() == d.picture.tobytes()
        for x, y in ((c.mask, d.mask), (c.shared, d.shared), (c.rms, d.rms)):
            assert x.keys() == y.keys() and all(torch.equal(x[n], y[n]) for n in x)


def test_a_round_trip_to_disk_is_bit_exact(session, tiny_base, tmp_path):
    session.save(tmp_path)
    assert_same(session, cns.Session.load(tmp_path, tiny_base))
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".safetensors"]


def test_a_session_of_before_the_scores_were_kept_still_opens(session, tiny_base, tmp_path):
    session.save(tmp_path)
    _damage(tmp_path, lambda _, tensors: [tensors.pop(k) for k in [*tensors] if "/rms/" in k])
    assert [c.rms for c in cns.Session.load(tmp_path, tiny_base).concepts] == [{}, {}]


def test_saving_again_leaves_one_tensor_file(session, tiny_base, tmp_path):
    cns.Session.new(tiny_base).save(tmp_path)
    session.save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert_same(session, cns.Session.load(tmp_path, tiny_base))


def test_the_delta_covers_the_union_of_the_masks(session):
    for name, index in session.delta.indices.items():
        assert torch.equal(index, torch.cat([c.mask[name] for c in session.concepts]).unique())


def test_a_session_of_another_base_is_refused_by_name(session, tmp_path):
    session.save(tmp_path)
    other = Base(tiny_pipeline(), Card("other", 32))
    with pytest.raises(ValueError, match="base `tiny`.*not on `other`"):
        cns.Session.load(tmp_path, other)
    pipe = tiny_pipeline()
    pipe.unet.state_dict()["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"][0, 0] += 1
    with pytest.raises(ValueError, match="revision"):
        cns.Session.load(tmp_path, Base(pipe, Card("tiny", 32)))


def test_no_session_in_a_folder_is_said(tiny_base, tmp_path):
    with pytest.raises(FileNotFoundError, match="no session in"):
        cns.Session.load(tmp_path, tiny_base)


def _damage(folder, change):
    about = json.loads((folder / "session.json").read_text())
    tensors = load_file(folder / about["tensors"])
    change(about, tensors)
    (folder / about["tensors"]).unlink()
    content = save(tensors)
    about["tensors"] = f"session-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    (folder / about["tensors"]).write_bytes(content)
    (folder / "session.json").write_text(json.dumps(about))


def _first(tensors, end):
    return next(k for k in tensors if k.startswith("delta/") and k.endswith(end))


def _shared(tensors):
    return next(k for k in tensors if "/shared/" in k)


def _rms(tensors):
    return next(k for k in tensors if "/rms/" in k)


DAMAGES = {
    "index out of bounds": lambda a, t: t[_first(t, "index")].__setitem__(-1, 10**6),
    "index negative": lambda a, t: t[_first(t, "index")].__setitem__(0, -1),
    "index not rising": lambda a, t: t[_first(t, "index")].__setitem__(1, int(t[_first(t, "index")][0])),
    "value not finite": lambda a, t: t[_first(t, "value")].__setitem__(0, float("nan")),
    "values of another length": lambda a, t: t.__setitem__(_first(t, "value"), t[_first(t, "value")][:-1].clone()),
    "unknown weight": lambda a, t: t.update({"delta/zzz/index": torch.zeros(1), "delta/zzz/value": torch.zeros(1)}),
    "embedding of another size": lambda a, t: t.__setitem__("concept/0/vector", torch.zeros(3)),
    "embedding missing": lambda a, t: t.pop("concept/1/vector"),
    "picture is no PNG": lambda a, t: t.__setitem__("concept/0/picture", torch.zeros(9, dtype=torch.uint8)),
    "mask of another length": lambda a, t: t.__setitem__(next(k for k in t if "/mask/" in k), torch.zeros(99, dtype=torch.uint8)),
    "increments of another length": lambda a, t: t.__setitem__(_shared(t), t[_shared(t)][:-1].clone()),
    "increments not finite": lambda a, t: t[_shared(t)].__setitem__(0, float("inf")),
    "increments that do not add up": lambda a, t: t[_shared(t)].add_(1),
    "increments missing": lambda a, t: t.pop(_shared(t)),
    "what it was selected by is negative": lambda a, t: t[_rms(t)].__setitem__(0, -1.0),
    "what it was selected by is of another size": lambda a, t: t.__setitem__(_rms(t), t[_rms(t)][:-1].clone()),
    "what it was selected by lacks a layer": lambda a, t: t.pop(_rms(t)),
    "a gradient for one weight only": lambda a, t: t.__setitem__(_rms(t).split("rms")[0] + "gradient/" + _first(t, "index")[6:-6], torch.ones(32)),
    "settings that are none": lambda a, t: a["concepts"][0]["stats"].__setitem__("settings", [1]),
    "a share that is no number": lambda a, t: a["concepts"][0]["stats"]["settings"].__setitem__("base_share", "<b>"),
    "a share of more than all": lambda a, t: a["concepts"][0]["stats"]["settings"].__setitem__("general_share", 2),
    "concepts are no list": lambda a, t: a.__setitem__("concepts", 7),
    "no base": lambda a, t: a.pop("base"),
    "another tensor file": lambda a, t: None,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_session_is_refused_with_the_folders_name(session, tiny_base, tmp_path, damage):
    session.save(tmp_path)
    _damage(tmp_path, DAMAGES[damage])
    if damage == "another tensor file":
        next(tmp_path.glob("*.safetensors")).write_bytes(b"not safetensors")
    with pytest.raises(ValueError, match="damaged"):
        cns.Session.load(tmp_path, tiny_base)


def test_a_session_of_another_format_is_refused_by_its_number(session, tiny_base, tmp_path):
    session.save(tmp_path)
    _damage(tmp_path, lambda about, _: about.update(version=1))
    with pytest.raises(ValueError, match="has format 1, this program reads 2"):
        cns.Session.load(tmp_path, tiny_base)


def test_a_truncated_json_is_refused(session, tiny_base, tmp_path):
    session.save(tmp_path)
    text = (tmp_path / "session.json").read_text()
    (tmp_path / "session.json").write_text(text[: len(text) // 2])
    with pytest.raises(ValueError, match="damaged"):
        cns.Session.load(tmp_path, tiny_base)


def test_a_failed_save_keeps_the_older_session(session, tiny_base, tmp_path, monkeypatch):
    cns.Session.new(tiny_base).save(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        session.save(tmp_path)
    monkeypatch.undo()
    assert cns.Session.load(tmp_path, tiny_base).tokens == ()
    assert not list(tmp_path.glob("*.part"))


def test_summary_is_json_and_counts_what_changed(session, tiny_base):
    summary = json.loads(json.dumps(session.summary(tiny_base)))
    assert summary["changed_weights"] == sum(len(i) for i in session.delta.indices.values())
    assert [c["token"] for c in summary["concepts"]] == ["<rex>", "<tom>"]


def test_pack_and_unpack_are_inverse():
    mask = torch.rand(13) > 0.5
    assert torch.equal(unpack(pack(mask), 13), mask)
    with pytest.raises(ValueError, match="bytes"):
        unpack(pack(mask), 25)


def test_the_words_of_the_tiny_base_are_whole(tiny_base):
    assert all(len(tiny_base.pipe.tokenizer.tokenize(w)) == 1 for w in WORDS)
