"""Files that a handler writes, and how they go: an hour after they were made, by the app's own clean-up, or with the program.

All lie under one folder of this process, which nobody else may read: ours, Gradio's own in `UPLOADS`, what visitors upload among
them, and in `FLAGS` what a page says to a GPU worker. Gradio's clean-up (`delete_cache`) knows the files that it made itself; those made here are told to it by `swept` and `made`.
"""

import atexit
import os
import secrets
import shutil
import tempfile
from pathlib import Path

from gradio.route_utils import delete_files_created_by_app

AGE = 3600  # seconds


def _root() -> Path:
    """This process's folder: a new one, or, where hot reload runs this module again, the one that the running server knows."""
    mine = f"cns-studio-{os.getpid()}-"  # a child process inherits the variable, not the folder
    known = Path(os.environ.get("GRADIO_TEMP_DIR", "")).parent
    return known if known.name.startswith(mine) and known.is_dir() else Path(tempfile.mkdtemp(prefix=mine))


ROOT = _root()
UPLOADS, FLAGS = ROOT / "gradio", ROOT / "flags"
FLAGS.mkdir(exist_ok=True)
os.environ["GRADIO_TEMP_DIR"] = str(UPLOADS)  # read whenever a page is built, served or sent a file
_made: set[str] = set()
atexit.register(lambda mine=os.getpid(): shutil.rmtree(ROOT, ignore_errors=True) if os.getpid() == mine else None)  # type: ignore[misc]  # not in a forked worker


def made(path: str | Path) -> Path:
    """`path`, which is to be deleted when it is older than `AGE`."""
    _made.add(str(path))
    return Path(path)


def new_file(name: str) -> Path:
    """A path for a file of that name that nobody can guess."""
    folder = ROOT / secrets.token_hex(16)
    folder.mkdir()
    return made(folder / name)


def swept(demo) -> None:
    """From now on the clean-up of `demo` also deletes what was `made`."""
    demo.temp_file_sets.append(_made)


def sweep(demo, age: float = AGE) -> None:
    """What the clean-up of `demo` does each hour; then our folders that it emptied go, too."""
    delete_files_created_by_app(demo, age)
    for folder in [f for f in ROOT.iterdir() if f.is_dir() and f not in (UPLOADS, FLAGS)]:
        if not any(folder.iterdir()):
            folder.rmdir()


def left() -> list[Path]:
    """Every file that there is now, ours and Gradio's."""
    return [f for f in ROOT.rglob("*") if f.is_file()]
