"""`gradio app.py`, as a developer starts it: an edit of the page shows, and the model is not loaded again."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

from conftest import picture, tiny_pipeline
from gradio_client import Client, handle_file

from cns.bench import ROOT

LOADED = "the base is loaded"  # what the copy's `load_base` prints
GRADIO = [sys.executable, "-c", "from gradio.cli import cli; cli()", "app.py"]


def copied(folder):
    """A copy of the app's code in `folder` that says when it loads a base."""
    shutil.copy(ROOT / "app.py", folder)
    shutil.copytree(ROOT / "cns", folder / "cns", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "assets").symlink_to(ROOT / "assets")
    first = "    source = STARTER if source is None else source\n"
    edit(folder / "cns/base.py", first, f"    print({LOADED!r}, flush=True)\n{first}")


def edit(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def shows(url, text, process, log):
    """Waits until the page at `url` has `text` in it."""
    for _ in range(1200):
        try:
            if text in urllib.request.urlopen(url, timeout=30).read().decode():
                return
        except OSError:
            assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(f"{url} never showed {text!r}:\n{log.read_text()}")


def test_an_edit_shows_and_does_not_load_the_model_again(tmp_path):
    copied(tmp_path)
    tiny_pipeline().save_pretrained(tmp_path / "tiny")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    url, log = f"http://127.0.0.1:{port}", tmp_path / "log"
    env = {**os.environ, "CNS_BASE": str(tmp_path / "tiny"), "CNS_STORE": str(tmp_path / "store"), "GRADIO_SERVER_PORT": str(port)}
    with open(log, "w") as out:
        process = subprocess.Popen(GRADIO, cwd=tmp_path, env=env, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        shows(f"{url}/config", "<h1>CNS Studio</h1>", process, log)
        time.sleep(1)  # a file system may keep whole seconds
        edit(tmp_path / "cns/ui/__init__.py", "<h1>CNS Studio</h1>", "<h1>CNS Studio, edited</h1>")
        shows(f"{url}/config", "<h1>CNS Studio, edited</h1>", process, log)
        picture().save(tmp_path / "red.png")  # an upload arrives where the edited page looks for it
        pictures = Client(url, verbose=False, download_files=False).predict("a dog", steps=2, image=handle_file(tmp_path / "red.png"), api_name="/generate")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    said = log.read_text()
    assert len(pictures) == 1 and said.count("Changes detected") == 1, said
    assert said.count(LOADED) == 1 and "Traceback" not in said, said
