"""A stop acts between two passes of a network, wherever a teaching is; proven by counting passes, so on any machine."""

from contextlib import contextmanager

import pytest
import torch
from conftest import QUICK, assert_unchanged, snapshot, taught

import cns
from cns.parts import Dropped

SETTINGS = cns.TeachSettings(**{**QUICK, "score": "gradient", "steps": 5, "preview_every": 2, "room": 4})
KINDS = ("denoiser", "text encoder", "picture encoder", "picture decoder")


class Work:
    """Passes of the base's networks, since the last chance to stop and after the stop."""

    def __init__(self, base, stop_at=None, drop=False):
        self.base, self.stop_at, self.drop = base, stop_at, drop
        self.chances, self.since, self.most, self.after = 0, dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0)

    @property
    def stopped(self):
        return self.stop_at is not None and self.chances > self.stop_at

    def did(self, kind):
        self.since[kind] += 1
        self.after[kind] += self.stopped

    def chance(self):
        self.most = {k: max(n, self.since[k]) for k, n in self.most.items()}
        self.since = dict.fromkeys(KINDS, 0)

    def asked(self):
        self.chance()
        self.chances += 1
        if self.stopped and self.drop:
            raise Dropped
        return self.stopped

    @contextmanager
    def counted(self):
        base = self.base
        hooks = [base.denoiser.register_forward_hook(lambda *_: self.did("denoiser"))]
        hooks += [e.register_forward_hook(lambda *_: self.did("text encoder")) for e in base.encoders]
        hooks += [base.pipe.vae.encoder.register_forward_hook(lambda *_: self.did("picture encoder"))]
        hooks += [base.pipe.vae.decoder.register_forward_hook(lambda *_: self.did("picture decoder"))]
        try:
            yield self
        finally:
            for hook in hooks:
                hook.remove()

    def teach(self, session, concept, **options):
        """All events; a yield is a chance to stop, too."""
        events = []
        with self.counted():
            for event in cns.teach(self.base, session, concept, SETTINGS, should_stop=self.asked, **options):
                self.chance()
                events.append(event)
        return events


@pytest.fixture
def fresh(tiny_base):
    """A base of which nothing was found yet."""
    tiny_base.general.clear()
    tiny_base.unrelated = None
    return tiny_base


def test_there_is_a_chance_to_stop_between_any_two_passes(fresh, concept, other_concept):
    work = Work(fresh)
    *_, last = work.teach(taught(fresh, other_concept), concept)
    assert last.stage == "done" and len(last.memories) == 1 and last.before
    fresh.general.clear()
    fresh.unrelated = None
    first = Work(fresh)
    first.teach(None, concept)
    for most in (work.most, first.most):
        assert most == dict.fromkeys(KINDS, 1)


@pytest.mark.parametrize("drop", [False, True])
def test_after_a_stop_nothing_is_done_but_the_one_picture_that_is_kept(fresh, concept, other_concept, drop):
    session, before = taught(fresh, other_concept), snapshot(fresh)
    total, stages = Work(fresh), set()
    total.teach(session, concept)
    for at in (*range(0, total.chances - 40, 9), *range(total.chances - 40, total.chances)):
        work = Work(fresh, at, drop)
        *_, last = work.teach(session, concept)
        assert_unchanged(fresh, before)
        assert not fresh.lock._depth and not fresh.before_pass
        stages.add((last.stage, last.step, bool(last.before), len(last.memories)))
        if last.stage == "stopped":
            assert last.session is None and (drop or last.step == 0)
            assert sum(work.after.values()) == 0
        else:
            assert last.session.tokens == ("<tom>", "<rex>") and not drop
            assert work.after["denoiser"] <= fresh.steps and work.after["text encoder"] <= 2 and work.after["picture decoder"] <= 2
    steps = {(stage, step) for stage, step, *_ in stages}
    if drop:
        assert steps == {("stopped", n) for n in range(6)}
    else:
        assert steps == {("stopped", 0), *(("done", n) for n in range(1, 6))}
        assert {("done", 5, False, 0), ("done", 5, True, 0)} <= stages


def test_choosing_tells_its_parts_and_every_move_of_the_token_and_holds_nothing_between(fresh, concept, other_concept, monkeypatch):
    monkeypatch.setattr("cns.teaching.SLICE", 0.0)
    before, found = snapshot(fresh), []
    for session in (None, taught(fresh, other_concept)):
        fresh.general.clear()
        fresh.unrelated = None
        events = []
        for event in cns.teach(fresh, session, concept, SETTINGS):
            assert_unchanged(fresh, before)
            assert not fresh.lock._depth and not any(w.requires_grad for w in fresh.weights.values())
            events += [event] if event.stage == "select" and event.parts[1] else []
        found.append([e.parts for e in events])
        assert all(e.seconds_left >= 0 for e in events)
    for parts in found:
        assert parts == [(i + 1, len(parts)) for i in range(len(parts))] and len(parts) > SETTINGS.room
    assert torch.equal(taught(fresh, concept).concepts[0].vector, taught(fresh, concept).concepts[0].vector)


def test_a_stop_while_a_slice_begins_keeps_what_the_slices_before_had_learned(tiny_base, concept):
    *_, paused = cns.teach(tiny_base, None, concept, SETTINGS, until=2)
    events = [*cns.teach(tiny_base, None, concept, SETTINGS, progress=paused.progress, until=4, should_stop=lambda: True)]
    assert (events[-1].stage, events[-1].step) == ("done", 2) and events[-1].session.tokens == ("<rex>",)

    def dropped():
        raise Dropped

    events = [*cns.teach(tiny_base, None, concept, SETTINGS, progress=paused.progress, until=4, should_stop=dropped)]
    assert events[-1].stage == "stopped" and events[-1].session is None
