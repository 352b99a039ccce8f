"""The app without a browser: command line, messages, the GPU functions' purity, what is shown."""

import copy
import os
import pickle
import runpy
import sys
import traceback
from dataclasses import replace

import gradio as gr
import pytest
import torch
from conftest import QUICK, assert_unchanged, picture, snapshot, taught

import cns
from cns.bench import ROOT
from cns.scores import CLIP_I
from cns.store import LocalStore
from cns.ui import build, generate, gpu, html
from cns.ui.common import SAID, message, spoken
from cns.ui.teach import free_name, ready_concepts

RUN = "0123456789abcdef" * 2


@pytest.fixture
def on_gpu(tiny_base):
    gpu.use(tiny_base)
    gpu.clear(RUN)
    return tiny_base


def start(log, *argv) -> int:
    """The exit code of `python app.py ...`, which writes to `log`: the script anew, in a fork that has the libraries already."""
    if (child := os.fork()) == 0:
        with open(log, "w") as out:
            for stream in (1, 2):
                os.dup2(out.fileno(), stream)
            sys.stdout, sys.stderr, sys.argv = (os.fdopen(1, "w"), os.fdopen(2, "w"), ["app.py", *argv])
            try:
                runpy.run_path(str(ROOT / "app.py"), run_name="__main__")
                code = 0
            except SystemExit as end:
                code = end.code or 0
            except BaseException:
                traceback.print_exc()
                code = 1
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_base_that_cannot_be_had_ends_with_one_line_and_exit_code_2(tmp_path):
    assert start(tmp_path / "log", "--base", str(tmp_path), "--store", str(tmp_path / "s")) == 2
    said = (tmp_path / "log").read_text()
    assert said.strip().splitlines()[-1].startswith("app.py: ") and "model_index.json" in said
    assert "Traceback" not in said


def test_a_store_that_cannot_be_written_ends_with_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    assert start(tmp_path / "log", "--store", str(tmp_path / "file" / "store")) == 2
    said = (tmp_path / "log").read_text()
    assert said.strip().splitlines()[-1].startswith("app.py: ") and "Traceback" not in said


def test_the_app_builds_on_any_base_with_named_tabs(tiny_base, tmp_path):
    demo = build(tiny_base, LocalStore(tmp_path))
    labels = [b.label for b in demo.blocks.values() if isinstance(b, gr.Tab)]
    assert labels == ["Teach", "Generate", "Inspect Neurons"]


def test_core_errors_become_escaped_messages_and_others_stay_errors():
    @spoken
    def bad(kind):
        raise kind("token `<img src=x>` was never taught")

    for kind in (ValueError, OSError, FloatingPointError):
        with pytest.raises(gr.Error) as caught:
            bad(kind)
        assert str(caught.value.message).startswith("Token `&lt;img src=x&gt;`")
    with pytest.raises(KeyError):
        bad(KeyError)


def test_a_message_says_only_so_much_of_what_was_typed():
    assert len(str(message(ValueError("concept " + "x" * 100_000)).message)) == SAID + 3
    assert str(message(ValueError("x" * SAID)).message) == "X" + "x" * (SAID - 1)


def test_errors_inside_a_generator_become_messages():
    @spoken
    def bad():
        yield 1
        raise ValueError("no")

    steps = bad()
    assert next(steps) == 1
    with pytest.raises(gr.Error):
        next(steps)


def test_what_crosses_to_the_gpu_and_back_can_be_pickled_and_leaves_no_trace(on_gpu, concept):
    before = snapshot(on_gpu)
    arguments = pickle.loads(pickle.dumps((None, concept, cns.TeachSettings(**QUICK), RUN)))
    events = [pickle.loads(pickle.dumps(e)) for e in gpu.teach(*arguments)]
    assert_unchanged(on_gpu, before)
    drawn = gpu.draw("a <rex> dog", pickle.loads(pickle.dumps(events[-1].session)), cns.GenerateSettings(count=2))
    assert len(drawn) == 2
    assert_unchanged(on_gpu, before)


def test_one_visitors_session_is_not_seen_by_the_next(on_gpu, concept):
    session = [*gpu.teach(None, concept, cns.TeachSettings(**QUICK), RUN)][-1].session
    gpu.draw("a <rex> dog", session, cns.GenerateSettings())
    with pytest.raises(gr.Error, match="never taught. Taught: nothing yet"):
        gpu.draw("a <rex> dog", None, cns.GenerateSettings())


