"""The GPU functions as ZeroGPU runs them: in a forked worker that stays warm from one visitor to the next, everything pickled.

The worker below does what `spaces` does with it: it is forked with the base in memory, gets pickled arguments, sends pickled
yields, dies of an error, and can be killed at any time.
"""

import hashlib
import multiprocessing
import pickle
import re

import gradio as gr
import numpy as np
import pytest
import torch
from conftest import QUICK, assert_unchanged, snapshot

import cns
from cns.ui import gpu, zerogpu
from cns.ui.common import told
from cns.ui.teach import Paused

RUN = "0123456789abcdef" * 2
SETTINGS = cns.TeachSettings(**{**QUICK, "steps": 7, "preview_every": 4})


def state_of_worker():
    """Everything that a visitor could have left behind: all weights, gradients, hooks, random states, what the modules hold."""
    digest, base = hashlib.sha256(), gpu._base
    for name, t in snapshot(base).items():
        digest.update(name.encode() + t.numpy().tobytes())
    digest.update(torch.get_rng_state().numpy().tobytes() + np.random.get_state()[1].tobytes())
    left = [n for n, m in base.denoiser.named_modules() if m._forward_hooks or m._forward_pre_hooks or getattr(m, "processor", None).__class__.__name__.startswith("_")]
    left += [n for n, p in base.denoiser.named_parameters() if p.requires_grad or p.grad is not None or p._post_accumulate_grad_hooks]
    left += [e for e in base.embeddings if e._forward_hooks]
    return digest.hexdigest(), left, sorted(vars(gpu)), vars(gpu.pace)


def serve(link):
    torch.set_num_threads(1)  # other threads did not survive the fork
    while True:
        name, args = pickle.loads(link.recv_bytes())
        try:
            result = state_of_worker() if name == "state" else GPU[name](*args)
            for value in result if hasattr(result, "__next__") else (result,):
                link.send_bytes(pickle.dumps(("value", value)))
            link.send_bytes(pickle.dumps(("end", None)))
        except Exception as error:
            link.send_bytes(pickle.dumps(("error", error)))
            return


GPU = {"teach": gpu.teach, "draw": gpu.draw}


class Worker:
    """The platform: a warm process while nothing goes wrong, a new one after an error or a kill."""

    def __init__(self):
        self.process = None
        self.started = 0

    def call(self, name, *args):
        if self.process is None:
            self.link, far = multiprocessing.Pipe()
            self.process = multiprocessing.get_context("fork").Process(target=serve, args=(far,), daemon=True)
            self.process.start()
            far.close()
            self.started += 1
        self.link.send_bytes(pickle.dumps((name, args)))
        while True:
            try:
                kind, value = pickle.loads(self.link.recv_bytes())
            except EOFError:
                self.end()
                raise gr.Error("GPU task aborted", title="ZeroGPU worker error") from None
            if kind == "error":
                self.end()
                raise value
            if kind == "end":
                return
            yield value

    def one(self, name, *args):
        (value,) = self.call(name, *args)
        return value

    def end(self):
        if self.process:
            self.process.kill()
            self.process.join()
            self.process = None


@pytest.fixture
def worker(tiny_base, monkeypatch):
    gpu.use(tiny_base)
    gpu.clear(RUN)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so that sums are added in the worker's order here, too
    monkeypatch.setattr(gpu, "pace", zerogpu.Pace(step=zerogpu.SLICE / 3, start=0.0))  # three steps in a slice
    monkeypatch.setattr(zerogpu, "ON_LOAN", True)
    worker = Worker()
    monkeypatch.setattr(gpu, "teach", lambda *args: worker.call("teach", *args))
    monkeypatch.setattr(gpu, "measured", lambda events: events)  # else this machine's real pace would change the slices
    yield worker
    worker.end()
    torch.set_num_threads(threads)


def same(one: cns.Session, other: cns.Session) -> bool:
    a, b = one.parts()[1], other.parts()[1]
    return one.tokens == other.tokens and a.keys() == b.keys() and all(torch.equal(t, b[n]) for n, t in a.items())


