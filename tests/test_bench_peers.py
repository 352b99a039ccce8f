"""CNS beside diffusers' scripts, each as a process of its own; what stands in for the scripts takes their options and shows their bar."""

import json
import re
import sys
from dataclasses import replace

import pytest

from cns.__main__ import main
from cns.base import Base
from cns.bench import peers
from cns.bench.peers import SCRIPTS, compare, cost, found, kept

MIB = 2**20
STAND_IN = """
import argparse, json, subprocess, sys, time

try:
    import no_such_package_of_trackers
except ImportError:
    pass

options = ("pretrained_model_name_or_path", "instance_data_dir", "output_dir", "resolution", "train_batch_size", "max_train_steps", "mixed_precision", "instance_prompt")
parser = argparse.ArgumentParser()
for option in options:
    parser.add_argument("--" + option, required=True)
args, _ = parser.parse_known_args()
json.dump(vars(args), open("told.json", "w"))
worker = subprocess.Popen([sys.executable, "-c", "import os; held = b'x' * (128 << 20); os.write(1, b'.'); os.read(0, 1)"], stdin=-1, stdout=-1)
worker.stdout.read(1)
time.sleep(2)
n = int(args.max_train_steps)
for k in range(n + 1):
    print(f"\\rSteps: {100 * k // n:3}%|####      | {k}/{n} [00:00<00:00, loss=1.2]", end="", file=sys.stderr, flush=True)
    time.sleep(0.03)
time.sleep(30)
more = b"x" * (1024 << 20)
time.sleep(3600)
"""
FAILING = "import sys\nfor i in range(99):\n    print('line', i)\nprint('RuntimeError: out of luck', file=sys.stderr)\nsys.exit(3)\n"


def checkout(folder, text=STAND_IN):
    """A folder with `text` in the place of each script."""
    for name in SCRIPTS:
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def task(tiny_base, tmp_path):
    (folder := tmp_path / "kept").mkdir()
    return kept(Base(tiny_base.pipe, replace(tiny_base.card, teach={"batch_size": 8})), folder, 100)


def test_a_script_is_watched_to_its_last_step_and_ended_there(task, tmp_path):
    script = checkout(tmp_path / "there") / next(iter(SCRIPTS))
    it = cost(task.script(script, ("--instance_prompt", "a cat"), tmp_path), "Steps", task, tmp_path)
    assert 0.03 <= it.step < it.start / 4 and it.start > 2  # what is done once is not in the step
    assert 128 * MIB < it.memory < 1024 * MIB  # its worker's counts, and what comes after the last step does not
    told = json.loads((tmp_path / "told.json").read_text())
    assert {k: told[k] for k in ("resolution", "train_batch_size", "max_train_steps", "mixed_precision")} == {
        "resolution": "32", "train_batch_size": "8", "max_train_steps": "101", "mixed_precision": "no",
    }  # fmt: skip
    assert len([*task.pictures.iterdir()]) == 8  # so that each batch is a whole one


def test_all_are_printed_with_their_ratios(task, tmp_path, capsys):
    compare(task, found(checkout(tmp_path / "there")), tmp_path)
    out = capsys.readouterr().out
    for name in ("cns teach", *(s.rpartition("/")[2] for s in SCRIPTS)):
        assert re.search(rf"steps a minute, {re.escape(name)}  \(CNS [\d.]+x\) +[\d.,]+", out), out
    assert re.search(r"peak memory, train_dreambooth_lora.py  \(CNS [\d.]+x\) +[\d,.]+ MiB\nthe same beyond the base's weights", out), out
    assert all(float(v.replace(",", "")) > 0 for v in re.findall(r"([\d,.]+) (?:MiB|s|)\n", out))


def test_a_script_that_fails_is_named_with_its_status_and_last_words(task, tmp_path):
    (script := tmp_path / "train_it.py").write_text(FAILING)
    with pytest.raises(ChildProcessError, match=r"`train_it.py` ended with exit status 3 before its step 101(.|\n)*line 98\nRuntimeError: out of luck$") as error:
        cost(task.script(script, (), tmp_path), "Steps", task, tmp_path)
    assert "line 50" not in str(error.value)


def test_steps_that_cannot_be_told_apart_are_no_figure(task, tmp_path):
    shown = "print('Steps:   0%|  | 0/101 [\\rSteps: 100%|##| 101/101 [', flush=True); import time; time.sleep(3600)"
    with pytest.raises(ValueError, match="too fast for 100 steps.*--steps 1010"):
        cost([sys.executable, "-c", shown], "Steps", task, tmp_path)


def test_what_is_not_there_is_refused_before_anything_is_built(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(peers, "random_base", lambda *_, **__: pytest.fail("a base was built"))

    def said(*more):
        assert main(["bench", "speed", *more]) == 2
        return capsys.readouterr().err

    lacking = said("--base", "sd15-random", "--diffusers", str(tmp_path))
    assert "custom_diffusion/train_custom_diffusion.py" in lacking and "git clone --depth 1" in lacking and lacking.count("\n") == 1
    there = checkout(tmp_path / "there", "import json\nimport no_such_package\nfrom neither_that.one import x\n")
    assert "`train_custom_diffusion.py` needs what is not installed: pip install neither_that no_such_package" in said("--base", "sd15-random", "--diffusers", str(there))
    assert "not `sdxl-random`" in said("--base", "sdxl-random", "--diffusers", str(there))
    assert "not the starter" in said("--diffusers", str(there))
