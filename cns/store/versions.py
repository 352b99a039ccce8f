"""What every store does with versions, whatever they lie on: save, list, load, undo, bring back, and keep a draft.

A version is one immutable file whose name says all that a list needs, so two writers never write one file, and both versions stay:

    20261124T192142123Z-<content>-<before>-teach-rex.safetensors

`content` is the start of the session's digest, `before` that of the session which it was made from; zeros are an empty one.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from typing import Any

from ..session import Session
from .archive import digest, pack, unpack

PATTERN = re.compile(r"(\d{8}T\d{9}Z)-([0-9a-f]{16})-([0-9a-f]{16})-([a-z]+)-([a-z0-9_-]{0,40})\.safetensors", re.ASCII)
NAME = re.compile("[a-z0-9][a-z0-9_-]{0,39}")
STAMP = "%Y%m%dT%H%M%S%f"
EMPTY = "0" * 16
UTC = timezone.utc  # noqa: UP017  Python 3.10 has no datetime.UTC


def stamp(when: datetime) -> str:
    """As it stands at the start of a version's name."""
    return f"{when.strftime(STAMP)[:-3]}Z"


@dataclass(frozen=True, order=True)
class Version:
    """One saved state of a session; versions sort by time."""

    name: str  # of its file

    def __post_init__(self):
        if not PATTERN.fullmatch(self.name):
            raise ValueError(f"`{self.name}` is no version of a session: choose one from its history")

    @classmethod
    def of(cls, content: str, before: str, verb: str, concept: str, after: "Version | None") -> "Version":
        """Now, or a moment after `after` where a clock was set back."""
        now = datetime.now(UTC)
        if after and now <= after.when:
            now = after.when + timedelta(milliseconds=1)
        return cls(f"{stamp(now)}-{content}-{before}-{verb}-{concept}.safetensors")

    @property
    def _parts(self) -> tuple[str, ...]:
        return PATTERN.fullmatch(self.name).groups()  # type: ignore[union-attr]

    @property
    def when(self) -> datetime:
        return datetime.strptime(self._parts[0][:-1], STAMP).replace(tzinfo=UTC)

    @property
    def content(self) -> str:
        return self._parts[1]

    @property
    def before(self) -> str:
        return self._parts[2]

    @property
    def verb(self) -> str:
        return self._parts[3]

    @property
    def what(self) -> str:
        """Such as "teach rex"."""
        return " ".join(self._parts[3:]).strip()


@dataclass(frozen=True)
class State:
    """How a session is kept: `kind` is "saving", "saved" or "failed"; `text` says more; `url` shows it to the store's owner."""

    kind: str
    text: str = ""
    url: str = ""


@dataclass(frozen=True)
class Owned:
    """Stands for a key: the session `name` of the Hub's user `user`, an id that `People.who` found out. Nobody can type one."""

    user: str
    name: str

    def __post_init__(self):
        if not NAME.fullmatch(self.name):
            raise ValueError(f"`{self.name[:64]}` cannot name a session: use 1 to 40 of a-z, 0-9, - and _")


def folder_name(key) -> str:
    """`ab/abcd...`: where the session of `key` lies. Anything names a folder, so a wrong key is not told from an unused one."""
    if isinstance(key, Owned):
        return f"{owner_folder(key.user)}/{key.name}"
    return _sharded(key if is_key(key) else f"no key {key!r}")


def owner_folder(user: str) -> str:
    """Where all sessions of a signed-in user lie, each in a folder of its name."""
    return _sharded(f"user {user}")


def _sharded(text: str) -> str:
    name = hashlib.sha256(text.encode(errors="replace")).hexdigest()
    return f"{name[:2]}/{name}"


def is_key(key) -> bool:
    """Whether `key` is 128 bits in hex."""
    return isinstance(key, str) and bool(re.fullmatch("[0-9a-f]{32}", key))


def check_key(key) -> None:
    if not is_key(key) and not isinstance(key, Owned):
        raise ValueError("this is no session key: a key is 32 hex digits")


class Store:
    """The part that is the same on disk and on the Hub. A store below it has `versions`, `read`, `put`, `delete`, `state`, `secret`, drafts."""

    versions: Callable[..., list[Version]]
    read: Callable[..., bytes]
    put: Callable[..., None]

    def history(self, key) -> list[Version]:
        """Every version that is kept, the newest first."""
        return sorted(self.versions(key), reverse=True)

    def known(self, key) -> list[Version]:
        """The versions that saving builds on."""
        return self.versions(key)

    def load(self, key, base, version: str | None = None) -> Session | None:
        """The newest session of `key`, or that `version` of it; None when there is none. Raises ValueError when it is damaged or of another base."""
        history = self.history(key)
        if version is not None and version not in {v.name for v in history}:
            raise ValueError("this version is no longer kept: choose another one from the history")
        return unpack(self.read(key, version or history[0].name), base) if history else None

    def save(self, key, session: Session, verb: str = "teach", concept: str = "", before: Session | None = None) -> Version:
        """A new version of `key`, made from `before`, which becomes a version, too, if it is none. Raises OSError when the disk refuses."""
        check_key(key)
        history = sorted(self.known(key), reverse=True)
        origin = content_of(before)
        if origin != EMPTY and origin not in {v.content for v in history}:
            history.insert(0, self._add(key, before, EMPTY, "keep", "", history))
        return self._add(key, session, origin, verb, concept, history)

    def _add(self, key, session, before, verb, concept, history) -> Version:
        version = Version.of(content_of(session), before, verb, concept, history[0] if history else None)
        self.put(key, version, pack(session))
        return version

    def undo(self, key, session: Session | None, base) -> Session:
        """The session that `session` was made from, as a new version. Raises ValueError when that is not known."""
        history = self.history(key)
        came = origins(history).get(content_of(session), [])
        if not came:
            raise ValueError("there is nothing to undo: this session has no earlier version")
        earlier = [v for v in history if v.content == came[-1]]
        if came[-1] != EMPTY and not earlier:
            raise ValueError("the version before the last change is no longer kept: there is nothing to undo")
        back: Any = self.load(key, base, earlier[-1].name) if earlier else Session.new(base)
        self.save(key, back, "undo", before=session)
        return back

    def bring_back(self, key, version: str, session: Session | None, base) -> Session:
        """That version as the newest one, made from `session`."""
        back: Any = self.load(key, base, version)  # of a version that is named there is one
        self.save(key, back, "back", before=session)
        return back


def content_of(session: Session | None) -> str:
    """The start of its digest; `EMPTY` for one that knows nothing."""
    return digest(session)[:16] if session and session.concepts else EMPTY


def origins(history: list[Version]) -> dict[str, list[str]]:
    """{content: the contents that it came from, the oldest first}: each change adds one, each undo takes one off."""
    out: dict[str, list[str]] = {}
    for v in sorted(history):
        came = out.get(v.before, [])
        if v.verb == "undo":
            out[v.content] = came[:-1]
        elif v.verb != "back" and v.content != v.before:
            out[v.content] = [*came, v.before]
    return out


def conflicts(history: list[Version]) -> set[Version]:
    """Versions that were not made from the one before them, and that one: two tabs or devices were at work at once."""
    pairs = pairwise(sorted(history))
    return {v for earlier, later in pairs if later.before != earlier.content and later.verb != "keep" for v in (earlier, later)}
