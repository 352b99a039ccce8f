"""Sessions on disk: versions, keys, undo, deletion, drafts, archives, and files that are not what they say."""

import copy
import errno
import io
import json
import os
import random
import threading
import zipfile

import pytest
import torch
from conftest import picture, taught
from PIL import Image
from safetensors.torch import save as save_tensors
from test_session import assert_same

import cns
from cns import figures, inspection, trust
from cns.parts import whole
from cns.selection import calibration_rms
from cns.store import Draft, LocalStore, State, Version, archive, open_store, pack, unpack
from cns.store.versions import Owned, conflicts, folder_name, owner_folder
from cns.ui import html
from cns.ui.keeping import received

KEY, OTHER = "0123456789abcdef" * 2, "f" * 32


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path)


def test_what_is_saved_comes_back_bit_for_bit_and_only_under_its_key(store, rex, tiny_base, tmp_path):
    store.save(KEY, rex, "teach", "rex")
    assert_same(rex, store.load(KEY, tiny_base))
    assert store.load(OTHER, tiny_base) is None
    assert not [p for p in tmp_path.rglob("*") if KEY in p.name]
    assert store.state(KEY).kind == "saved" and store.state(OTHER) == State("", "")


@pytest.mark.parametrize("key", ["", "../x", "0" * 31, "G" * 32, None, KEY + "0", KEY.upper(), "\ud800" * 32])
def test_a_key_that_is_none_gets_nothing_and_cannot_be_written_to(store, rex, tiny_base, key):
    store.save(KEY, rex)
    assert store.load(key, tiny_base) is None and store.history(key) == [] and store.draft(key) is None
    for write in (lambda: store.save(key, rex), lambda: store.delete(key), lambda: store.keep_draft(key, Draft([], {}))):
        with pytest.raises(ValueError, match="session key"):
            write()


def test_the_history_says_when_and_what_and_any_version_comes_back_as_a_new_one(store, rex, tom, tiny_base):
    first = store.save(KEY, rex, "teach", "rex")
    store.save(KEY, tom, "teach", "tom", before=rex)
    assert [v.what for v in store.history(KEY)] == ["teach tom", "teach rex"]
    assert_same(rex, store.bring_back(KEY, first.name, tom, tiny_base))
    assert [v.what for v in store.history(KEY)] == ["back", "teach tom", "teach rex"]
    assert_same(rex, store.load(KEY, tiny_base))
    with pytest.raises(ValueError, match="no longer kept"):
        store.load(KEY, tiny_base, "../../etc/passwd")


def test_undo_takes_back_one_teaching_after_another_and_then_says_that_there_is_none(store, rex, tom, tiny_base):
    store.save(KEY, rex, "teach", "rex")
    store.save(KEY, tom, "teach", "tom", before=rex)
    assert_same(rex, one := store.undo(KEY, tom, tiny_base))
    empty = store.undo(KEY, one, tiny_base)
    assert empty.concepts == () and store.load(KEY, tiny_base).concepts == ()
    assert len(store.history(KEY)) == 4
    with pytest.raises(ValueError, match="nothing to undo"):
        store.undo(KEY, empty, tiny_base)


def test_undo_after_bringing_back_goes_on_from_what_was_brought_back(store, rex, tom, tiny_base):
    first = store.save(KEY, rex, "teach", "rex")
    store.save(KEY, tom, "teach", "tom", before=rex)
    back = store.bring_back(KEY, first.name, tom, tiny_base)
    assert store.undo(KEY, back, tiny_base).concepts == ()


def test_undo_takes_back_a_forgetting_and_then_the_teaching_before_it(store, rex, tom, tiny_base):
    """Forgetting what was taught last gives the very session of before."""
    store.save(KEY, rex, "teach", "rex")
    store.save(KEY, tom, "teach", "tom", before=rex)
    store.save(KEY, rex, "forget", "tom", before=tom)
    assert_same(tom, store.undo(KEY, rex, tiny_base))
    assert_same(rex, store.undo(KEY, tom, tiny_base))
    assert store.undo(KEY, rex, tiny_base).concepts == ()


