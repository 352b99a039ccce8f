"""Sessions on the Hub: the real client over HTTP against the stand-in of `hub.py`."""

import itertools
import os
import time

import pytest
from hub import running
from huggingface_hub import HfApi, constants
from test_session import assert_same

from cns.store import HubStore, Version, archive
from cns.store.hub import BATCH, HubRefuses
from cns.store.versions import Owned, folder_name

REPO, KEY, OTHER = "me/sessions", "0123456789abcdef" * 2, "f" * 32


@pytest.fixture
def hub(monkeypatch):
    for name, value in (("HF_HUB_OFFLINE", False), ("HF_HUB_DISABLE_XET", True)):
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running() as hub:
        yield hub


@pytest.fixture
def opened(hub, tmp_path):
    """Opens stores on the stand-in; closes them at the end."""
    stores = []

    def open_one(token="hf_writer", journal="journal", interval=0.05, **options):
        stores.append(HubStore(REPO, tmp_path / journal, api=HfApi(endpoint=hub.url, token=token), interval=interval, **options))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


def until(what, seconds=30):
    """Waits until `what()` is true; the bound only ends a test that would hang."""
    end = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.01)
    return value


def saved(store, key=KEY):
    return until(lambda: store.state(key).kind == "saved")


def files_of(hub, key=KEY):
    return [p.rsplit("/", 1)[-1] for p in hub.head(REPO).tree if p.startswith(f"sessions/{folder_name(key)}/")]


def test_the_first_save_makes_a_private_repo_with_a_card_and_the_session_in_a_sharded_folder(hub, opened, rex, tiny_base):
    store = opened()
    assert store.load(KEY, tiny_base) is None
    version = store.save(KEY, rex, "teach", "rex")
    saved(store)
    assert hub.private[REPO] and files_of(hub) == [version.name]
    assert b"Keep it private" in hub.head(REPO).tree["README.md"][0] and hub.counts["lfs"] == 1 == hub.counts["regular"]
    state = store.state(KEY)
    assert state.text == f"commit {hub.head(REPO).oid[:7]}" and state.url.endswith(f"/commit/{hub.head(REPO).oid}")
    assert not [p for p in hub.head(REPO).tree if KEY in p]
    assert_same(rex, opened(journal="another-machine").load(KEY, tiny_base))


def test_history_undo_and_bringing_back_work_over_the_network(opened, rex, tom, tiny_base):
    store = opened()
    first = store.save(KEY, rex, "teach", "rex")
    store.save(KEY, tom, "teach", "tom", before=rex)
    saved(store)
    elsewhere = opened(journal="another-machine")
    assert [v.what for v in elsewhere.history(KEY)] == ["teach tom", "teach rex"]
    assert_same(rex, elsewhere.undo(KEY, tom, tiny_base))
    saved(elsewhere)
    assert_same(rex, store.load(KEY, tiny_base))
    assert_same(rex, store.load(KEY, tiny_base, first.name))


@pytest.mark.parametrize("key", ["", "../x", "0" * 31, None, KEY.upper(), OTHER])
def test_a_wrong_key_gets_nothing_after_the_same_requests_as_an_unused_one(hub, opened, rex, tiny_base, key):
    store = opened()
    store.save(KEY, rex)
    saved(store)
    asked = []
    for wrong in ("1" * 32, key):
        hub.seen.clear()
        assert store.load(wrong, tiny_base) is None
        asked.append([(method, path.split("/sessions")[0]) for method, path in hub.seen])
    assert asked[0] == asked[1]


def test_many_saves_become_few_commits_and_never_more_than_one_an_interval(hub, opened, rex):
    store = opened(interval=0.4)
    keys = [f"{i:032x}" for i in range(30)]
    for key in keys:
        store.save(key, rex)
    for key in keys:
        saved(store, key)
    times = [c.at for c in hub.repos[REPO][1:]]
    assert len(times) <= 3 and min(b - a for a, b in itertools.pairwise([*times, times[-1] + 1])) >= 0.4
    assert all(len(files_of(hub, key)) == 1 for key in keys) and len(keys) <= BATCH


