"""Figures of this machine, printed: how long each thing takes, how much memory and how many bytes."""

import resource
import subprocess
import sys
import tempfile
import time
import urllib.request

import torch

from ..base import load_base
from ..choosing import LOOKS
from ..generation import GenerateSettings, generate
from ..memory import remember
from ..parts import whole
from ..response import called, roomy, unrelated
from ..selection import concept_rms, select_base, select_general, select_sensitive
from ..session import Session
from ..teaching import TeachSettings, squared_gradients, teach
from ..text import class_embedding
from . import ROOT, ready_concepts, row


def median_ms(run, times: int = 5) -> float:
    """Median duration of `run()` [ms] after one warm-up."""
    run()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        taken.append(1000 * (time.perf_counter() - start))
    return sorted(taken)[times // 2]


def speed(source: str | None) -> None:
    """Print what teaching, drawing, selecting, applying, starting and keeping cost on `source` (None: the starter)."""
    start = time.perf_counter()
    base = load_base(source)
    row("load the base", time.perf_counter() - start, "s")
    session, bytes_before = Session.new(base), 0
    for concept in ready_concepts(3):
        start = time.perf_counter()
        *_, last = teach(base, session, concept, TeachSettings.of(base))
        row(f"teach {concept.token}, previews and memories included", time.perf_counter() - start, "s")
        session = last.session  # type: ignore[assignment]  # the last event has one
        size = session.summary(base)["bytes"]
        row(f"session after {len(session.concepts)} concepts (+{size - bytes_before:,} bytes)", size, "bytes")
        bytes_before = size
    prompt = f"a {session.concepts[0].words}"
    row("draw a picture with the session", median_ms(lambda: generate(base, prompt, session, GenerateSettings())) / 1000, "s")
    row("draw a picture without one", median_ms(lambda: generate(base, "a photo", None, GenerateSettings())) / 1000, "s")
    latents = torch.randn(4, *base.latent_shape, device=base.device)
    prompts, s = [t.format(concept.words) for t in base.card.templates], TeachSettings.of(base)

    def choose():
        select_base(base, whole(concept_rms(base, latents, prompts, session.vectors, torch.Generator().manual_seed(0))), s.base_share)

    def sensitive():
        select_sensitive(whole(squared_gradients(base, base.weights, latents, [prompts] * len(latents), session.vectors, s, LOOKS)), s.base_share)

    row("select base neurons by gradient", median_ms(sensitive, 1) / 1000, "s")
    row("select base neurons by response, as in the paper", median_ms(choose) / 1000, "s")

    def begin():
        own = {concept.token: class_embedding(base, concept)}
        whole(roomy(base, called(base, concept.words, 6), own, concept.token, whole(unrelated(base)), s.response, s.token_rate, s.room))

    row("move a new token to where there is room", median_ms(begin, 1) / 1000, "s")

    def general():
        base.general.clear()
        whole(select_general(base, s.base_share, s.general_share))

    row("select general neurons (once for a base)", median_ms(general, 1) / 1000, "s")

    def on_and_off():
        with session.on(base):
            pass

    row("apply and remove the session", median_ms(on_and_off, 21), "ms")
    row("remember all concepts", median_ms(lambda: remember(base, session), 1) / 1000, "s")
    if (ROOT / "app.py").exists():
        row("app ready", app_ready(source), "s")
    row("peak memory of this process", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "MiB")


def app_ready(source: str | None, port: int = 7899) -> float:
    """Seconds from starting `python app.py` to its first page."""
    with tempfile.TemporaryDirectory() as store:
        argv = [sys.executable, str(ROOT / "app.py"), "--port", str(port), "--store", store]
        start = time.perf_counter()
        with subprocess.Popen(argv + (["--base", source] if source else []), cwd=ROOT, stdout=subprocess.DEVNULL) as app:
            try:
                while True:
                    try:
                        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).read()
                        return time.perf_counter() - start
                    except OSError:
                        if app.poll() is not None:
                            raise ValueError("`python app.py` stopped before it was ready: run it to see why") from None
                        time.sleep(0.1)
            finally:
                app.terminate()
