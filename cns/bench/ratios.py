"""A base in, what CNS costs beside the field's ways out: one run on one machine at equal batch, resolution and type, as ratios.

A way's seconds a step are the slope between a short and a longer run of its own loop, so that what is done once does not count.
"""

import gc
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psutil
import torch
from PIL import Image

from .. import devices
from ..baselines import method
from ..baselines.lora import Lora
from ..baselines.methods import FinetuneKV
from ..concept import Concept
from ..generation import GenerateSettings, generate
from ..session import Session
from ..teaching import Teaching, TeachSettings
from . import row

WAYS = {"all of K/V (Custom Diffusion without prior pictures)": FinetuneKV, "LoRA on K/V (peft, rank 8)": Lora}
CONCEPTS = (1, 10, 50)  # in a session


@contextmanager
def most(read: Callable[[], int], pause: float = 0.01):
    """Within: yields a list that then holds the most that `read()` said, asked every `pause` [s]."""
    out: list[int] = []
    done, seen = threading.Event(), [read()]

    def watch():
        while not done.wait(pause):
            seen.append(read())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield out
    finally:
        done.set()
        watcher.join()
        out.append(max(seen))


@contextmanager
def peak(device: torch.device):
    """Within: yields a list that then holds the most memory that was taken over what was there [bytes]."""
    out: list[int] = []
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield out
        out.append(torch.cuda.max_memory_allocated(device) - before)
        return
    devices.give_back()  # else what an earlier way had freed would be taken again unseen
    process = psutil.Process()
    before = process.memory_info().rss
    with most(lambda: process.memory_info().rss) as seen:
        yield out
    out.append(seen[0] - before)


def timed(run, device: torch.device) -> float:
    """Seconds that `run()` takes."""
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def step_of_cns(base, session, concept, settings, steps: int) -> tuple[float, float]:
    """(seconds of a training step on top of `session`, seconds that choosing the neurons took)."""
    start = time.perf_counter()
    run = Teaching(base, session, concept, settings).begun()
    chosen = time.perf_counter() - start
    with run.patched():
        run.train_step()
        return timed(lambda: [run.train_step() for _ in range(steps)], base.device) / steps, chosen


def step_of(kind, base, concept, settings, steps: int) -> float:
    """Seconds of a training step of another way."""

    def taught(n):
        return timed(lambda: kind(base, replace(settings, steps=n)).teach(concept), base.device)

    taught(1)
    return (taught(1 + steps) - taught(1)) / steps


def many(base, session: Session, count: int) -> Session:
    """A session of `count` concepts, each with as many neurons as the only one of `session`, elsewhere."""
    (c,), parts, concepts = session.concepts, [], []
    own = session.increments(c.name)
    for i in range(count):
        g = torch.Generator().manual_seed(i)
        mask = {n: torch.randint(base.weights[n].numel(), (len(m),), generator=g).unique() for n, m in c.mask.items()}
        concepts.append(replace(c, name=f"c{i}", mask=mask))
        parts.append({n: own[n][: len(m)] for n, m in mask.items()})
    return session.of(concepts, parts)


def ratios(base, steps: int) -> None:
    """Print the costs on `base`, `steps` training steps for each figure."""
    settings = TeachSettings.of(base, steps=1, preview_every=0)
    picture = Image.effect_noise((base.size, base.size), 60).convert("RGB")
    concept, other = (Concept(n, "cat", [picture] * 2) for n in ("rex", "tom"))
    print(f"{base.id}: {base.parameters / 1e6:,.0f} million weights on {base.device}, {base.size} pixels, batch {settings.batch_size}\n", flush=True)
    with peak(base.device) as memory:
        own, chosen = step_of_cns(base, Session.new(base), concept, settings, steps)
    row("teach step, CNS", 1000 * own, "ms")
    row("teach memory over the base, CNS", memory[0] / 2**20, "MiB")
    row("before its first step: latents, neurons", 1000 * chosen, "ms")
    pixels = torch.zeros(settings.batch_size, 3, base.size, base.size)
    encoding = _median(lambda: base.latents(pixels), base.device, 3)
    row(f"encode a batch, which diffusers' scripts do in every step  (+{encoding / own:.2f} of CNS's step)", 1000 * encoding, "ms")
    for name, kind in WAYS.items():
        with peak(base.device) as theirs:
            seconds = step_of(kind, base, concept, settings, steps)
        row(f"teach step, {name}  ({seconds / own:.2f}x CNS)", 1000 * seconds, "ms")
        row(f"teach memory, {name}  (CNS {memory[0] / max(1, theirs[0]):.2f}x)", theirs[0] / 2**20, "MiB")
    way: Any = method("cns", base, steps=1)
    way.teach(concept)
    _drawing(base, way.session)
    for count in CONCEPTS:
        session = many(base, way.session, count)
        with peak(base.device) as memory:
            seconds, _ = step_of_cns(base, session, other, settings, steps)
        row(f"teach step with {count} concepts known  ({seconds / own:.2f}x)", 1000 * seconds, "ms")
        row(f"teach memory with {count} concepts known", memory[0] / 2**20, "MiB")
        row(f"apply and remove a session of {count}", 1000 * _median(lambda s=session: _on_and_off(base, s), base.device, 7), "ms")


def _drawing(base, session: Session) -> None:
    """What a picture costs with a session and without, turn by turn so that the machine's moods fall on both."""
    prompt, taken = {True: "a <rex> cat", False: "a big cat"}, {True: [], False: []}
    for turn in range(4):
        for known, seconds in taken.items():
            took = timed(lambda k=known: generate(base, prompt[k], session if k else None, GenerateSettings()), base.device)
            seconds += [took] if turn else []  # the first warms up
    with_it, without = (sorted(taken[k])[1] for k in (True, False))
    row("draw a picture without a session", 1000 * without, "ms")
    row(f"draw a picture with one  ({with_it / without:.3f}x)", 1000 * with_it, "ms")


def _on_and_off(base, session: Session) -> None:
    with session.on(base):
        pass


def _median(run, device, times: int) -> float:
    run()
    return sorted(timed(run, device) for _ in range(times))[times // 2]
