"""What a version's name says, what the local store promises beside its versions, and the limits of the files that are taken in."""

from datetime import datetime, timedelta

import pytest

import cns
from cns import files
from cns.store import LocalStore, State, Version, archive, pack, unpack
from cns.store.local import KEEP, STALE
from cns.store.versions import EMPTY, UTC, content_of, is_key, origins, stamp

KEY, OTHER = "0123456789abcdef" * 2, "f" * 32
NAME = "20261124T192142123Z-00000000000000aa-00000000000000bb-teach-rex.safetensors"


def test_a_name_says_when_what_and_from_what():
    version = Version(NAME)
    assert (version.content, version.before, version.verb, version.what) == ("00000000000000aa", "00000000000000bb", "teach", "teach rex")
    assert version.when == datetime(2026, 11, 24, 19, 21, 42, 123_000, UTC) and stamp(version.when) == "20261124T192142123Z"
    assert Version(NAME.replace("-rex", "-")).what == "teach"


@pytest.mark.parametrize("bad", ["", "x", f"../{NAME}", f"{NAME}\n", NAME.replace("aa-", "aA-"), NAME.replace("rex", "r" * 41), NAME.replace("teach", ""), NAME[1:], NAME.replace("123Z", "12Z")])
def test_another_name_is_none(bad):
    with pytest.raises(ValueError, match="is no version of a session: choose one from its history"):
        Version(bad)


def test_a_new_version_is_of_now_or_a_millisecond_after_the_one_before():
    began = datetime.now(UTC) - timedelta(milliseconds=1)
    now = Version.of("a" * 16, EMPTY, "teach", "rex", Version(NAME.replace("2026", "2001")))
    assert began <= now.when <= datetime.now(UTC) and now.what == "teach rex" and now.content == "a" * 16 and now.before == EMPTY
    ahead = Version(NAME.replace("2026", "2999"))
    after = Version.of("a" * 16, EMPTY, "teach", "rex", ahead)
    assert after.when - ahead.when == timedelta(milliseconds=1) and sorted([after, ahead]) == [ahead, after]


def history(*changes: str) -> list[Version]:
    """Versions from such as "teach a>b", a second apart."""
    out = []
    for i, change in enumerate(changes):
        verb, (before, content) = change.split()[0], change.split()[1].split(">")
        out.append(Version(f"202611241921{i:02d}000".replace("20261124", "20261124T") + f"Z-{content * 16}-{before * 16}-{verb}-.safetensors"))
    return out


def test_each_change_adds_where_it_came_from_and_each_undo_takes_one_off():
    came = {c[0]: [b[0] for b in before] for c, before in origins(history("teach 0>a", "teach a>b", "keep b>b", "teach b>c")).items()}
    assert came == {"a": ["0"], "b": ["0", "a"], "c": ["0", "a", "b"]}
    came = origins(history("teach 0>a", "teach a>b", "undo b>a", "back a>b"))
    assert came["a" * 16] == ["0" * 16] and came["b" * 16] == ["0" * 16, "a" * 16]


def test_a_session_that_knows_nothing_has_no_content(rex, tiny_base):
    assert content_of(None) == content_of(cns.Session.new(tiny_base)) == EMPTY == "0" * 16
    assert content_of(rex) == archive.digest(rex)[:16]


def test_a_key_is_128_bits_in_hex():
    assert is_key(KEY) and not any(map(is_key, (KEY[1:], KEY + "0", KEY.upper(), f"{KEY}\n", "g" * 32, None, 7)))


def test_what_was_undone_too_long_ago_is_said(rex, tom, tiny_base, tmp_path):
    store = LocalStore(tmp_path, keep=1)
    store.save(KEY, rex)
    store.save(KEY, tom, before=rex)
    with pytest.raises(ValueError, match="before the last change is no longer kept: there is nothing to undo"):
        store.undo(KEY, tom, tiny_base)


def test_saving_says_what_it_was_told_or_that_it_was_a_teaching(rex, tom, tmp_path):
    store = LocalStore(tmp_path)
    assert store.save(KEY, rex).what == "teach" and store.save(KEY, tom, "merge", "tom", rex).what == "merge tom"
    assert [v.verb for v in store.history(KEY)] == ["merge", "teach"] and store.keep == KEEP