@pytest.mark.parametrize("what", ["keep", "drop"])
def test_a_stop_ends_the_teaching_and_keeps_what_was_learned_or_discards_it(on_gpu, concept, what):
    def pressed(stage):
        gpu.clear(RUN)
        for event in gpu.learn(None, concept, cns.TeachSettings(**{**QUICK, "steps": 500}), RUN):
            if event.stage == stage:
                gpu.flag(RUN, what).touch()
        return event

    assert (pressed("select").stage, pressed("select").session) == ("stopped", None)
    last = pressed("train")
    assert 0 < last.step < 500 and last.stage == {"keep": "done", "drop": "stopped"}[what]
    if what == "keep":
        assert "Stopped after step" in html.taught(last) and last.session.tokens == ("<rex>",)


def test_a_stop_ends_a_drawing_before_its_next_pass_and_the_next_drawing_is_left_alone(on_gpu, concept):
    passes, hook = [], None

    def passed(*_):
        passes.append(1)
        if len(passes) == 2:
            gpu.halt(RUN)

    session, before = taught(on_gpu, concept), snapshot(on_gpu)
    calls = {
        "draw": (lambda watch: gpu.draw("a dog", None, cns.GenerateSettings(count=2), None, watch), 3),
        "explain": (lambda watch: gpu.explain("a dog", None, cns.GenerateSettings(), None, watch), 3),
        "remembered": (lambda watch: gpu.remembered(session, 1, watch), 3),
        "probe": (lambda watch: [*gpu.probe(session, "rex", None, 0, watch)], 21),
    }
    for call, all_passes in calls.values():
        passes.clear()
        hook = on_gpu.denoiser.register_forward_hook(passed)
        with pytest.raises(gr.Error, match="Stopped: nothing new was drawn"):
            call(gpu.Watch.of(RUN))
        hook.remove()
        assert len(passes) == 2 and not on_gpu.lock._depth
        assert_unchanged(on_gpu, before)
        hook = on_gpu.denoiser.register_forward_hook(lambda *_: passes.append(1))
        call(gpu.Watch.of(RUN))
        hook.remove()
        assert len(passes) == 2 + all_passes
    hook = on_gpu.denoiser.register_forward_hook(passed)
    passes.clear()
    assert gpu.compare(session, session, gpu.Watch.of(RUN)) == [] and len(passes) == 2  # what was changed stays, it is not drawn
    hook.remove()


@pytest.mark.parametrize(
    ("settings", "start"),
    [({"count": 5}, False), ({"count": 3, "image_strength": 0.5, "steps": 4}, True), ({"regions": [{"box": (0, 0, 0.5, 1), "words": "a cat"}], "count": 2, "together": 0.5}, False),
     ({"regions": [{"box": (0, 0, 0.5, 1), "words": "a cat"}], "together": 0}, False), ({"regions": [{"box": (0, 0, 0.5, 1), "words": "a cat"}]}, False)],
)  # fmt: skip
def test_the_bar_counts_the_passes_that_a_drawing_takes(tiny_base, settings, start):
    from cns.generation import passes

    made, settings, image = [], cns.GenerateSettings(**settings), picture() if start else None
    hook = tiny_base.denoiser.register_forward_hook(lambda *_: made.append(1))
    cns.generate(tiny_base, "a dog", None, settings, image)
    hook.remove()
    assert len(made) == passes(tiny_base, settings, image)


@pytest.mark.parametrize("run", ["", None, "../../x", "0" * 31, RUN + "0"])
def test_run_ids_that_we_did_not_make_are_refused(run):
    with pytest.raises(ValueError, match="lost its session"):
        gpu.flag(run, "keep")


def test_names_and_prompts_are_escaped_in_everything_shown(tiny_base, concept):
    session = taught(tiny_base, concept)
    assert "<b>&lt;rex&gt; dog</b>" in html.knows(session, tiny_base)
    assert "&lt;script&gt;" in html.knows(None, tiny_base, "<script>") and "<script>" not in html.knows(None, tiny_base, "<script>")
    assert "&lt;rex&gt;" in html.remembered(cns.remember(tiny_base, session))


