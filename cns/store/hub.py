"""Sessions in a private dataset repo on the Hub: `sessions/ab/abcd.../<version>.safetensors`.

A save first lies in a journal on disk; one thread commits all that waits, at most once per `interval`. What is in the
journal is what is not yet on the Hub, so a start after a crash goes on where the last one ended: committing a version
twice changes nothing, as its file has a name of its own. The pictures of drafts never leave this machine.
"""

import logging
import random
import re
import secrets
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils import disable_progress_bars, get_session

from .. import files
from .card import CARD
from .local import LocalStore
from .versions import PATTERN, UTC, State, Store, Version, check_key, folder_name, owner_folder, stamp

KEEP = 10  # versions of a session: 10,000 sessions then stay near the 100,000 files that the Hub recommends for a repo
BATCH = 100  # sessions in one commit
INTERVAL = 30.0  # seconds between two commits
REPO = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
TRIES = 8  # of one batch, when others commit at the same time
LONGEST = 600.0  # seconds between tries while the Hub refuses
TIMEOUT = 60.0  # seconds without a byte: the client by itself waits for ever
log = logging.getLogger(__name__)


class HubStore(LocalStore):
    """A `LocalStore` of what waits (the journal), in front of the repo. `interval` [s] is the shortest time between two commits."""

    def __init__(self, repo: str, journal: str | Path, *, api: HfApi | None = None, interval: float = INTERVAL, keep: int = KEEP):
        if not REPO.fullmatch(repo):
            raise ValueError(f"`hub:{repo}` names no dataset repo: write `hub:owner/name`")
        super().__init__(journal, keep)
        if api is None and not get_token():
            raise ValueError(f"`hub:{repo}` needs a token that may write to it: set `HF_TOKEN` (on a Space: as a secret)")
        self.repo, self.interval, self._api = repo, interval, api or HfApi()
        self.folder.mkdir(parents=True, exist_ok=True)
        disable_progress_bars()  # a server's log has no use for them
        self._lock = threading.Lock()  # held while the journal's files are put, taken or counted
        self._wake = threading.Event()
        self._closed = False
        self._why = ""  # the last commit was refused
        self._names: dict[str, set[str]] = {}  # folder -> versions that were there when last looked at
        self._seen: dict[str, str] = {}  # folder -> full sha of a commit that holds them
        self._head, self._sure = "", set()  # the newest commit known, and the folders whose `_names` are true there
        self._carded = False
        for part in [*self.folder.glob("**/*.part")]:
            self._sweep(part.parent)
        self._thread = threading.Thread(target=self._run, name="hub-writer", daemon=True)
        self._thread.start()

    # what a page asks for

    @property
    def place(self) -> str:
        return f"in the private dataset {self.repo}"

    def secret(self) -> str:
        """The same after every start, as a Space's disk is empty then; it scrambles what browsers keep, and protects nothing."""
        return f"cns-studio {self.repo}"

    def versions(self, key) -> list[Version]:
        folder = folder_name(key)
        while True:
            known = self._names.get(folder)
            there, sha = self._on_hub(folder)
            with self._lock:
                if self._names.get(folder) is known:  # else a commit came between: what was read is old
                    self._names[folder] = there
                    if there:
                        self._seen[folder] = sha
                    break
        return self.known(key)

    def known(self, key) -> list[Version]:
        """What was last seen on the Hub and what waits: saving asks nobody."""
        folder = folder_name(key)
        with self._lock:
            there = set() if self._deleted(folder) else self._names.get(folder, set())
            return [Version(n) for n in there | {v.name for v in super().versions(key)}]

    def named(self, user: str) -> list[str]:
        folder = owner_folder(user)
        while True:
            head = self._head
            there, _ = self._on_hub(folder, recursive=True)
            with self._lock:
                if self._head != head:  # a commit came between: what was listed is old
                    continue
                newest = {Path(n).parent.name: Path(n).name for n in sorted(there, key=lambda n: Path(n).name)}
                newest = {n: v for n, v in newest.items() if not self._deleted(f"{folder}/{n}")}
                newest |= {p.parent.name: p.name for p in sorted((self.folder / folder).glob("*/*.safetensors"), key=lambda p: p.name)}
                return sorted(newest, key=newest.__getitem__, reverse=True)

    def load(self, key, base, version: str | None = None):
        return Store.load(self, key, base, version)

    def read(self, key, name: str) -> bytes:
        try:
            return super().read(key, name)
        except FileNotFoundError:
            return self._download(folder_name(key), name)

    def put(self, key, version: Version, content: bytes) -> None:
        with self._lock:
            files.write(self.path(key) / version.name, content)
        self._wake.set()

    def delete(self, key) -> str:
        """Remove `key`'s versions with the next commit, and its draft and what waits now; says what remains."""
        check_key(key)
        self.drop_draft(key)
        with self._lock:
            files.write(self.path(key) / f"{stamp(datetime.now(UTC))}-{secrets.token_hex(4)}-deleted", b"")
            for version in LocalStore.versions(self, key):
                (self.path(key) / version.name).unlink(missing_ok=True)
            files.flush(self.path(key))
        self._wake.set()
        return (
            f"It is taken out of the newest state of the dataset `{self.repo}` within a minute, or as soon as the Hub answers. Earlier commits there still hold it until the owner "
            'purges them: `HfApi().super_squash_history(repo, repo_type="dataset")`, then `list_lfs_files` and `permanently_delete_lfs_files` for what no file names any more.'
        )

    def state(self, key) -> State:
        folder = folder_name(key)
        with self._lock:
            waits = any(self.path(key).glob("*Z-*")) if self.path(key).is_dir() else False
            if waits:
                return State("failed", self._why) if self._why else State("saving", f"on its way to `{self.repo}`")
            sha = self._seen.get(folder)
        return State("saved", f"commit {sha[:7]}", f"{self._api.endpoint}/datasets/{self.repo}/commit/{sha}") if sha else State("", "")

    def retry(self) -> None:
        """Do not wait for the next try."""
        self._why = ""
        self._wake.set()

    def close(self) -> None:
        """End the writer, after the commit that it is in. What waits stays in the journal."""
        self._closed = True
        self._wake.set()
        self._thread.join()

    # the Hub

    @property
    def api(self) -> HfApi:
        return limited(self._api)

    def _newest(self) -> str:
        """The full sha of the repo's newest commit; the repo is made, private, when it is missing."""
        try:
            info = self.api.repo_info(self.repo, repo_type="dataset")
        except RepositoryNotFoundError:
            self.api.create_repo(self.repo, repo_type="dataset", private=True, exist_ok=True)
            info = self.api.repo_info(self.repo, repo_type="dataset")
        if not info.private:
            raise HubRefuses(f"the dataset `{self.repo}` is public, so everybody could read the sessions in it: make it private first")
        return info.sha

    def _list(self, folder: str, sha: str, recursive: bool = False) -> set[str]:
        """Paths below `folder` of the versions in it at commit `sha`."""
        try:
            entries = [*self.api.list_repo_tree(self.repo, f"sessions/{folder}", revision=sha, repo_type="dataset", recursive=recursive)]
        except EntryNotFoundError:
            return set()
        paths = (e.path.removeprefix(f"sessions/{folder}/") for e in entries)
        return {p for p in paths if PATTERN.fullmatch(p.rsplit("/", 1)[-1])}

    def _on_hub(self, folder: str, recursive: bool = False) -> tuple[set[str], str]:
        try:
            sha = self.api.repo_info(self.repo, repo_type="dataset").sha
            return self._list(folder, sha, recursive), sha
        except Exception as error:
            if isinstance(error, RepositoryNotFoundError) and error.response.status_code == 404:
                return set(), ""
            raise HubRefuses(explained(error, self.repo)) from None

    def _download(self, folder: str, name: str) -> bytes:
        """A version at the commit where it was last seen, asked for by its full sha, into a folder that nobody else reads."""
        try:
            with tempfile.TemporaryDirectory(prefix="cns-read-") as own:
                options = {"repo_type": "dataset", "revision": self._seen[folder], "local_dir": own, "cache_dir": f"{own}/cache", "force_download": True}
                return Path(self.api.hf_hub_download(self.repo, f"sessions/{folder}/{name}", **options)).read_bytes()
        except Exception as error:
            raise HubRefuses(explained(error, self.repo)) from None

    def _deleted(self, folder: str) -> bool:
        """Whether everything that the repo holds in `folder` is to go."""
        return any((self.folder / folder).glob("*-deleted"))

    # the writer

    def _run(self) -> None:
        failures = 0
        while not self._closed:
            waiting = self._waiting()
            if not waiting:
                self._wake.wait()
                self._wake.clear()
                continue
            try:
                self._commit(waiting)
                failures, self._why, pause = 0, "", self.interval
            except Exception as error:  # whatever the network does, the thread lives on
                self._sure.clear()
                if not all((self.folder / folder / n).exists() for folder, names in waiting.items() for n in names):
                    continue  # somebody deleted his session meanwhile: look again
                failures += 1
                self._why = explained(error, self.repo)
                log.warning("not saved to the Hub: %s", self._why)
                pause = max(retry_after(error), min(LONGEST, self.interval * 2 ** min(failures - 1, 10)) * random.uniform(0.75, 1.25))
            self._pause(pause, failures > 0)

    def _pause(self, seconds: float, refused: bool) -> None:
        """Until `seconds` are over, the store is closed or, after a refusal, somebody asks to retry."""
        end = time.monotonic() + seconds
        while not self._closed and (left := end - time.monotonic()) > 0:
            self._wake.wait(left)
            if refused and not self._why:
                return
            self._wake.clear()

    def _waiting(self) -> dict[str, list[str]]:
        """{folder: files in the journal}, of the `BATCH` sessions that wait longest."""
        with self._lock:
            found: dict[str, list[str]] = {}
            for path in sorted(self.folder.glob("??/**/*Z-*"), key=lambda p: p.name):
                found.setdefault(path.parent.relative_to(self.folder).as_posix(), []).append(path.name)
        return dict([*found.items()][:BATCH])

    def _commit(self, waiting: dict[str, list[str]]) -> None:
        """Everything in `waiting` as one commit on the newest one; again, after a moment, where another one came between."""
        for attempt in range(TRIES):
            head = self._newest()
            if head != self._head:  # somebody else has written
                self._sure.clear()
                self._head = head
            operations, left = self._operations(waiting, head)
            try:
                done = self.api.create_commit(
                    self.repo, operations, commit_message=f"Keep {len(waiting)} sessions", repo_type="dataset", parent_commit=head
                ).oid if operations else head  # fmt: skip
                break
            except HfHubHTTPError as error:
                if error.response.status_code != 412 or attempt == TRIES - 1:
                    raise
                time.sleep(random.uniform(0, min(2.0, self.interval) * (attempt + 1)))
        self._carded = True
        with self._lock:
            self._head = done
            for folder, names in waiting.items():
                self._names[folder] = left[folder]
                self._seen[folder] = done
                self._sure.add(folder)
                for name in names:
                    (self.folder / folder / name).unlink(missing_ok=True)

    def _operations(self, waiting: dict[str, list[str]], head: str) -> tuple[list, dict[str, set[str]]]:
        """(what the commit does, {folder: versions that are there after it})"""
        self._carded = self._carded or self.api.file_exists(self.repo, "README.md", repo_type="dataset", revision=head)
        out, left = [] if self._carded else [CommitOperationAdd("README.md", CARD.encode())], {}
        for folder, names in waiting.items():
            there = self._names[folder] if folder in self._sure else self._list(folder, head)
            new = {n for n in names if not n.endswith("-deleted")}
            stay = new if len(new) < len(names) else there | new
            left[folder] = {*sorted(stay)[-self.keep :]}
            out += [CommitOperationAdd(f"sessions/{folder}/{n}", self.folder / folder / n) for n in sorted(left[folder] - there)]
            out += [CommitOperationDelete(f"sessions/{folder}/{n}") for n in sorted(there - left[folder])]
        return out, left


