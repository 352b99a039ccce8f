"""Bytes in, a file out that is whole or not there: written aside, flushed to the disk, then renamed, and the folder flushed, too."""

import os
import secrets
from pathlib import Path


def write(path: Path, content: bytes) -> None:
    """`content` at `path`, atomically and durably. Raises OSError when the disk refuses; then nothing is left behind."""
    new = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{secrets.token_hex(8)}.part")
    try:
        with open(part, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        os.replace(part, path)
        for folder in (path.parent, *(n.parent for n in new)):
            flush(folder)
    finally:
        part.unlink(missing_ok=True)


def flush(folder: Path) -> None:
    """Make what was renamed in, or removed from, `folder` survive a power cut. Windows flushes folders by itself."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