def test_after_teaching_the_page_shows_before_and_after_and_what_is_remembered(tiny_base, concept, other_concept):
    first = [*cns.teach(tiny_base, None, concept, cns.TeachSettings(**QUICK))][-1]
    assert "before: a dog" in html.taught(first) and "What I still remember" not in html.taught(first)
    second = [*cns.teach(tiny_base, first.session, other_concept, cns.TeachSettings(**QUICK))][-1]
    assert CLIP_I not in html.taught(first)  # where there is no CLIP
    scored = replace(first, learned=replace(first.learned, stats={**first.learned.stats, "clip_i": 0.5, "clip_i_before": 0.1}))
    assert "CLIP-I 0.500" in html.taught(scored) and html.taught(scored).count(CLIP_I) == 1
    page = html.taught(second)
    assert "What I still remember" in page and page.count("<figcaption>when taught") == 1


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (cns.TeachEvent("select", 0, 10), "Finding its neurons<"),
        (cns.TeachEvent("select", 0, 10, None, 3.2, parts=(2, 8)), "Finding its neurons: part 2 of 8, about 3 s left"),
        (cns.TeachEvent("train", 4, 10, 0.1, 6.4), "Learning: step 4 of 10, about 6 s left"),
        (cns.TeachEvent("remember", 10, 10, 0.1, 5.0, parts=(1, 4)), "Drawing what I remember: picture 2 of 4, about 5 s left"),
    ],
)
def test_every_stage_of_a_teaching_says_how_far_it_is_and_how_long_it_takes(event, said):
    assert said in html.progress(event, [], None)


def test_the_loss_curve_spans_its_box():
    svg = html.curve([3.0, 2.0, 1.0])
    assert "0.0,14.0" in svg and "300.0," in svg and "now 1.000" in svg
    assert html.curve([1.0, 1.0]) == ""


@pytest.mark.parametrize(("prompt", "wanted"), [("", "a <rex> dog on a teal background"), ("a cat next to a ", "a cat next to a <rex> dog")])
def test_a_chip_adds_the_words_to_the_prompt(prompt, wanted):
    assert generate.add(prompt, "<rex> dog") == wanted


def test_a_name_that_is_taken_comes_with_a_free_one(tiny_base, concept):
    session = taught(tiny_base, concept)
    assert free_name("rex", session) == "rex2" == free_name(" REX ", session)
    assert free_name("rex2", taught(tiny_base, cns.Concept("rex2", "dog", concept.images), session)) == "rex3"


def test_an_exhausted_gpu_is_said_in_words():
    error = message(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert str(error.message).startswith("The GPU's memory is full")


def test_what_is_described_is_escaped_and_names_the_words_that_were_cut():
    text = generate.described("<b>x</b>", cns.GenerateSettings(steps=3, guidance=2.0, negative="<i>"), ["too", "long"])
    assert "<b>x" not in text and "<i>" not in text and "too long" in text


def test_suggestions_are_empty_without_a_clip(on_gpu):
    assert gpu.suggest([picture()]) == []


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [("A <rex> dog next to a cat", "a dog next to a cat"), ("<rex>", "dog"), ("a <rex> on a  house", "a dog on a house"), ("", "")],
)
def test_the_untaught_prompt_has_class_words_for_tokens(tiny_base, concept, prompt, wanted):
    assert generate.untaught(prompt, taught(tiny_base, concept)) == wanted


def test_a_part_of_a_page_is_drawn_while_another_event_adds_a_component_to_the_page(tiny_base):
    page = copy.copy(build(tiny_base).default_config)  # as every visitor gets it
    count = len(page.blocks)

    class Adding:
        @property
        def rendered_in(self):
            page.blocks[-2] = None

    page.blocks[-1] = Adding()
    page.attach_load_events("a part")
    assert len(page.blocks) == count + 2


def test_ready_concepts_are_found_with_their_pictures(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x/concept.json").write_text('{"name": "x", "class_word": "dog", "title": "X", "images": ["1.png"]}')
    picture().save(tmp_path / "x/1.png")
    assert ready_concepts(tmp_path)[0]["images"] == [str(tmp_path / "x/1.png")]


def test_variations_are_a_table_of_seeds_and_guidance_or_strength(on_gpu, concept, monkeypatch):
    session, asked_for = taught(on_gpu, concept), []
    monkeypatch.setattr("cns.ui.gpu.draw", lambda prompt, session, settings, start, watch: asked_for.append(settings) or [picture()] * settings.count)
    how = (4, 7, {}, "", 3, 2.0, 60, 100)
    shown = generate.variations(generate.GUIDANCE, 2, RUN, "a dog", None, session, *how)
    assert [s.guidance for s in asked_for] == [1, 2, 3, 5] and all(s.count == 2 for s in asked_for)
    assert shown.count("<img") == 8 and "seed 8" in shown and "guidance 5" in shown
    asked_for.clear()
    shown = generate.variations(generate.STRENGTH, 1, RUN, "a <rex> dog", None, session, *how)
    assert [s.strengths for s in asked_for] == [{"rex": x} for x in generate.SWEEP] and "seed 7" in shown and "strength 150%" in shown
    with pytest.raises(ValueError, match="names nothing that was taught"):
        generate.variations(generate.STRENGTH, 1, RUN, "a dog", None, session, *how)
