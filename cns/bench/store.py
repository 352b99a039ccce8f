"""What keeping sessions costs, printed: time and bytes against a session's size, and a year of a Space with 10,000 sessions.

The year is played on a clock of its own by the rule that the Hub's writer goes by; resuming is timed in a real folder that
holds as many sessions. What the Hub itself takes is not in it: it depends on the network.
"""

import os
import random
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ..base import load_base
from ..session import Session
from ..store import LocalStore, pack, unpack
from ..store.hub import BATCH, INTERVAL, KEEP
from ..store.versions import EMPTY, folder_name
from ..teaching import TeachSettings, teach
from . import ready_concepts, row
from .speed import median_ms

SESSIONS = 10_000
TEACHINGS = 12  # of one session in a year
YEAR = 365 * 24 * 3600  # seconds
BUSY = 20  # hours of the year in which a tenth of everything is taught
HOUR_LIMIT, FOLDER_LIMIT, REPO_LIMIT = 128, 10_000, 100_000  # commits, entries, files: what the Hub is said to bear
KEY = "0" * 32


@dataclass(frozen=True)
class Year:
    """What the writer did: commits in each hour that had one, and the longest that a save waited [s]."""

    commits: Counter
    longest: float


def arrivals(sessions: int, teachings: int, luck: random.Random) -> list[float]:
    """Seconds of the year at which a session is saved; a tenth of them in `BUSY` hours, as when a Space is talked about."""
    count = sessions * teachings
    rush = luck.uniform(0, YEAR - BUSY * 3600)
    return sorted(luck.uniform(rush, rush + BUSY * 3600) if i < count // 10 else luck.uniform(0, YEAR) for i in range(count))


def play(times: list[float], interval: float = INTERVAL, batch: int = BATCH) -> Year:
    """One commit takes all that waits, at most `batch`; the next one may come `interval` seconds later."""
    commits, longest, free, at = Counter(), 0.0, 0.0, 0
    while at < len(times):
        now = max(free, times[at])
        end = at
        while end < len(times) and end - at < batch and times[end] <= now:
            end += 1
        longest = max(longest, now - times[at])
        commits[int(now // 3600)] += 1
        free, at = now + interval, end
    return Year(commits, longest)


def crowd(folder: Path, content: bytes, sessions: int, versions: int) -> LocalStore:
    """A store of `sessions` sessions with `versions` versions each, all of them one file by another name."""
    store = LocalStore(folder / "store")
    for i in range(sessions):
        if i % 1000 == 0:  # file systems limit the names of one file
            one = folder / f"one-{i}"
            one.write_bytes(content)
        where = store.path(f"{i:032x}")
        where.mkdir(parents=True)
        for v in range(versions):
            os.link(one, where / f"20260101T0000000{v:02d}Z-{'0' * 16}-{EMPTY}-teach-rex.safetensors")
    return store


def store(source: str | None) -> None:
    """Print all of it for `source` (None: the starter)."""
    base = load_base(source)
    session = Session.new(base)
    with tempfile.TemporaryDirectory() as folder:
        local = LocalStore(Path(folder) / "sizes", keep=2)
        for i, concept in enumerate(ready_concepts(8), 1):
            *_, last = teach(base, session, concept, TeachSettings.of(base, steps=10, preview_every=0))
            session = last.session  # type: ignore[assignment]  # the last event has one
            if i in (1, 2, 4, 8):
                sizes(base, local, session)
        resume(base, Path(folder), session)
    year()


def sizes(base, local: LocalStore, session: Session) -> None:
    what, content = f"{len(session.concepts)} concepts, {len(session.delta):,} weights: ", pack(session)
    row(what + "file", len(content), "bytes")
    row(what + "save, flushed to the disk", median_ms(lambda: local.save(KEY, session)), "ms")
    row(what + "load and check", median_ms(lambda: unpack(content, base)), "ms")


def resume(base, folder: Path, session: Session) -> None:
    """Among many sessions, all versions kept; the file system's cache is warm."""
    many = crowd(folder, pack(session), SESSIONS, KEEP)
    luck = random.Random(0)
    row(f"resume one of {SESSIONS:,} sessions with {KEEP} versions each", median_ms(lambda: many.load(f"{luck.randrange(SESSIONS):032x}", base), 21), "ms")


def year() -> None:
    """Commits and entries of a year."""
    luck = random.Random(0)
    played = play(arrivals(SESSIONS, TEACHINGS, luck))
    shards = Counter(folder_name(f"{luck.getrandbits(128):032x}")[:2] for _ in range(SESSIONS))
    row(f"a year, {SESSIONS:,} sessions taught {TEACHINGS} times: commits", sum(played.commits.values()), "commits")
    row("commits in the mean hour", sum(played.commits.values()) / (YEAR / 3600), "commits")
    row(f"commits in the busiest hour (the Hub is said to bear {HOUR_LIMIT})", max(played.commits.values()), "commits")
    row("the longest that a save waited for its commit", played.longest, "s")
    row(f"entries in the fullest folder (at most {FOLDER_LIMIT:,})", max(shards.values()), "entries")
    row(f"files after it (recommended: at most {REPO_LIMIT:,})", SESSIONS * min(KEEP, TEACHINGS), "files")
    row("sessions until the fullest folder is full", FOLDER_LIMIT * SESSIONS // max(shards.values()), "sessions")
    row("sessions until the repo has too many files", REPO_LIMIT // KEEP, "sessions")
    row("saves an hour until they queue up", BATCH * 3600 / INTERVAL, "saves")