def test_two_writers_on_one_repo_lose_nothing(hub, opened, rex):
    stores = [opened(journal=f"machine-{i}") for i in range(3)]
    for i in range(5):
        for n, store in enumerate(stores):
            store.save(KEY, rex, "teach", f"m{n}-{i}")
    for store in stores:
        saved(store)
    assert len(files_of(hub)) == 10  # the newest of 15
    assert len({v.name for v in stores[0].history(KEY)}) == 10


def test_a_stale_parent_is_read_again_and_committed_on_the_new_one(hub, opened, rex):
    hub.create(REPO)
    hub.fail("POST", "/commit/", 412, times=3)
    store = opened()
    store.save(KEY, rex)
    saved(store)
    assert len([s for s in hub.seen if s == ("POST", f"/api/datasets/{REPO}/commit/main")]) == 4


@pytest.mark.parametrize(("status", "said"), [(429, "asks to wait"), (500, "error 500"), (503, "error 503"), ("cut", "cannot be reached")])
def test_a_refusal_for_a_while_is_said_and_then_it_is_saved(hub, opened, rex, status, said):
    hub.create(REPO)
    hub.fail("POST", "/commit/", status, times=2)
    store, seen = opened(), []
    store.save(KEY, rex)
    until(lambda: seen.append(store.state(KEY)) or seen[-1].kind == "saved")
    assert any(s.kind == "failed" and said in s.text for s in seen)
    assert "saved" not in [s.kind for s in seen[:-1]] and len(files_of(hub)) == 1


def test_the_wait_that_the_hub_asks_for_is_kept(hub, opened, rex):
    hub.create(REPO)
    hub.fail("POST", "/commit/", 429, **{"Retry-After": "1"})
    store = opened(interval=0.01)
    store.save(KEY, rex)
    until(lambda: store.state(KEY).kind == "failed")
    begin = time.monotonic()
    saved(store)
    assert time.monotonic() - begin > 0.8


def test_a_connection_that_is_slow_or_cut_while_uploading_loses_nothing(hub, opened, rex, tiny_base):
    hub.create(REPO)
    hub.fail("POST", "/commit/", "slow")
    hub.fail("PUT", "/lfs/", "cut")
    hub.fail("GET", "/tree/", "slow")
    store = opened()
    store.save(KEY, rex)
    saved(store)
    hub.fail("GET", "/resolve/", "half")
    assert_same(rex, opened(journal="another-machine").load(KEY, tiny_base))


@pytest.mark.parametrize(("token", "said"), [("hf_wrong", "does not accept the token"), ("hf_reader", "may not write"), ("hf_stranger", "may not")])
def test_a_token_without_the_right_is_said_and_the_journal_keeps_the_session_for_a_better_one(hub, opened, rex, tiny_base, token, said):
    hub.create(REPO)
    store = opened(token, interval=60)
    store.save(KEY, rex)
    until(lambda: store.state(KEY).kind == "failed")
    assert said in store.state(KEY).text and token not in store.state(KEY).text
    store.close()
    better = opened()
    saved(better)
    assert_same(rex, better.load(KEY, tiny_base))


def test_retry_does_not_wait(hub, opened, rex):
    hub.create(REPO)
    hub.fail("POST", "/commit/", 500)
    store = opened(interval=3600)
    store.save(KEY, rex)
    until(lambda: store.state(KEY).kind == "failed")
    store.retry()
    saved(store)


def test_a_public_repo_is_never_written_to(hub, opened, rex):
    hub.create(REPO, private=False)
    store = opened(interval=60)
    store.save(KEY, rex)
    until(lambda: store.state(KEY).kind == "failed")
    assert "is public" in store.state(KEY).text and files_of(hub) == []


def test_reading_says_when_the_hub_cannot_be_asked_and_saving_goes_on(hub, opened, rex, tom, tiny_base):
    store = opened()
    store.save(KEY, rex)
    saved(store)
    hub.fail("GET", f"/api/datasets/{REPO}", 500, times=50)
    with pytest.raises(HubRefuses, match="error 500"):
        store.load(KEY, tiny_base)
    store.save(KEY, tom, before=rex)
    until(lambda: store.state(KEY).kind == "failed")
    hub.faults.clear()
    saved(store)
    assert len(files_of(hub)) == 2


