"""What the README says to type: the shell understands it, and its Python runs, also against the running app."""

import re
import shlex
from pathlib import Path

import pytest
from conftest import picture
from test_keeping import app  # noqa: F401  a fixture

import cns
from cns.__main__ import COMMANDS as KNOWN
from cns.bench import ROOT
from cns.options import parser

TEXT = (ROOT / "README.md").read_text()
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", TEXT, re.S) for line in block.splitlines() if line.startswith("python -m cns ")]
COMMANDS += re.findall("`(python -m cns bench [^`]*)`", TEXT)
CALLS, OWN = ([b for b in re.findall(r"```python\n(.*?)```", TEXT, re.S) if ("gradio_client" in b) == calls] for calls in (True, False))


@pytest.mark.parametrize("command", dict.fromkeys(COMMANDS))
def test_the_shell_understands_every_command(command):
    assert parser().parse_args(shlex.split(command, comments=True)[3:]).command in KNOWN


@pytest.fixture
def pictures(tiny_base, tmp_path, monkeypatch):
    """Within a folder with the pictures that the examples name; a thing is taught in three steps."""
    for name in ("1", "2", "3", "beach"):
        picture("red").save(tmp_path / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(tiny_base.card.teach, "steps", 3)
    return tmp_path


def test_the_example_in_python_runs(pictures, tiny_base, monkeypatch):
    monkeypatch.setattr(cns, "load_base", lambda: tiny_base)
    names = {}
    exec("".join(OWN), names)
    assert [p.size for p in names["pictures"]] == [(32, 32)] and names["event"].session.tokens == ("<rex>",)


def test_the_example_for_programs_runs_against_the_app(app, pictures, capsys):  # noqa: F811
    names = {}
    exec("".join(CALLS).replace("http://127.0.0.1:7860", app.local_url), names)
    assert len(names["table"]) == 4 and len(names["files"]) == 1 and [w["word"] for w in names["heat"]][:2] == ["a", "<rex>"]
    assert all(Path(cell["file"]["path"] if isinstance(cell["file"], dict) else cell["file"]).exists() for cell in names["table"])
    assert capsys.readouterr().out.strip().splitlines()[-1] == "[]"  # nothing else was taught, so nothing was lost
