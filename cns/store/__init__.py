"""Sessions that survive: whoever knows a key gets what was saved under it, every version of it, and nobody else does.

    session -> archive (one file) -> version (a file with a name that says when and what) -> a folder on disk or a Hub dataset repo
"""

from pathlib import Path

from .archive import Draft, pack, unpack
from .hub import HubStore
from .local import LocalStore
from .versions import State, Store, Version

HOME = Path.home() / ".cache" / "cns-studio"


def open_store(where: str | Path | None = None) -> Store:
    """The store at `where`: a folder, `hub:owner/name`, or None for the default folder. Raises OSError or ValueError when it cannot be had."""
    if str(where).startswith("hub:"):
        repo = str(where).removeprefix("hub:")
        return HubStore(repo, HOME / "journal" / repo.replace("/", "--"))
    return LocalStore(where or HOME)


__all__ = ["Draft", "HubStore", "LocalStore", "State", "Store", "Version", "open_store", "pack", "unpack"]