def test_a_cached_copy_or_an_invalid_token_opens_nothing(opened, rex, tiny_base):
    store = opened()
    store.save(KEY, rex)
    saved(store)
    assert_same(rex, store.load(KEY, tiny_base))
    with pytest.raises(HubRefuses, match="does not accept the token"):
        opened("hf_wrong", journal="another-machine").load(KEY, tiny_base)
    assert opened("hf_stranger", journal="a-third").load(KEY, tiny_base) is None


def test_every_read_is_pinned_to_a_full_sha_and_takes_four_requests(hub, opened, rex, tiny_base):
    store = opened()
    store.save(KEY, rex)
    saved(store)
    hub.seen.clear()
    store.load(KEY, tiny_base)
    for _, path in hub.seen:
        assert path == f"/api/datasets/{REPO}" or hub.head(REPO).oid in path
    assert len(hub.seen) == 4


def test_a_file_that_changed_on_its_way_is_refused(hub, opened, rex, tiny_base):
    store = opened()
    version = store.save(KEY, rex)
    saved(store)
    path = f"sessions/{folder_name(KEY)}/{version.name}"
    content = bytearray(hub.head(REPO).tree[path][0])
    content[-1] ^= 1
    hub.commit(REPO, {**hub.head(REPO).tree, path: (bytes(content), True)}, "bad")
    with pytest.raises(ValueError, match="damaged"):
        store.load(KEY, tiny_base)


def test_a_hub_that_never_answers_is_given_up_and_tried_again(hub, opened, rex, monkeypatch):
    hub.create(REPO)
    monkeypatch.setattr("cns.store.hub.TIMEOUT", 0.1)
    hub.fail("POST", "/commit/", "slow")
    store, seen = opened(), []
    store.save(KEY, rex)
    until(lambda: seen.append(store.state(KEY)) or seen[-1].kind == "saved")
    assert any("cannot be reached" in s.text for s in seen)


def test_a_listing_that_a_commit_overtook_is_read_again(hub, opened, rex, tom, tiny_base):
    """Between the answer of the Hub and its use, the writer commits a newer version."""
    store = opened()
    store.save(KEY, rex, "teach", "rex")
    saved(store)
    ask = store._on_hub

    def overtaken(folder):
        answer = ask(folder)
        if len(files_of(hub)) == 1:
            store.save(KEY, tom, "teach", "tom", before=rex)
            saved(store)
        return answer

    store._on_hub = overtaken
    assert_same(tom, store.load(KEY, tiny_base))


def test_a_list_of_names_that_a_deletion_overtook_is_read_again(hub, opened, rex):
    store, gone, stays = opened(), Owned("1", "gone"), Owned("1", "stays")
    for key in (gone, stays):
        store.save(key, rex)
        saved(store, key)
    ask = store._on_hub

    def overtaken(*folder, **options):
        answer = ask(*folder, **options)
        if files_of(hub, gone):
            store.delete(gone)
            until(lambda: store.state(gone).kind != "saving")
        return answer

    store._on_hub = overtaken
    assert store.named("1") == ["stays"]


def test_what_is_known_is_not_asked_again_unless_somebody_else_wrote(hub, opened, rex, tom):
    store, another = opened(), opened(journal="another-machine")
    trees = lambda: [p for _, p in hub.seen if "/tree/" in p]  # noqa: E731
    for session, before in ((rex, None), (tom, rex), (rex, tom)):
        store.save(KEY, session, before=before)
        saved(store)
    assert len(trees()) == 1 and len(files_of(hub)) == 3
    another.save(KEY, tom)
    saved(another)
    hub.seen.clear()
    store.save(KEY, tom, before=rex)
    saved(store)
    assert len(trees()) == 2 and len(files_of(hub)) == 5  # two pages