def test_a_session_that_was_never_saved_becomes_a_version_before_the_next_one(store, rex, tom, tiny_base):
    store.save(KEY, tom, "teach", "tom", before=rex)
    assert [v.what for v in store.history(KEY)] == ["teach tom", "keep"]
    assert_same(rex, store.undo(KEY, tom, tiny_base))


def test_the_newest_versions_are_kept(tmp_path, rex, tom):
    store = LocalStore(tmp_path, keep=3)
    for session in (rex, tom) * 4:
        store.save(KEY, session)
    assert len(store.history(KEY)) == 3


def test_two_tabs_lose_nothing_and_the_history_shows_the_conflict(store, rex, tom, tiny_base):
    other = taught(tiny_base, cns.Concept("max", "house", [picture("blue")]), rex)
    store.save(KEY, rex, "teach", "rex")
    store.save(KEY, tom, "teach", "tom", before=rex)
    store.save(KEY, other, "teach", "max", before=rex)
    history = store.history(KEY)
    assert {v.what for v in conflicts(history)} == {"teach tom", "teach max"}
    assert [store.load(KEY, tiny_base, v.name).tokens for v in history] == [("<rex>", "<max>"), ("<rex>", "<tom>"), ("<rex>",)]


def test_one_tab_alone_makes_no_conflict_whatever_it_does(store, rex, tom, tiny_base):
    other = taught(tiny_base, cns.Concept("max", "house", [picture("blue")]), rex)
    store.save(KEY, rex, "teach", "rex")
    store.save(KEY, tom, "teach", "tom", before=rex)
    store.undo(KEY, tom, tiny_base)
    store.save(KEY, other, "teach", "max", before=rex)
    store.undo(KEY, store.undo(KEY, other, tiny_base), tiny_base)
    store.save(KEY, rex, "teach", "rex")
    store.bring_back(KEY, store.history(KEY)[-2].name, rex, tiny_base)
    store.save(KEY, tom, "keep", "", before=other)
    assert conflicts(store.history(KEY)) == set()


def test_many_writers_at_once_lose_nothing(store, rex, tom, tiny_base):
    keys = [f"{i:032x}" for i in range(4)]
    threads = [threading.Thread(target=store.save, args=(k, s, "teach", f"t{n}")) for k in keys for n in range(5) for s in (rex, tom)]
    for work in (threading.Thread.start, threading.Thread.join):
        for thread in threads:
            work(thread)
    for key in keys:
        assert len(store.history(key)) == 10 and store.load(key, tiny_base).tokens[0] == "<rex>"


def test_a_clock_that_was_set_back_does_not_hide_what_is_saved_now(store, rex, tom, tiny_base):
    ahead = Version.of(archive.digest(rex)[:16], "0" * 16, "teach", "rex", None).name.replace("20", "29", 1)
    store.put(KEY, Version(ahead), pack(rex))
    store.save(KEY, tom, "teach", "tom", before=rex)
    assert store.load(KEY, tiny_base).tokens == ("<rex>", "<tom>")


def test_a_folder_that_the_shell_made_opens_and_becomes_a_version_with_the_next_teaching(store, rex, tom, tiny_base):
    rex.save(store.path(KEY))
    assert_same(rex, found := store.load(KEY, tiny_base))
    store.save(KEY, tom, "teach", "tom", before=found)
    assert_same(rex, store.undo(KEY, tom, tiny_base))


def test_deleting_removes_every_file_and_says_what_remains(store, rex, tmp_path, tiny_base):
    store.save(KEY, rex)
    store.save(OTHER, rex)
    store.keep_draft(KEY, Draft([b"x"], {"name": "rex"}))
    assert "Nothing of it remains" in store.delete(KEY)
    assert store.load(KEY, tiny_base) is None and store.draft(KEY) is None and store.load(OTHER, tiny_base).tokens == ("<rex>",)
    assert len([p for p in tmp_path.rglob("*") if p.is_file()]) == 1


