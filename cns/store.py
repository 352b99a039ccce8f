"""Sessions on disk: one folder for each key. Only who knows a key can name its folder, which is the key's SHA-256."""

import hashlib
import re
import secrets
from pathlib import Path

from .session import Session


class LocalStore:
    """Sessions under `folder`, in sub-folders sharded by two hex digits."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def path(self, key: str) -> Path:
        """Where the session of `key` (32 hex digits) lies. Raises ValueError for anything else."""
        if not isinstance(key, str) or not re.fullmatch("[0-9a-f]{32}", key):
            raise ValueError("this is no session key: a key is 32 hex digits")
        name = hashlib.sha256(key.encode()).hexdigest()
        return self.folder / name[:2] / name

    def secret(self) -> str:
        """A random string that stays the same for this store: it scrambles what browsers keep, and protects nothing."""
        path = self.folder / "browser-secret"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_text(secrets.token_hex(16))
        return path.read_text()

    def save(self, key: str, session: Session) -> None:
        """Keep `session` under `key`, in place of the one before. Raises OSError when the disk refuses."""
        session.save(self.path(key))

    def load(self, key: str, base) -> Session | None:
        """The session of `key`, None when there is none. Raises ValueError when it is damaged or of another base."""
        try:
            return Session.load(self.path(key), base)
        except FileNotFoundError:
            return None