def test_named_sessions_are_listed_and_deleted_over_the_network(hub, opened, rex, tom, tiny_base):
    store, mine, second = opened(), Owned("1", "dogs"), Owned("1", "cats")
    assert store.named("1") == []
    for session, key in ((rex, mine), (tom, second)):
        for verb in ("teach", "keep"):
            store.save(key, session, verb)
    assert store.named("1") == ["cats", "dogs"]
    for key in (mine, second):
        saved(store, key)
    elsewhere = opened(journal="another-machine")
    assert elsewhere.named("1") == ["cats", "dogs"] and elsewhere.named("2") == []
    assert_same(rex, elsewhere.load(mine, tiny_base))
    elsewhere.delete(second)
    assert elsewhere.named("1") == ["dogs"]
    until(lambda: files_of(hub, second) == [])
    assert store.named("1") == ["dogs"] and len(files_of(hub, mine)) == 2


def test_deleting_takes_out_versions_of_a_clock_that_runs_ahead_and_what_is_taught_after_stays(hub, opened, rex, tom, tiny_base):
    ahead = Version.of(archive.digest(rex)[:16], "0" * 16, "teach", "rex", None).name.replace("20", "29", 1)
    store = opened(interval=0.3)
    store.put(KEY, Version(ahead), archive.pack(rex))
    saved(store)
    store.delete(KEY)
    version = store.save(KEY, tom)
    assert_same(tom, store.load(KEY, tiny_base))
    saved(store)
    assert files_of(hub) == [version.name]


def test_a_session_that_is_deleted_while_it_is_being_committed_holds_up_nobody(hub, opened, rex):
    hub.create(REPO)
    store = opened(interval=0.05)
    make, deleted = store._operations, []

    def meanwhile(waiting, head):
        if not deleted:
            store.save(OTHER, rex)
            deleted.append(store.delete(KEY))
        return make(waiting, head)

    store._operations = meanwhile
    states = []
    store.save(KEY, rex)
    until(lambda: states.append(store.state(OTHER).kind) or states[-1] == "saved")
    assert "failed" not in states and files_of(hub) == [] and len(files_of(hub, OTHER)) == 1


def test_unfinished_files_of_a_killed_process_are_swept_at_the_next_start(opened, rex):
    store = opened()
    parts = [store.path(KEY) / "a.part", store.folder / "drafts" / "ab" / "b.part"]
    for part in parts:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(b"half")
        os.utime(part, (0, 0))
    opened()
    assert not any(part.exists() for part in parts)


def test_deleting_takes_the_session_out_and_what_is_taught_after_stays(hub, opened, rex, tom, tiny_base):
    store = opened(interval=0.3)
    store.save(OTHER, rex)
    store.save(KEY, rex)
    saved(store)
    assert "super_squash_history" in store.delete(KEY)
    assert store.load(KEY, tiny_base) is None
    store.save(KEY, tom)
    assert_same(tom, store.load(KEY, tiny_base))
    saved(store)
    assert len(files_of(hub)) == 1 == len(files_of(hub, OTHER))
    assert_same(tom, opened(journal="another-machine").load(KEY, tiny_base))


def test_a_commit_that_was_made_but_not_heard_of_is_made_once(hub, opened, rex, tom, tmp_path):
    """The journal as a kill between the commit and its clearing leaves it."""
    store = opened()
    store.save(KEY, rex)
    saved(store)
    store.delete(KEY)
    version = store.save(KEY, tom)
    path = store.path(KEY)
    content = {p.name: p.read_bytes() for p in path.iterdir()}
    saved(store)
    store.close()
    for name, held in content.items():
        (path / name).write_bytes(held)
    before = len(hub.repos[REPO])
    again = opened()
    saved(again)
    assert files_of(hub) == [version.name] and len(hub.repos[REPO]) == before


def test_the_newest_versions_are_kept(hub, opened, rex):
    store = opened(keep=3)
    for i in range(6):
        store.save(KEY, rex, "teach", f"v{i}")
        saved(store)
    assert [v.what for v in store.history(KEY)] == ["teach v5", "teach v4", "teach v3"] and len(files_of(hub)) == 3


def test_a_full_disk_is_said_and_nothing_is_reported_saved(opened, rex, monkeypatch):
    store = opened()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            store.save(KEY, rex)
    assert store.state(KEY).kind == ""
