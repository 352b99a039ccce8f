"""Sessions in a folder: `ab/abcd.../<version>.safetensors`, each file written whole and flushed; drafts beside them."""

import secrets
import shutil
import time
from contextlib import suppress
from pathlib import Path

from .. import files
from ..session import Damaged, Session
from .archive import Draft, pack_draft, unpack_draft
from .versions import PATTERN, State, Store, Version, check_key, folder_name, owner_folder

KEEP = 50  # versions of a session
STALE = 3600  # seconds after which an unfinished file of a killed process is swept


class LocalStore(Store):
    """Sessions under `folder`; of each, the `keep` newest versions."""

    def __init__(self, folder: str | Path, keep: int = KEEP):
        self.folder, self.keep = Path(folder), keep

    @property
    def place(self) -> str:
        """Where sessions are, for their owner."""
        return "on the computer that runs this app"

    def path(self, key) -> Path:
        """The folder of `key`'s versions."""
        return self.folder / folder_name(key)

    def secret(self) -> str:
        """A random string that stays the same for this store: it scrambles what browsers keep, and protects nothing."""
        path = self.folder / "browser-secret"
        if not path.exists():
            files.write(path, secrets.token_hex(16).encode())
        return path.read_text()

    def versions(self, key) -> list[Version]:
        folder = self.path(key)
        return [Version(p.name) for p in folder.iterdir() if PATTERN.fullmatch(p.name)] if folder.is_dir() else []

    def named(self, user: str) -> list[str]:
        """Names of the sessions that a signed-in user owns, the last changed first."""
        found: dict[str, str] = {}
        for path in (self.folder / owner_folder(user)).glob("*/*.safetensors"):
            found[path.parent.name] = max(path.name, found.get(path.parent.name, ""))
        return sorted(found, key=found.__getitem__, reverse=True)

    def read(self, key, name: str) -> bytes:
        return (self.path(key) / name).read_bytes()

    def put(self, key, version: Version, content: bytes) -> None:
        folder = self.path(key)
        files.write(folder / version.name, content)
        for old in sorted(self.versions(key))[: -self.keep]:
            (folder / old.name).unlink(missing_ok=True)
        self._sweep(folder)

    def _sweep(self, folder: Path) -> None:
        """Remove what killed processes left: old unfinished files in `folder`, and sessions whose deletion was not finished."""
        for part in folder.glob("*.part"):
            with suppress(OSError):  # its writer may be at work and rename it now
                if time.time() - part.stat().st_mtime > STALE:
                    part.unlink()
        for gone in self.folder.glob("deleted-*"):
            shutil.rmtree(gone, ignore_errors=True)

    def load(self, key, base, version: str | None = None) -> Session | None:
        """As `Store.load`; a session folder as the shell makes it counts as long as there is no version."""
        plain = self.path(key)
        if not self.versions(key) and (plain / "session.json").exists():
            return Session.load(plain, base)
        return super().load(key, base, version)

    def delete(self, key) -> str:
        """Remove `key`'s versions and draft for good; says what remains."""
        check_key(key)
        self.drop_draft(key)
        if (folder := self.path(key)).exists():
            gone = self.folder / f"deleted-{secrets.token_hex(8)}"
            folder.rename(gone)  # first all at once, so that nobody finds half of it
            files.flush(folder.parent)
            for _ in range(3):  # another tab may be writing its last file
                shutil.rmtree(gone, ignore_errors=True)
            if gone.exists():
                raise OSError("the session can no longer be opened, but the disk refused to remove its files: it is tried again with the next change")
        self._sweep(folder)
        return "Nothing of it remains in this app's folder. Backups of that disk, if its owner makes any, may still hold it."

    def state(self, key) -> State:
        """A local save is done when it returns."""
        return State("saved") if self.versions(key) else State("", "")

    def retry(self) -> None:
        """Nothing waits here: whoever wants to try again saves again."""

    def close(self) -> None:
        """Nothing is open."""

    def keep_draft(self, key, draft: Draft) -> None:
        """Keep what is about to be taught, in place of an earlier draft."""
        check_key(key)
        files.write(self._draft(key), pack_draft(draft))
        self._sweep(self._draft(key).parent)

    def draft(self, key) -> Draft | None:
        """What was to be taught when the page or the program ended; None when there is nothing, or it cannot be read."""
        try:
            return unpack_draft(self._draft(key).read_bytes())
        except (OSError, Damaged):
            return None

    def drop_draft(self, key) -> None:
        self._draft(key).unlink(missing_ok=True)

    def _draft(self, key) -> Path:
        return self.folder / "drafts" / f"{folder_name(key)}.safetensors"
