import pickle
from dataclasses import replace

import pytest
import torch
from conftest import QUICK, assert_unchanged, snapshot, taught, tiny_pipeline

import cns
from cns.base import Base, Card
from cns.teaching import Teaching


def test_only_concept_neurons_and_the_token_change(tiny_base, concept):
    session = taught(tiny_base, concept)
    learned = session.concepts[0]
    assert len(session.delta) == learned.stats["neurons"] > 0
    before = snapshot(tiny_base)
    with session.on(tiny_base):
        now = snapshot(tiny_base)
    changed = {n: (before[n] != now[n]).flatten().nonzero().flatten() for n in before if not torch.equal(before[n], now[n])}
    assert {n.removeprefix("unet.") for n in changed} <= set(learned.mask)
    for name, index in changed.items():
        assert torch.isin(index, learned.mask[name.removeprefix("unet.")]).all()
    assert sum(len(i) for i in changed.values()) > 0.9 * learned.stats["neurons"]
    dog = tiny_base.pipe.tokenizer("dog", add_special_tokens=False).input_ids
    assert not torch.equal(learned.vector, tiny_base.embedding.weight[dog[0]])


def test_no_concept_neuron_is_general(tiny_base, concept):
    from cns.session import unpack

    session = taught(tiny_base, concept)
    for name, index in session.concepts[0].mask.items():
        assert not unpack(session.general[name], tiny_base.weights[name].numel())[index].any()


def test_the_base_is_bit_identical_at_every_event_and_after_all_ends(tiny_base, concept):
    before = snapshot(tiny_base)
    for _ in cns.teach(tiny_base, None, concept, cns.TeachSettings(**{**QUICK, "preview_every": 2})):
        assert_unchanged(tiny_base, before)
    dropped = cns.teach(tiny_base, None, concept, cns.TeachSettings(**QUICK))
    next(dropped), next(dropped)
    dropped.close()
    assert_unchanged(tiny_base, before)


def test_a_loss_that_is_not_finite_stops_and_changes_nothing(tiny_base, concept, monkeypatch):
    session, before = taught(tiny_base, concept), snapshot(tiny_base)
    values = {n: v.clone() for n, v in session.delta.values.items()}
    monkeypatch.setattr("cns.noise.Diffusion.target", lambda *a: torch.full((2, 4, 16, 16), float("nan")))
    second = cns.Concept("tom", "cat", concept.images)
    with pytest.raises(FloatingPointError, match="not finite at step 1"):
        taught(tiny_base, second, session)
    assert_unchanged(tiny_base, before)
    assert all(torch.equal(values[n], v) for n, v in session.delta.values.items())


def test_the_session_keeps_the_picture_that_the_card_asks_for(tiny_base, concept):
    there = Base(tiny_base.pipe, replace(tiny_base.card, portrait="a {} in snow"))
    learned = taught(there, concept).concepts[0]
    again = cns.generate(there, "a <rex> dog in snow", taught(there, concept), cns.GenerateSettings(seed=learned.stats["seed"]))[0]
    assert learned.stats["prompt"] == "a <rex> dog in snow" and learned.picture.tobytes() == again.tobytes()


def test_an_error_in_the_middle_leaves_the_base_as_it_was(tiny_base, concept, monkeypatch):
    before = snapshot(tiny_base)

    def broken(*_):
        raise RuntimeError("broken")

    monkeypatch.setattr("cns.teaching.Teaching.draw", broken)
    with pytest.raises(RuntimeError, match="broken"):
        taught(tiny_base, concept, preview_every=3)
    assert_unchanged(tiny_base, before)


def test_the_loss_falls(tiny_base, concept):
    fixed = {"steps": 150, "rate": 3e-2, "token_rate": 5e-2, "batch_size": 4, "base_share": 1.0, "general_share": 1.01}
    losses = [e.loss for e in cns.teach(tiny_base, None, concept, cns.TeachSettings(**{**QUICK, **fixed})) if e.loss]
    assert losses[-1] < losses[0]


def test_the_same_seed_teaches_the_same(tiny_base, concept):
    first, again, other = (taught(tiny_base, concept, seed=s) for s in (1, 1, 2))
    assert all(torch.equal(v, again.delta.values[n]) for n, v in first.delta.values.items())
    assert torch.equal(first.concepts[0].vector, again.concepts[0].vector)
    assert not torch.equal(first.concepts[0].vector, other.concepts[0].vector)