def limited(api: HfApi) -> HfApi:
    """The client with a time limit."""
    get_session().timeout = TIMEOUT
    return api


class HubRefuses(OSError):
    """The Hub could not be reached, or did not let us."""


def explained(error: Exception, repo: str) -> str:
    """What happened and what the Space's owner can do, in one sentence; never a token or an address with one."""
    if isinstance(error, HubRefuses):
        return str(error)
    status = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None
    said = {
        401: f"the Hub does not accept the token: set a secret `HF_TOKEN` that may write to the dataset `{repo}`",
        403: f"the token may not write to the dataset `{repo}`: give it write access there",
        404: f"the dataset `{repo}` is not there, or the token may not see it",
        412: f"others keep writing to `{repo}` at the same moment: it is tried again by itself",
        429: "the Hub asks to wait, as there were too many requests: it is tried again by itself",
    }
    if status in said:
        return said[status]
    return f"the Hub answers with error {status}: it is tried again by itself" if status else f"the Hub cannot be reached ({type(error).__name__}): it is tried again by itself"


def retry_after(error: Exception) -> float:
    """Seconds that the Hub asks to wait, 0 when it does not say."""
    value = error.response.headers.get("Retry-After", "") if isinstance(error, HfHubHTTPError) and error.response is not None else ""
    return min(float(value), 3600.0) if value.isdigit() else 0.0