def test_what_a_killed_deletion_left_is_swept_with_the_next_change(store, rex, monkeypatch):
    store.save(KEY, rex)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *_, **__: None)
        with pytest.raises(OSError, match="can no longer be opened"):
            store.delete(KEY)
    assert store.history(KEY) == [] and len(list(store.folder.glob("deleted-*/*"))) == 1
    store.save(OTHER, rex)
    assert not list(store.folder.glob("deleted-*"))


def test_new_folders_are_flushed_down_from_the_first_that_was_there(store, rex, monkeypatch):
    flushed = []
    monkeypatch.setattr("cns.files.flush", flushed.append)
    store.save(KEY, rex)
    assert {store.path(KEY), store.path(KEY).parent, store.folder} <= {*flushed}


def test_named_sessions_belong_to_their_owner_alone_and_no_key_reaches_them(store, rex, tom, tiny_base):
    mine, second, theirs = Owned("1", "dogs"), Owned("1", "cats"), Owned("2", "dogs")
    store.save(mine, rex)
    store.save(theirs, tom)
    assert store.named("1") == ["dogs"] and store.named("3") == [] == store.history(second)
    store.save(second, tom)
    assert store.named("1") == ["cats", "dogs"]
    assert_same(rex, store.load(mine, tiny_base))
    assert_same(tom, store.load(theirs, tiny_base))
    for typed in (repr(mine), str(mine), "user 1", "user 1/dogs", folder_name(mine), owner_folder("1")):
        assert store.load(typed, tiny_base) is None and store.history(typed) == []
    store.delete(mine)
    assert store.named("1") == ["cats"] and store.named("2") == ["dogs"]


@pytest.mark.parametrize("name", ["", "../x", "a/b", "A", "x" * 41, ".", "-", "a\n", "é"])
def test_a_name_that_could_be_more_than_a_name_is_refused(name):
    with pytest.raises(ValueError, match="cannot name a session"):
        Owned("1", name)


def test_a_draft_is_kept_until_it_is_dropped(store):
    draft = Draft([bytes([i]) * i for i in range(1, 12)], {"name": "rex", "word": "dog", "steps": 100, "seed": 0})
    assert store.draft(KEY) is None
    store.keep_draft(KEY, draft)
    assert store.draft(KEY) == draft and store.draft(OTHER) is None
    next(store.folder.glob("drafts/*/*")).write_bytes(b"cut")
    assert store.draft(KEY) is None
    store.drop_draft(KEY)
    store.drop_draft(KEY)


