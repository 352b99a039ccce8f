"""What the Hub's writer says of an error, how long it waits, and how much it takes in one commit."""

import time

import pytest
from huggingface_hub.errors import HfHubHTTPError
from test_hub_store import REPO, hub, opened, saved, until  # noqa: F401  fixtures

from cns.store import HubStore, LocalStore, open_store
from cns.store.hub import INTERVAL, KEEP, LONGEST, TRIES, HubRefuses, explained, retry_after


class Answer:
    """Of a server, as far as an error holds it."""

    def __init__(self, status, **headers):
        self.status_code, self.headers = status, {n.replace("_", "-"): v for n, v in headers.items()}


def refused(status, kind=HfHubHTTPError, **headers):
    """An error of the client: of that status, None where there was no answer."""
    error = kind.__new__(kind)
    Exception.__init__(error, f"{status} for https://user:hf_secret@hub")
    error.response = Answer(status, **headers) if status else None
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (refused(401), "does not accept the token: set a secret `HF_TOKEN` that may write to the dataset `me/sessions`"),
        (refused(403), "the token may not write to the dataset `me/sessions`: give it write access there"),
        (refused(404), "the dataset `me/sessions` is not there, or the token may not see it"),
        (refused(412), "others keep writing to `me/sessions` at the same moment: it is tried again by itself"),
        (refused(429), "the Hub asks to wait, as there were too many requests: it is tried again by itself"),
        (refused(502), "the Hub answers with error 502: it is tried again by itself"),
        (refused(None), "the Hub cannot be reached (HfHubHTTPError): it is tried again by itself"),
        (ConnectionError("hf_secret"), "the Hub cannot be reached (ConnectionError): it is tried again by itself"),
        (HubRefuses("the dataset is public"), "the dataset is public"),
    ],
)
def test_every_error_is_a_sentence_that_says_what_to_do_and_no_address(error, said):
    assert explained(error, REPO).endswith(said) and "hf_secret" not in explained(error, REPO)


def test_the_wait_that_is_asked_for_is_read_and_bounded():
    assert [retry_after(refused(429, Retry_After=v)) for v in ("7", "0", "99999", "soon", "-5", "")] == [7, 0, 3600, 0, 0, 0]
    assert retry_after(refused(429)) == retry_after(refused(None)) == retry_after(ValueError("7")) == 0


def test_the_waits_double_up_to_the_longest_and_a_success_begins_anew(hub, opened, rex, monkeypatch):  # noqa: F811
    hub.create(REPO)
    waits = []
    monkeypatch.setattr(HubStore, "_pause", lambda self, seconds, after_refusal: waits.append((seconds, after_refusal)))
    hub.fail("POST", "/commit/", 500, times=9)
    hub.fail("POST", "/commit/", 429, **{"Retry-After": "1234"})
    store = opened(interval=10)
    store.save("0" * 32, rex)
    saved(store, "0" * 32)
    until(lambda: len(waits) == 11)
    for i, (seconds, after_refusal) in enumerate(waits[:9]):
        assert after_refusal and 0.75 <= seconds / min(LONGEST, 10 * 2**i) <= 1.25
    assert len({seconds / min(LONGEST, 10 * 2**i) for i, (seconds, _) in enumerate(waits[:9])}) > 1  # so that many do not come back at once
    assert waits[9] == (1234, True) and waits[10] == (10, False)
    hub.fail("POST", "/commit/", 500)
    store.save("1" * 32, rex)
    saved(store, "1" * 32)
    until(lambda: len(waits) == 13)
    assert waits[11][0] <= 12.5
    assert (INTERVAL, LONGEST) == (30, 600)


def test_a_commit_takes_the_sessions_that_wait_longest_and_no_more_than_its_batch(hub, opened, rex, tmp_path, monkeypatch):  # noqa: F811
    hub.create(REPO)
    monkeypatch.setattr("cns.store.hub.BATCH", 2)
    keys, journal = [f"{i:032x}" for i in (3, 1, 4, 0, 2)], LocalStore(tmp_path / "journal")
    versions = [journal.save(key, rex).name for key in keys]
    store = opened()
    for key in keys:
        saved(store, key)
    commits = hub.repos[REPO][1:]
    assert [c.title for c in commits] == ["Keep 2 sessions", "Keep 2 sessions", "Keep 1 sessions"]
    there = [{p.rsplit("/", 1)[-1] for p in c.tree if p.startswith("sessions/")} for c in commits]
    assert there == [{*versions[:2]}, {*versions[:4]}, {*versions}]


def test_a_commit_that_others_keep_overtaking_is_given_up_for_a_while(hub, opened, rex):  # noqa: F811
    hub.create(REPO)
    hub.fail("POST", "/commit/", 412, times=TRIES)
    store = opened(interval=0.01)
    store.save("0" * 32, rex)
    until(lambda: store.state("0" * 32).kind == "failed")
    assert "others keep writing" in store.state("0" * 32).text
    saved(store, "0" * 32)
    assert len([s for s in hub.seen if s[0] == "POST" and "/commit/" in s[1]]) == TRIES + 1


def test_it_says_where_sessions_are_and_on_their_way(hub, opened, rex):  # noqa: F811
    store = opened(interval=3600)
    assert store.place == "in the private dataset me/sessions" and store.secret() == "cns-studio me/sessions" == opened(journal="b").secret()
    assert store.keep == KEEP == 10
    store.save("0" * 32, rex)
    saved(store, "0" * 32)
    store.save("1" * 32, rex)  # waits for the interval to be over
    assert (store.state("1" * 32).kind, store.state("1" * 32).text) == ("saving", "on its way to `me/sessions`")
    assert store.state("0" * 32).url == f"{hub.url}/datasets/me/sessions/commit/{hub.head(REPO).oid}"
    begun = store.delete("1" * 32)
    assert "of the dataset `me/sessions`" in begun and store.known("1" * 32) == []


@pytest.mark.parametrize("repo", ["me", "me/", "/x", "me/a/b", "../x/y", "me/a b", "m" * 97 + "/x", "me/" + "x" * 97, "me/x\n"])
def test_a_repo_without_an_owner_or_with_more_than_a_name_is_refused(tmp_path, repo):
    with pytest.raises(ValueError, match="names no dataset repo: write `hub:owner/name`"):
        HubStore(repo, tmp_path / "journal")
    assert not (tmp_path / "journal").exists()


def test_the_journal_lies_at_home_under_the_repos_name(tmp_path, monkeypatch):
    monkeypatch.setattr("cns.store.HOME", tmp_path)
    monkeypatch.setattr("cns.store.hub.get_token", lambda: "hf_writer")
    store = open_store("hub:me/mine")
    store.close()
    assert isinstance(store, HubStore) and store.repo == "me/mine" and store.folder == tmp_path / "journal" / "me--mine" and store.folder.is_dir()
    assert open_store().folder == open_store(None).folder == tmp_path


def test_a_writer_with_nothing_to_do_sleeps_until_it_is_woken(hub, opened, rex, monkeypatch):  # noqa: F811
    looks, look = [], HubStore._waiting
    monkeypatch.setattr(HubStore, "_waiting", lambda self: looks.append(1) or look(self))
    store = opened()
    until(lambda: looks)
    time.sleep(0.3)
    assert len(looks) <= 2 and hub.seen == []
    store.save("0" * 32, rex)
    saved(store, "0" * 32)