def test_a_second_concept_adds_to_the_first_and_leaves_the_old_session_alone(tiny_base, concept, other_concept):
    one = taught(tiny_base, concept)
    size = len(one.delta)
    two = taught(tiny_base, other_concept, one)
    assert one.tokens == ("<rex>",) and len(one.delta) == size
    assert two.tokens == ("<rex>", "<tom>")
    assert torch.equal(two.concepts[0].vector, one.concepts[0].vector)
    own = {n: torch.isin(i, two.concepts[1].mask[n], invert=True) for n, i in one.delta.indices.items()}
    for n, alone in own.items():
        assert torch.equal(two.delta.at(n, one.delta.indices[n][alone]), one.delta.values[n][alone])


def test_two_teachings_interleaved_give_what_each_gives_alone(tiny_base, concept, other_concept):
    alone = [taught(tiny_base, c) for c in (concept, other_concept)]
    runs = [cns.teach(tiny_base, None, c, cns.TeachSettings(**QUICK)) for c in (concept, other_concept)]
    last = [None, None]
    while any(r is not None for r in runs):
        for i, run in enumerate(runs):
            event = next(run, None) if run else None
            last[i] = event or last[i]
            runs[i] = run if event else None
    for a, event in zip(alone, last):
        assert all(torch.equal(v, event.session.delta.values[n]) for n, v in a.delta.values.items())


def at_step(monkeypatch, step):
    """A `should_stop` that says yes once so many steps were trained."""
    steps, train = [], Teaching.train_step
    monkeypatch.setattr(Teaching, "train_step", lambda self: steps.append(train(self)))
    return lambda: len(steps) >= step


def test_stop_keeps_what_was_learned_so_far(tiny_base, concept, monkeypatch):
    events = [*cns.teach(tiny_base, None, concept, cns.TeachSettings(**QUICK), should_stop=at_step(monkeypatch, 3))]
    assert events[-1].stage == "done" and events[-1].step == 3
    assert events[-1].session.concepts[0].stats["steps"] == 3


def test_previews_come_when_asked_and_the_last_event_carries_everything(tiny_base, concept, other_concept):
    events = [*cns.teach(tiny_base, taught(tiny_base, concept), other_concept, cns.TeachSettings(**{**QUICK, "preview_every": 3}))]
    assert [e.step for e in events if e.preview] == [3]
    assert events[0].stage == "select" and [e.stage for e in events][-2:] == ["remember", "done"]
    assert events[-1].before.size == (32, 32)
    assert [m.token for m in events[-1].memories] == ["<rex>"]
    assert all(e.session is None for e in events[:-1])


def test_events_can_be_pickled(tiny_base, concept):
    for event in cns.teach(tiny_base, None, concept, cns.TeachSettings(**QUICK)):
        pickle.loads(pickle.dumps(event))


def test_a_strong_tie_to_the_base_holds_the_neurons(tiny_base, concept):
    free, tied = (taught(tiny_base, concept, lambda_base=v, steps=20) for v in (0.0, 1e5))
    size = [sum(v.square().sum() for v in s.delta.values.values()) for s in (free, tied)]
    assert size[1] < 0.2 * size[0]


def test_a_strong_tie_to_earlier_concepts_holds_the_shared_neurons_alone(tiny_base, concept, other_concept):
    first = taught(tiny_base, concept)

    def moved(tie):
        second = taught(tiny_base, other_concept, first, lambda_previous=tie, response=0, steps=20)
        total = {"shared": 0.0, "own": 0.0}
        for n, index in second.concepts[1].mask.items():
            step = (second.delta.at(n, index) - first.delta.at(n, index)).square()
            old = torch.isin(index, first.delta.indices[n])
            total["shared"] += step[old].sum()
            total["own"] += step[~old].sum()
        return total

    free, tied = moved(0.0), moved(1e5)
    assert free["shared"] > 0 and tied["shared"] < 0.2 * free["shared"]
    assert tied["own"] == pytest.approx(free["own"], rel=0.5)


def test_the_response_penalty_holds_the_response_to_calibration_prompts(tiny_base, concept):
    from cns.text import encode

    def drift(mu):
        session = taught(tiny_base, concept, response=mu, steps=30, general_share=1.01, base_share=1.0)
        x, _ = encode(tiny_base, list(tiny_base.card.calibration))
        before = {n: x @ w.T for n, w in tiny_base.weights.items()}
        with session.on(tiny_base), torch.no_grad():
            return sum((x @ w.T - before[n]).square().sum().item() for n, w in tiny_base.weights.items())

    assert drift(1e3) < 0.2 * drift(0.0)


