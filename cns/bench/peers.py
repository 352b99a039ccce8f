"""A base and a checkout of diffusers in, what teaching costs with CNS and with diffusers' own training scripts out, each as a process of its own.

All read the same folder of a base and the same pictures, at the same batch, resolution and precision, on the same device. They are watched
from outside: their progress bars say when a step is done, and each is ended with its last step, before it saves and draws (the scripts load
the whole pipeline once more for that). So a step's time is the slope from the end of the first to the end of the last, and the
memory is the most that was taken until then, loading and, of CNS, the choosing of neurons included. Memory is the process's
own and its children's; on CUDA it is what the device has less free, so nobody else should be using it.

What each does in a step is its own design and counts: the scripts encode pictures and text in every step, Custom Diffusion trains the token's
embedding with an optimizer over the whole table. What is optional is off, which spares the scripts work: pictures of the class (prior
preservation would double a step of theirs), augmentation, validation, checkpoints, loading by other processes, gradient checkpointing.
"""

import ast
import gc
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import psutil
import torch
from PIL import Image

from .. import devices
from ..base import CARD
from ..teaching import TeachSettings
from . import ROOT, row
from .ratios import most, ratios
from .sizes import random_base

SCRIPTS = {  # in a checkout of diffusers: what each is to be told beside what all are
    "examples/custom_diffusion/train_custom_diffusion.py": ("--instance_prompt", "a <new1> cat", "--modifier_token", "<new1>", "--initializer_token", "cat", "--noaug"),
    "examples/dreambooth/train_dreambooth_lora.py": ("--instance_prompt", "a sks cat"),
}  # fmt: skip
BASE = "sd15-random"  # what the scripts can train
KEPT = 4000  # characters of what a process said
LINES = 12  # of them, shown when it fails


@dataclass(frozen=True)
class Task:
    """What every process is given to do."""

    base: Path  # folder of a pipeline
    pictures: Path  # folder
    size: int  # of a picture [pixels]
    batch: int
    half: bool  # whether weights are held in bfloat16
    device: torch.device
    bytes: int  # of the base's weights
    steps: int  # to take, one more than are timed

    def cns(self, work: Path) -> list[str]:
        pictures = sorted(map(str, self.pictures.iterdir()))[:10]  # no concept has more
        about = ["--base", str(self.base), "--session", str(work / "session"), "--name", "rex", "--class", "cat", "--steps", str(self.steps)]
        return [sys.executable, "-m", "cns", "teach", *about, *pictures]

    def script(self, file: Path, more: tuple[str, ...], work: Path) -> list[str]:
        told = {
            "pretrained_model_name_or_path": self.base, "instance_data_dir": self.pictures, "output_dir": work / "trained", "resolution": self.size,
            "train_batch_size": self.batch, "max_train_steps": self.steps, "mixed_precision": "bf16" if self.half else "no", "seed": 0,
            "checkpointing_steps": 10**6, "dataloader_num_workers": 0, "report_to": "tensorboard",  # which is left out where it is not installed
        }  # fmt: skip
        return [sys.executable, str(file), *(str(a) for k, v in told.items() for a in (f"--{k}", v)), *more]


@dataclass(frozen=True)
class Cost:
    """What teaching costs."""

    start: float  # to the end of the first step [s]
    step: float  # [s]
    memory: int  # the most until the last step [bytes]


def found(checkout: Path) -> dict[Path, tuple[str, ...]]:
    """The `SCRIPTS` in a checkout. Raises FileNotFoundError for one that is missing, ModuleNotFoundError for packages that they need and are not here."""
    scripts = {checkout / name: more for name, more in SCRIPTS.items()}
    for name, file in zip(SCRIPTS, scripts):
        if not file.is_file():
            raise FileNotFoundError(
                f"`{checkout}` has no `{name}`: name a checkout of diffusers, such as "
                f"`git clone --depth 1 --branch v{version('diffusers')} https://github.com/huggingface/diffusers` makes (of the newest without `--branch`)"
            )
    for file in scripts:
        if missing := sorted(m for m in _imported(file) if not importlib.util.find_spec(m)):
            raise ModuleNotFoundError(f"`{file.name}` needs what is not installed: pip install {' '.join(missing)}")
    return scripts


