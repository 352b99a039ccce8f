"""A process that saves in a loop is killed at random moments: what it reported saved is there, whole, and nothing half-written ever loads."""

import itertools
import os
import random
import signal
import time

import pytest
from conftest import picture, taught
from huggingface_hub import HfApi
from test_hub_store import REPO, hub, until  # noqa: F401  the fixture

import cns
from cns.store import HubStore, LocalStore, unpack
from cns.store.versions import folder_name

KILLS = 200
KEYS = [f"{i:032x}" for i in range(3)]


@pytest.fixture(scope="module")
def sessions(tiny_base):
    first = taught(tiny_base, cns.Concept("rex", "dog", [picture("red")]))
    return first, taught(tiny_base, cns.Concept("tom", "cat face", [picture("gray")]), first)


def killed(work, luck: random.Random) -> list[list[str]]:
    """Runs `work(say)` in a process of its own and kills it some words and a moment later; the words that it said."""
    ours, theirs = os.pipe()
    if (child := os.fork()) == 0:
        try:
            work(lambda *words: os.write(theirs, (" ".join(words) + "\n").encode()))
        finally:
            os._exit(1)
    os.close(theirs)
    with os.fdopen(ours, "rb") as said:
        lines = [said.readline() for _ in range(luck.choice((1, 2, 2, 3, 3, 4)))]
        time.sleep(luck.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
        lines += said.readlines()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    return [line.decode().split() for line in lines if line.startswith((b"saved", b"journaled"))]


def saving(store, sessions, say, wait=lambda _: None):
    """Saves for ever, and says so only after."""
    say("ready")
    for n in itertools.count(random.Random(os.getpid()).randrange(len(KEYS))):
        key = KEYS[n % len(KEYS)]
        version = store.save(key, sessions[n % 2], "teach", f"n{n}")
        say("journaled", key, version.name)
        wait(key)
        say("saved", key, version.name)


def assert_kept(names: list[str], history: list[str], keep: int) -> None:
    """Every name is in the history, or older than all that a full history keeps."""
    lost = [n for n in names if n not in history and not (len(history) >= keep and n < min(history))]
    assert lost == []


def test_a_folder_survives_being_killed(sessions, tiny_base, tmp_path):
    luck, keep, reported, checked = random.Random(1), 5, {key: [] for key in KEYS}, set()
    for _ in range(KILLS):
        for what, key, name in killed(lambda say: saving(LocalStore(tmp_path, keep), sessions, say), luck):
            if what == "saved":
                reported[key].append(name)
        store = LocalStore(tmp_path, keep)
        for key in KEYS:
            history = [v.name for v in store.history(key)]
            assert_kept(reported[key], history, keep)
            for name in {*history} - checked | {*history[:1]}:
                checked.add(name)
                assert store.load(key, tiny_base, name).tokens[0] == "<rex>"
    assert sum(map(len, reported.values())) > KILLS / 4


def test_a_hub_repo_survives_its_writer_being_killed(hub, sessions, tiny_base, tmp_path):  # noqa: F811
    luck, keep = random.Random(2), 4
    reported, journaled = ({key: [] for key in KEYS} for _ in range(2))

    def opened(interval=0.01):
        return HubStore(REPO, tmp_path, api=HfApi(endpoint=hub.url, token="hf_writer"), interval=interval, keep=keep)

    def work(say):
        store = opened()
        saving(store, sessions, say, lambda key: until(lambda: store.state(key).kind == "saved"))

    checked = set()
    for _ in range(KILLS):
        for what, key, name in killed(work, luck):
            (reported if what == "saved" else journaled)[key].append(name)
        with hub.lock:
            tree = dict(hub.head(REPO).tree) if REPO in hub.repos else {}
        for path, (content, _lfs) in tree.items():
            if path.startswith("sessions/") and path not in checked:
                checked.add(path)
                assert unpack(content, tiny_base).tokens[0] == "<rex>"
        for path in tmp_path.glob("??/*/*.safetensors"):
            assert unpack(path.read_bytes(), tiny_base).tokens[0] == "<rex>"
        for key in KEYS:
            assert_kept(reported[key], [p.rsplit("/", 1)[-1] for p in tree if folder_name(key) in p], keep)
    store = opened()
    for key in KEYS:
        until(lambda key=key: store.state(key).kind in ("", "saved"))
        history = [v.name for v in store.history(key)]
        assert_kept(journaled[key], history, keep)
        assert store.load(key, tiny_base).tokens[0] == "<rex>"
    store.close()
    assert sum(map(len, reported.values())) > KILLS / 4