def test_the_response_to_an_earlier_concepts_prompts_is_held_too_however_many_there_are(tiny_base, concept, other_concept):
    from cns.choosing import Choosing
    from cns.text import encode

    first, every = taught(tiny_base, concept), {"response": 1e3, "steps": 30, "general_share": 1.01, "base_share": 1.0}

    def lost(mu):
        second = taught(tiny_base, other_concept, first, **{**every, "response": mu})
        x, _ = encode(tiny_base, [t.format("<rex> dog") for t in tiny_base.card.templates], first.vectors)
        answers = []
        for session in (first, second):
            with session.on(tiny_base), torch.no_grad():
                answers.append([x @ w.T for w in tiny_base.weights.values()])
        return sum((a - b).square().sum().item() for a, b in zip(*answers))

    assert lost(1e3) < 0.2 * lost(0.0)
    both = taught(tiny_base, other_concept, first)
    third = Choosing(tiny_base, both, cns.Concept("max", "house", concept.images), cns.TeachSettings(**{**QUICK, **every}), None, False, None)
    assert [*third.parts()][-1] == third.count
    (held,) = third.held
    assert held.trace().item() == pytest.approx(3 * len(held), rel=1e-4)  # unrelated prompts, <rex> and <tom> as much each


def test_a_new_token_starts_with_room_where_something_is_held_and_as_its_class_word_elsewhere(tiny_base, concept):
    from cns.text import class_embedding

    def start(**changes):
        return Teaching(tiny_base, cns.Session.new(tiny_base), concept, cns.TeachSettings(**{**QUICK, **changes})).begun().vector.detach()

    word = class_embedding(tiny_base, concept)
    assert torch.equal(start(room=0), word) and torch.equal(start(response=0.0), word) and not torch.equal(start(room=3), word)
    known = taught(tiny_base, concept)
    more = Teaching(tiny_base, known, concept, cns.TeachSettings(**QUICK)).begun()
    assert torch.equal(more.vector, known.concepts[0].vector)


def test_a_name_taught_already_is_refused_before_any_work(tiny_base, concept):
    session = taught(tiny_base, concept)
    with pytest.raises(cns.AlreadyTaught, match="`<rex>` was already taught"):
        next(cns.teach(tiny_base, session, concept))


def test_more_pictures_of_a_taught_thing_go_on_with_its_own_neurons_and_token(tiny_base, concept, other_concept):
    both = taught(tiny_base, other_concept, taught(tiny_base, concept))
    again = cns.Concept("rex", "dog", other_concept.images)
    *_, last = cns.teach(tiny_base, both, again, cns.TeachSettings(**QUICK), more=True)
    old, new = both.concepts[0], last.session.concepts[0]
    assert last.session.tokens == ("<rex>", "<tom>")
    assert all(torch.equal(old.mask[n], new.mask[n]) for n in old.mask)
    assert not torch.equal(old.vector, new.vector) and torch.equal(both.concepts[1].vector, last.session.concepts[1].vector)
    for n, index in both.concepts[1].mask.items():
        alone = index[torch.isin(index, old.mask[n], invert=True)]
        assert torch.equal(both.delta.at(n, alone), last.session.delta.at(n, alone))


def test_more_of_what_was_never_taught_or_as_another_class_is_refused(tiny_base, concept):
    with pytest.raises(ValueError, match="`<rex>` was never taught"):
        next(cns.teach(tiny_base, None, concept, more=True))
    with pytest.raises(ValueError, match="was taught as `dog`, not as `cat`"):
        next(cns.teach(tiny_base, taught(tiny_base, concept), cns.Concept("rex", "cat", concept.images), more=True))


def test_a_session_of_another_base_is_refused(tiny_base, concept):
    session = taught(tiny_base, concept)
    other = Base(tiny_pipeline(), Card("other", 32))
    with pytest.raises(ValueError, match="not on `other`"):
        next(cns.teach(other, session, cns.Concept("max", "dog", concept.images)))


@pytest.mark.parametrize(("field", "value"), [("steps", 0), ("batch_size", 65), ("rate", -1), ("base_share", 0), ("general_share", 2)])
def test_settings_out_of_range_are_named(field, value):
    with pytest.raises(ValueError, match=f"`{field}` is {value}: choose"):
        cns.TeachSettings(**{field: value})


def test_the_target_is_what_the_base_predicts():
    z, noise, t = torch.randn(2, 4, 16, 16), torch.randn(2, 4, 16, 16), torch.tensor([10, 900])
    for prediction in ("epsilon", "sample", "v_prediction"):
        base = Base(tiny_pipeline(prediction), Card("tiny", 32))
        alpha = base.pipe.scheduler.alphas_cumprod[t].view(2, 1, 1, 1)
        wanted = {"epsilon": noise, "sample": z, "v_prediction": alpha.sqrt() * noise - (1 - alpha).sqrt() * z}[prediction]
        assert torch.allclose(base.noise.target(z, noise, t), wanted, atol=1e-5)