def _imported(file: Path) -> set[str]:
    """The packages that a script cannot do without."""
    names: set[str] = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Import):
            names |= {a.name.split(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def taken(pid: int, device: torch.device) -> int:
    """Memory that a process and its children take [bytes]; on CUDA that all take of the device, which does not tell them apart in a container."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return total - free
    try:
        process = psutil.Process(pid)
        return sum(p.memory_info().rss for p in [process, *process.children(recursive=True)])
    except psutil.NoSuchProcess:
        return 0


def cost(argv: list[str], bar: str, task: Task, cwd: Path) -> Cost:
    """What a process costs up to the last step of its progress bar, which begins with `bar`; there it is ended.

    Raises ChildProcessError when it ends by itself before, ValueError when its steps cannot be told apart.
    """
    before = taken(0, task.device) if task.device.type == "cuda" else 0
    began, marks, said = time.perf_counter(), dict[int, float](), ""
    done = re.compile(rf"{re.escape(bar)}: .*?(\d+)/{task.steps} \[")
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    with _running(argv, cwd, env) as child, most(lambda: taken(child.pid, task.device), 0.05) as memory:
        while task.steps not in marks and (chunk := os.read(child.stdout.fileno(), 2**16)):
            said = (said + chunk.decode(errors="replace"))[-KEPT:]
            for step in map(int, done.findall(said)):
                marks.setdefault(step, time.perf_counter() - began)
        status = child.wait() if task.steps not in marks else None
    if status is not None:
        told = "\n".join([line for line in re.split(r"[\r\n]+", said) if line.strip()][-LINES:])
        raise ChildProcessError(f"`{_name(argv)}` ended with exit status {status} before its step {task.steps}; the last that it said:\n{told}")
    first = min(step for step in marks if step)
    if first == task.steps:
        raise ValueError(f"`{_name(argv)}` is too fast for {task.steps - 1} steps to be timed: measure more of them, such as `--steps {10 * task.steps}`")
    return Cost(marks[first], (marks[task.steps] - marks[first]) / (task.steps - first), memory[0] - before)


def _name(argv: list[str]) -> str:
    return "cns teach" if argv[1] == "-m" else Path(argv[1]).name


@contextmanager
def _running(argv: list[str], cwd: Path, env: dict[str, str]) -> Iterator:
    """Within: the process; after, it is ended."""
    with subprocess.Popen(argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as child:
        try:
            yield child
        finally:
            child.kill()  # nothing of what it would save is wanted


def kept(base, folder: Path, steps: int) -> Task:
    """`base` and pictures to teach, saved in an empty `folder`; `steps` to be timed."""
    batch = TeachSettings.of(base).batch_size
    base.pipe.save_pretrained(folder / "base")
    (folder / "base" / CARD).write_text(json.dumps(asdict(base.card)))
    (folder / "pictures").mkdir()
    for i in range(max(2, batch)):  # so many that every batch is a whole one
        Image.effect_noise((base.size, base.size), 60).convert("RGB").save(folder / "pictures" / f"{i}.png")
    half = next(base.denoiser.parameters()).dtype is torch.bfloat16
    return Task(folder / "base", folder / "pictures", base.size, batch, half, base.device, base.parameters * (2 if half else 4), steps + 1)


def compare(task: Task, scripts: dict[Path, tuple[str, ...]], work: Path) -> None:
    """Print what CNS and the `scripts` cost, each in its own folder in `work`."""
    print(f"\neach as a process of its own, {task.steps} steps, to the end of the last; {task.bytes / 2**20:,.0f} MiB are the base's weights", flush=True)
    own = cost(task.cns(work), "<rex>", task, ROOT)
    _rows("cns teach", own, own, task)
    for file, more in scripts.items():
        (place := work / file.stem).mkdir()
        _rows(file.name, cost(task.script(file.resolve(), more, place), "Steps", task, place), own, task)


def _rows(name: str, it: Cost, own: Cost, task: Task) -> None:
    ours, theirs = (max(1, c.memory - task.bytes) for c in (own, it))
    row(f"steps a minute, {name}  (CNS {it.step / own.step:.2f}x)", 60 / it.step, "")
    row(f"peak memory, {name}  (CNS {own.memory / it.memory:.2f}x)", it.memory / 2**20, "MiB")
    row(f"the same beyond the base's weights  (CNS {ours / theirs:.2f}x)", theirs / 2**20, "MiB")
    row("from its start to the end of its first step", it.start, "s")


def side_by_side(name: str | None, size: int | None, steps: int | None, checkout: Path | None) -> None:
    """Print the costs on a random base, beside other ways in this process and, given a `checkout` of diffusers, beside its scripts.

    `steps` to measure each with; by default as few as tell, since a CPU takes seconds for one and a GPU shows many at once.

    Raises ValueError for a base that the scripts cannot train, and as `found` and `cost` do.
    """
    if checkout and name != BASE:
        raise ValueError(f"`--diffusers` goes with `--base {BASE}`, not {f'`{name}`' if name else 'the starter'}: its scripts train Stable Diffusion 1 and 2")
    scripts = found(checkout) if checkout else {}
    base = random_base(name or BASE, size=size)
    steps = steps or (2 if base.device.type == "cpu" else 50)
    ratios(base, steps)
    if not scripts:
        return
    with tempfile.TemporaryDirectory() as folder:
        task = kept(base, Path(folder), steps)
        del base  # the others need its room
        gc.collect()
        devices.give_back()
        if task.device.type == "cuda":
            torch.cuda.empty_cache()
        compare(task, scripts, Path(folder))