def test_two_visitors_in_one_warm_worker_leave_nothing_behind(worker, tiny_base, concept, other_concept):
    clean = worker.one("state")
    *events, first = gpu.learn(None, concept, SETTINGS, RUN)
    assert [e.step for e in events if e.stage == "pause"] == [3, 6, 7]
    drawn = worker.one("draw", "a <rex> dog", first.session, cns.GenerateSettings(count=2))
    assert worker.one("state") == clean
    *_, second = gpu.learn(None, other_concept, SETTINGS, RUN)  # another visitor, with a session of his own
    plain = worker.one("draw", "a cat face", None, cns.GenerateSettings())
    assert worker.one("state") == clean and worker.started == 1
    for taught, alone in ((first, concept), (second, other_concept)):
        *_, wanted = cns.teach(tiny_base, None, alone, SETTINGS)
        assert same(taught.session, wanted.session)
    assert [p.tobytes() for p in drawn] == [p.tobytes() for p in cns.generate(tiny_base, "a <rex> dog", first.session, cns.GenerateSettings(count=2))]
    assert plain[0].tobytes() == cns.generate(tiny_base, "a cat face")[0].tobytes()
    with pytest.raises(gr.Error, match="`&lt;rex&gt;` was never taught. Taught: `&lt;tom&gt;`"):
        worker.one("draw", "a <rex> dog", second.session, cns.GenerateSettings())


def test_a_slice_that_is_killed_costs_one_slice(worker, tiny_base, concept):
    before, calls = snapshot(tiny_base), []

    def platform(*args):
        calls.append((args[5].step if args[5] else 0, args[6]))
        for event in worker.call("teach", *args):
            if len(calls) == 2 and event.stage == "train":
                worker.process.kill()  # in the middle of the second slice
            yield event

    gpu.teach = platform  # the fixture puts it back
    *_, last = gpu.learn(None, concept, SETTINGS, RUN)
    *_, wanted = cns.teach(tiny_base, None, concept, SETTINGS)
    assert same(last.session, wanted.session) and worker.started == 2
    assert calls[:3] == [(0, 3), (3, 6), (3, 4)]  # tried again from where it was, at half the length
    assert_unchanged(tiny_base, before)


def test_what_the_platform_ends_for_good_goes_on_when_teach_is_pressed_again(worker, tiny_base, concept):
    def platform(*args):
        if args[5] and args[5].step == 6:
            raise gr.Error("You have exceeded your free ZeroGPU quota (30s requested vs. 7s left). Try again in 3:20:11. ", title="ZeroGPU quota exceeded")
        yield from worker.call("teach", *args)

    gpu.teach, progress = platform, None
    with pytest.raises(gr.Error, match="exceeded"):
        for event in gpu.learn(None, concept, SETTINGS, RUN):
            progress = event.progress or progress
    assert not gpu.flag(RUN, "busy").exists()
    paused = Paused(None, concept, SETTINGS, False, progress)
    assert "6 of 7 steps of &lt;rex&gt; are kept" in paused.words
    assert paused.fits(None, cns.Concept("rex", "dog", concept.images), SETTINGS, False)
    assert not paused.fits(None, cns.Concept("rex", "dog", concept.images[1:]), SETTINGS, False)
    assert not paused.fits(None, concept, cns.TeachSettings(**QUICK), False)
    gpu.teach = lambda *args: worker.call("teach", *args)
    *_, last = gpu.learn(None, concept, SETTINGS, RUN, progress=paused.progress)
    assert same(last.session, [*cns.teach(tiny_base, None, concept, SETTINGS)][-1].session)