def test_silencing_a_concept_draws_with_the_bases_weights(tiny_base, concept):
    session = taught(tiny_base, concept, steps=20)
    quiet = session.silenced("rex")
    before = snapshot(tiny_base)
    with quiet.on(tiny_base):
        assert all(torch.equal(before[n], t) for n, t in snapshot(tiny_base).items())
    loud, silent = cns.silence(tiny_base, session, "rex")
    assert loud.tobytes() != silent.tobytes()


def in_slices(base, session, concept, settings, ends, **options):
    """The last event of a teaching cut at the steps `ends`, each call given pickled copies alone."""
    progress = None
    for end in (*ends, settings.steps):
        given = pickle.loads(pickle.dumps((session, concept, settings, progress)))
        *_, last = cns.teach(base, *given[:3], progress=given[3], until=end, **options)
        assert last.stage == "pause" and last.step <= end and last.session is None
        progress = last.progress
    *events, last = cns.teach(base, session, concept, settings, progress=progress, until=settings.steps, **options)
    assert not any(e.stage == "train" for e in events)
    return last


def test_a_teaching_cut_into_slices_is_the_uninterrupted_one_bit_for_bit(tiny_base, concept, other_concept):
    session, settings = taught(tiny_base, other_concept), cns.TeachSettings(**{**QUICK, "steps": 14, "response": 1.0, "lambda_base": 1.0, "preview_every": 3})
    before = snapshot(tiny_base)
    *_, whole = cns.teach(tiny_base, session, concept, settings)
    cut = in_slices(tiny_base, session, concept, settings, (1, 6, 7))
    assert_unchanged(tiny_base, before)
    one, other = whole.session, cut.session
    assert torch.equal(one.concept("rex").vector, other.concept("rex").vector)
    for (n, v), (m, w) in zip(one.delta.values.items(), other.delta.values.items()):
        assert n == m and torch.equal(v, w) and torch.equal(one.delta.indices[n], other.delta.indices[n])
    assert whole.loss == cut.loss and whole.learned.picture.tobytes() == cut.learned.picture.tobytes()
    same = {k: v for k, v in whole.learned.stats.items() if k != "seconds"}
    assert same == {k: v for k, v in cut.learned.stats.items() if k != "seconds"}


def test_a_slice_that_is_lost_is_taught_again_from_the_same_progress(tiny_base, concept):
    settings = cns.TeachSettings(**QUICK)
    *_, paused = cns.teach(tiny_base, None, concept, settings, until=2)
    lost = cns.teach(tiny_base, None, concept, settings, progress=paused.progress, until=4)
    next(lost), next(lost)
    lost.close()
    for _ in range(2):
        *_, again = cns.teach(tiny_base, None, concept, settings, progress=paused.progress)
        assert torch.equal(again.learned.vector, taught(tiny_base, concept).concepts[0].vector)


def test_more_of_a_taught_thing_and_a_stop_work_in_slices(tiny_base, concept, other_concept, monkeypatch):
    settings, more = cns.TeachSettings(**QUICK), cns.Concept("rex", "dog", other_concept.images)
    *_, whole = cns.teach(tiny_base, taught(tiny_base, concept), more, settings, more=True)
    cut = in_slices(tiny_base, taught(tiny_base, concept), more, settings, (3,), more=True)
    assert torch.equal(whole.learned.vector, cut.learned.vector)
    *_, paused = cns.teach(tiny_base, None, concept, settings, until=4, should_stop=at_step(monkeypatch, 1))
    *_, done = cns.teach(tiny_base, None, concept, settings, progress=paused.progress, until=6)
    assert (paused.step, done.stage, done.step) == (1, "done", 1)


def test_the_gradient_score_sees_the_pictures_and_leaves_the_base_alone(tiny_base, concept):
    before = snapshot(tiny_base)
    grey = cns.Concept("rex", "dog", [i.convert("L").convert("RGB") for i in concept.images])
    one, other = (Teaching(tiny_base, cns.Session.new(tiny_base), c, cns.TeachSettings(**{**QUICK, "score": "gradient"})).begun().index for c in (concept, grey))
    assert any(not torch.equal(i, other[n]) for n, i in one.items())
    assert_unchanged(tiny_base, before)


def test_an_unknown_score_is_refused():
    with pytest.raises(ValueError, match="`score` is `magic`"):
        cns.TeachSettings(score="magic")