@pytest.mark.parametrize("call", ["open", "os.fsync", "os.replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_full_or_read_only_disk_is_said_and_leaves_the_older_version(store, rex, tom, tiny_base, monkeypatch, call, code):
    store.save(KEY, rex)

    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open" if call == "open" else call, refuse)
        with pytest.raises(OSError, match=os.strerror(code)):
            store.save(KEY, tom, before=rex)
    assert_same(rex, store.load(KEY, tiny_base))
    assert not list(store.folder.rglob("*.part"))


def test_a_disk_that_fills_in_the_middle_of_a_file_leaves_the_older_version(store, rex, tom, tiny_base):
    """A real limit of the system on the size of a file, in a process of its own."""
    import resource

    store.save(KEY, rex)
    if (child := os.fork()) == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            store.save(KEY, tom, before=rex)
        except OSError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert len(store.history(KEY)) == 1 and not list(store.folder.rglob("*.part"))
    assert_same(rex, store.load(KEY, tiny_base))


def test_an_unfinished_file_of_a_killed_process_is_swept_when_it_is_old(store, rex):
    store.save(KEY, rex)
    young, old = (store.path(KEY) / f"{n}.part" for n in ("young", "old"))
    for part in (young, old):
        part.write_bytes(b"half")
    os.utime(old, (0, 0))
    store.save(KEY, rex)
    assert young.exists() and not old.exists()


def test_the_same_session_is_the_same_file(tom, tiny_base):
    assert pack(tom) == pack(unpack(pack(tom), tiny_base))


def test_a_file_of_another_base_is_refused_by_name(tom, tiny_base):
    about, tensors = tom.parts()
    other = save_tensors(tensors, {"cns": json.dumps({**about, "base": "other"})})
    with pytest.raises(ValueError, match="base `other`"):
        unpack(other, tiny_base)


def test_open_store_tells_a_folder_from_a_repo(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("cns.store.hub.get_token", lambda: None)
    assert open_store(tmp_path).folder == tmp_path
    with pytest.raises(ValueError, match="needs a token"):
        open_store("hub:me/mine")
    for bad in ("hub:", "hub:mine", "hub:a/b/c", "hub:../x/y"):
        with pytest.raises(ValueError, match="names no dataset repo"):
            open_store(bad)


NUMBERS = (0, 1, 2**31, 2**63 - 1, 2**64 - 1)
WORDS = (b'"F32"', b'"I32"', b"[[[[[[", b"NaN", b"-1", b"1e999", b"null", b"\xff\xfe\x00", b"../../")


def mutate(content: bytes, luck: random.Random) -> bytes:
    """Bytes changed, cut, repeated, or replaced by what formats mistake for lengths and types; half of it in the header."""
    out = bytearray(content)
    for _ in range(luck.choice((1, 1, 1, 2, 5))):
        at, size = luck.randrange(luck.choice((9, len(out) // 2, len(out))) or 1), luck.randrange(1, 100)
        match luck.randrange(6):
            case 0:
                out[at : at + 1] = bytes([luck.randrange(256)])
            case 1:
                del out[at : at + size]
            case 2:
                out[at:at] = out[at : at + size]
            case 3:
                out[at : at + 8] = luck.choice(NUMBERS).to_bytes(8, "little")
            case 4:
                out[at : at + 6] = luck.choice(WORDS)
            case 5:
                del out[at:]
    return bytes(out)


def test_ten_thousand_damaged_files_are_refused_or_are_the_session_itself(tom, tiny_base):
    content, luck = pack(tom), random.Random(5)
    real, accepted = archive.digest(tom), 0
    for _ in range(10_000):
        try:
            read = unpack(mutate(content, luck), tiny_base)
        except ValueError as error:
            assert "damaged" in str(error) or "was taught on base" in str(error)
        else:
            accepted += 1
            assert archive.digest(read) == real
    assert accepted < 1000


def test_ten_thousand_damaged_uploads_are_refused_or_are_the_session_itself(tom, tiny_base, tmp_path):
    """As they come in by the page and the API: half are zips of an export, packed or stored; one in ten has a mutated file in a sound zip."""
    tom.save(tmp_path / "session")
    inside = {f.name: f.read_bytes() for f in (tmp_path / "session").iterdir()}
    luck, real, accepted, file = random.Random(8), archive.digest(tom), 0, tmp_path / "upload.zip"

    def zipped(members, method):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", method) as z:
            for name, content in members.items():
                z.writestr(name, content)
        return out.getvalue()

    whole = [pack(tom), zipped(inside, zipfile.ZIP_STORED), pack(tom), zipped(inside, zipfile.ZIP_DEFLATED)]
    for i in range(10_000):
        inner = {**inside, (name := luck.choice([*inside])): mutate(inside[name], luck)} if i % 10 == 9 else None
        file.write_bytes(zipped(inner, zipfile.ZIP_STORED) if inner else mutate(whole[i % 4], luck))
        try:
            read = received(file, tiny_base)
        except ValueError as error:
            assert "damaged" in str(error) or "was taught on base" in str(error)
        else:
            accepted += 1
            vectors = [c.vector.tolist() for c in read.concepts]
            assert archive.digest(read) == real or (inner and vectors == [c.vector.tolist() for c in tom.concepts])  # of JSON a zip keeps no digest
    assert accepted < 2000


def test_damaged_drafts_are_none_or_pictures_and_settings(store):
    store.keep_draft(KEY, Draft([b"one" * 100, b"two" * 100], {"name": "rex", "steps": 100}))
    (path,) = store.folder.rglob("drafts/**/*.safetensors")
    whole, luck = path.read_bytes(), random.Random(9)
    for _ in range(2000):
        path.write_bytes(mutate(whole, luck))
        if draft := store.draft(KEY):
            assert all(isinstance(i, bytes) for i in draft.images) and isinstance(draft.settings, dict)


def test_damaged_session_folders_are_refused_or_are_the_session_itself(tom, tiny_base, tmp_path):
    tom.save(tmp_path)
    luck, real = random.Random(6), archive.digest(tom)
    for file in sorted(tmp_path.iterdir()):
        whole = file.read_bytes()
        for _ in range(300):
            file.write_bytes(mutate(whole, luck))
            try:
                read = cns.Session.load(tmp_path, tiny_base)
            except ValueError:
                continue
            assert [c.vector.tolist() for c in read.concepts] == [c.vector.tolist() for c in tom.concepts] or archive.digest(read) == real
        file.write_bytes(whole)


ODD = (None, True, -1, 0, 2**70, 1.5, float("nan"), float("inf"), "", "x" * 5000, "../x", "<script>", [], [1, 2], {}, {"a": []}, "<max>")


def forge(about: dict, tensors: dict, luck: random.Random) -> None:
    """One field or tensor replaced by something of the right kind and the wrong content, or of the wrong kind."""
    spots = [about, *about["concepts"], *(c["stats"] for c in about["concepts"]), *(c["stats"]["funnel"] for c in about["concepts"]), tensors, tensors, tensors]
    spot = luck.choice(spots)
    name = luck.choice([*spot, "another"])
    if spot is not tensors:
        spot[name] = luck.choice(ODD)
        return
    there = tensors.get(name, torch.zeros(3))
    tensors[name] = luck.choice((
        there[:-1], torch.cat([there, there]), there[None], there.double(), there.flip(0), there.long() * 0 - 1, there * 0 + 10**6 if there.dtype == torch.int32 else there * 0 + 1,
        torch.tensor(float("nan")), torch.full(there.shape, float("inf")), torch.zeros(0), there.bool(), there.half(), torch.randint(0, 255, (64,), dtype=torch.uint8),
    ))  # fmt: skip


def test_forged_sessions_are_refused_or_can_be_drawn_shown_and_taught_further(tom, tiny_base, concept):
    luck, accepted = random.Random(7), []
    selector = inspection.Selector(tiny_base, lambda: whole(calibration_rms(tiny_base, torch.Generator().manual_seed(0))))
    for _ in range(2000):
        about, tensors = copy.deepcopy(tom.parts())
        forge(about, tensors, luck)
        try:
            accepted.append(cns.Session.read(about, tensors, tiny_base))
        except ValueError:
            continue
    assert 0 < len(accepted) < 1000
    for session in luck.sample(accepted, 15):
        assert_same(session, unpack(pack(session), tiny_base))
        cns.remember(tiny_base, session)
        html.knows(session, tiny_base)
        for c in session.concepts:
            figures.draw(inspection.funnel(session, c.name))
            assert all(0 <= share <= 1.01 for share in inspection.thresholds(tiny_base, c))
            if c.rms:
                selector.plots(session, c.name, 0.1, 0.5)
        for plot in (inspection.overlap(session), inspection.growth(tiny_base, session), inspection.updates(inspection.norms(tiny_base), session)):
            figures.draw(plot)
        for by in inspection.WAYS:
            figures.draw(inspection.spread(tiny_base, session, by))
        taught(tiny_base, cns.Concept("another", "dog", concept.images), session, steps=2)


def test_a_file_that_claims_to_be_huge_costs_nothing(tiny_base):
    bomb = io.BytesIO()
    Image.new("1", (5000, 5000)).save(bomb, "PNG")
    with pytest.raises(ValueError, match="at most 4096"):
        trust.check_picture(torch.frombuffer(bytearray(bomb.getvalue()), dtype=torch.uint8))
    deep = b'{"__metadata__":{"cns":"' + b"[" * 200_000 + b'"}}'
    for content in (b"", b"x", (2**63).to_bytes(8, "little") + b"{}", len(deep).to_bytes(8, "little") + deep):
        with pytest.raises(ValueError, match="damaged or no session"):
            unpack(content, tiny_base)