def test_the_versions_that_stay_are_the_newest(rex, tom, tmp_path):
    store = LocalStore(tmp_path, keep=2)
    saved = [store.save(KEY, s, "teach", f"n{i}").name for i, s in enumerate((rex, tom, rex, tom))]
    assert [v.name for v in store.history(KEY)] == saved[:1:-1]


def test_the_stores_secret_is_its_own_and_stays(tmp_path):
    secret = LocalStore(tmp_path / "one").secret()
    assert len(secret) == 32 and int(secret, 16) >= 0
    assert LocalStore(tmp_path / "one").secret() == secret != LocalStore(tmp_path / "two").secret()


def test_it_says_where_sessions_are_and_how_they_are_kept(rex, tmp_path):
    store = LocalStore(tmp_path)
    assert store.place == "on the computer that runs this app" and store.state(KEY) == State("", "", "")
    store.save(KEY, rex)
    assert store.state(KEY) == State("saved", "", "") and store.retry() is store.close() is None


def test_only_unfinished_files_that_nobody_writes_any_more_are_swept(rex, tmp_path):
    import os
    import time

    store, now = LocalStore(tmp_path), time.time()
    store.save(KEY, rex)
    for name, age in (("young.part", STALE - 60), ("old.part", STALE + 60), ("old.other", STALE + 60)):
        files.write(store.path(KEY) / name, b"half")
        os.utime(store.path(KEY) / name, (now - age, now - age))
    store.keep_draft(KEY, cns.store.Draft([], {}))
    assert (store.path(KEY) / "old.part").exists()  # a draft lies elsewhere
    store.delete(OTHER)
    store.save(KEY, rex)
    assert sorted(p.suffix for p in store.path(KEY).iterdir()) == [".other", ".part", ".safetensors", ".safetensors"] and (store.path(KEY) / "young.part").exists()


def test_a_file_is_refused_for_its_size_before_it_is_read(rex, tiny_base, monkeypatch):
    content = pack(rex)
    monkeypatch.setattr(archive, "MAX_BYTES", len(content))
    assert unpack(content, tiny_base).tokens == ("<rex>",)
    monkeypatch.setattr(archive, "load_tensors", lambda _: pytest.fail("it was read"))
    with pytest.raises(ValueError, match=r"^the session file is damaged or no session \(it has 3 MB, at most 1 are read\): take another copy of it$"):
        monkeypatch.setattr(archive, "MAX_BYTES", 2**20)
        unpack(b"\0" * (3 * 2**20), tiny_base)
    monkeypatch.setattr(archive, "MAX_HEADER", int.from_bytes(content[:8], "little") - 1)
    monkeypatch.setattr(archive, "MAX_BYTES", len(content))
    with pytest.raises(ValueError, match="it is no safetensors file, or cut off"):
        unpack(content, tiny_base)
    assert (archive.MAX_BYTES, archive.MAX_HEADER) != (200 * 2**20, 16 * 2**20)
    monkeypatch.undo()
    assert (archive.MAX_BYTES, archive.MAX_HEADER) == (200 * 2**20, 16 * 2**20)


def test_a_digest_is_of_every_number_name_and_pixel(rex, tom):
    from dataclasses import replace

    c = rex.concepts[0]
    name = next(iter(rex.delta.values))
    others = [
        replace(rex, concepts=(replace(c, vector=c.vector + 1e-6),)), replace(rex, concepts=(replace(c, picture=c.picture.transpose(0)),)),
        replace(rex, concepts=(replace(c, picture=c.picture.resize((8, 8))),)), replace(rex, concepts=(replace(c, class_word="cat"),)), tom,
        replace(rex, delta=replace(rex.delta, values={**rex.delta.values, name: -rex.delta.values[name]})),
    ]  # fmt: skip
    assert len({archive.digest(s) for s in (rex, *others)}) == 7 and len(archive.digest(rex)) == 64