def test_a_call_asks_for_what_its_steps_take(concept):
    pace = gpu.pace = zerogpu.Pace(step=0.5, draw=2.0, start=4.0, measured=True)
    progress = [*cns.teach(gpu._base, None, concept, cns.TeachSettings(**QUICK), until=5)][-1].progress
    settings = cns.TeachSettings(steps=100)
    assert gpu._seconds(None, concept, settings, RUN, False, None, 20) == 4 + 1.5 * 20 * 0.5
    assert gpu._seconds(None, concept, settings, RUN, False, progress, 25) == 4 + 1.5 * 20 * 0.5
    assert gpu._seconds(None, concept, cns.TeachSettings(steps=5), RUN, False, progress, 5) == 4 + 1.5 * 2 * 2.0
    assert gpu._seconds(None, concept, cns.TeachSettings(steps=5000), RUN) == zerogpu.LONGEST
    assert pace.price(100, 1) == 4 + 50 + 3 * 2  # before, after, and the one known till then
    assert pace.steps() == 30


def test_an_anonymous_visitor_can_pay_for_one_concept_and_is_told_the_price_first():
    pace, left = zerogpu.Pace(step=0.15, draw=1.5, start=4.0), 120.0  # about Stable Diffusion at 512 pixels
    for steps in (*[pace.steps()] * (200 // pace.steps()), 200 % pace.steps(), 0):
        assert 1.5 * pace.asked(steps, 0) <= left, "the platform would refuse"
        left -= pace.start + (steps * pace.step if steps else pace.finishing(0))
    assert left >= 0
    assert zerogpu.priced(pace, 200, 0).startswith(f"Teaching takes about {pace.price(200, 0)} s")
    assert "assumed" in zerogpu.priced(pace, 200, 0)
    pace.learn(30.0, 200, 6.0, 3)
    assert (pace.step, pace.draw) == (0.15, 2.0) and "assumed" not in zerogpu.priced(pace, 200, 0)


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (gr.Error("You have exceeded your free ZeroGPU quota (90s requested vs. 12s left). Try again in 3:20:11. ", title="ZeroGPU quota exceeded"), "12 s are left): try again in 3:20:11"),
        (gr.Error("You have exceeded your ZeroGPU runs limit. ", title="ZeroGPU quota exceeded"), "wait a few minutes"),
        (gr.Error("Space app has reached its GPU limit. Try re-running", title="ZeroGPU quota exceeded"), "sign in to Hugging Face"),
        (gr.Error("No GPU was available after 60s. Try re-running", title="ZeroGPU quota exceeded"), "try again in a few minutes"),
        (gr.Error("No GPU was available after 60s", title="ZeroGPU queue timeout"), "try again in a few minutes"),
        (gr.Error("The requested GPU duration (450s) is larger than the maximum allowed", title="ZeroGPU illegal duration"), "450 s of GPU time is more"),
        (gr.Error("You have too many ZeroGPU credits", title="ZeroGPU pending credits exceeded"), "wait until they have ended"),
        (gr.Error("GPU task aborted", title="ZeroGPU worker error"), "took the GPU away"),
        (gr.Error("OutOfMemoryError", title="ZeroGPU worker error"), "memory is full"),
        (gr.Error("KeyError", title="ZeroGPU worker error"), "tell the owner"),
        (gr.Error("Expired ZeroGPU proxy token", title="ZeroGPU client error"), "reload the page"),
        (gr.Error("Internal Gradio error", title="ZeroGPU client error"), "try again in a minute"),
        (gr.Error("anything new", title="ZeroGPU something"), "try again in a few minutes"),
        (RuntimeError("ZeroGPU API /schedule error: 500 (Internal Server Error)"), "try again in a minute"),
        (RuntimeError("Connection closed by visitor while queueing"), "try again in a minute"),
    ],
)
def test_the_platforms_errors_become_sentences_that_say_what_to_do(error, wanted):
    shown = told(error)
    assert isinstance(shown, gr.Error) and wanted in shown.message and re.match("[A-Z0-9]", shown.message)
    assert told(shown) is shown, "said once is said"


def test_other_errors_are_left_alone():
    for error in (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), KeyError("x"), gr.Error("The prompt is empty")):
        assert told(error) is error
