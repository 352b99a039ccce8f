import json
import subprocess
import sys

import pytest
import torch
from conftest import picture, tiny_pipeline

from cns import Session, load_base
from cns.__main__ import _lost, main
from cns.owning import Change


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The tiny pipeline as a folder, and three images."""
    folder = tmp_path_factory.mktemp("cli")
    tiny_pipeline().save_pretrained(folder / "base")
    for i, colour in enumerate(("red", "orange", "brown")):
        picture(colour).save(folder / f"{i}.png")
    return folder


def teach(tiny, session, *more, name="rex"):
    images = [str(tiny / f"{i}.png") for i in range(3)]
    return main(["teach", "--base", str(tiny / "base"), "--session", str(session), "--name", name, "--class", "dog", "--steps", "3", *more, *images])


def test_teach_generate_inspect_info_from_the_shell(tiny, tmp_path, capsys):
    session, base = tmp_path / "s", ["--base", str(tiny / "base")]
    assert teach(tiny, session) == 0
    assert "<rex> taught" in capsys.readouterr().out
    assert teach(tiny, session, name="tom") == 0
    out = tmp_path / "out"
    assert main(["generate", *base, "--session", str(session), "--prompt", "a <rex> dog", "--count", "2", "--seed", "7", "--steps", "2", "--out", str(out)]) == 0
    assert sorted(p.name for p in out.iterdir()) == ["7.png", "8.png"]
    assert main(["inspect", *base, "--session", str(session), "--out", str(tmp_path / "figures")]) == 0
    plots = ("overlap", "growth", "updates", "where-block", "where-resolution", "where-kind", "where-head", "rex-funnel", "tom-funnel")
    assert {p.name for p in (tmp_path / "figures").iterdir()} == {f"{p}.{kind}" for p in plots for kind in ("png", "csv")}
    assert main(["inspect", *base, "--session", str(session), "--draw", "--out", str(tmp_path / "drawn")]) == 0
    drawn = {p.name for p in (tmp_path / "drawn").iterdir()}
    assert {"rex-unlearned.png", "tom-random-ones-at-zero.png", "rex-probes.csv", "rex-after-tom.png"} <= drawn and "tom-after-rex.png" not in drawn
    capsys.readouterr()
    assert main(["info", *base, "--session", str(session), "--json"]) == 0
    assert [c["name"] for c in json.loads(capsys.readouterr().out)["concepts"]] == ["rex", "tom"]
    assert main(["info", *base, "--session", str(session)]) == 0
    assert "<tom> dog" in capsys.readouterr().out


def test_generate_without_a_session_draws_with_the_base(tiny, tmp_path):
    assert main(["generate", "--base", str(tiny / "base"), "--prompt", "a dog", "--steps", "2", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "0.png").exists()


def test_generate_with_regions_strengths_a_picture_and_the_overlay(tiny, tmp_path):
    session, base, out = tmp_path / "s", ["--base", str(tiny / "base")], tmp_path / "out"
    assert teach(tiny, session) == 0
    (tmp_path / "l.json").write_text('[{"box": [0.5, 0, 1, 1], "words": "a cat"}]')
    more = ["--region", "0,0,0.5,1: a <rex> dog", "--layout", str(tmp_path / "l.json"), "--image", str(tiny / "0.png"), "--image-strength", "0.9"]
    argv = ["generate", *base, "--session", str(session), "--prompt", "a red house", "--strength", "rex=0.5", *more, "--overlay", "--out", str(out)]
    assert main(argv) == 0
    assert [p.name for p in sorted(out.iterdir())][:5] == ["0-01-a.png", "0-02-red.png", "0-03-house.png", "0-04-a.png", "0-05-cat.png"]
    assert (out / "0.png").exists() and (out / "0-07-rex.png").exists()


def test_bad_input_is_one_line_on_stderr_and_exit_code_2(tiny, tmp_path, capsys):
    base = ["--base", str(tiny / "base")]
    session = tmp_path / "s"
    cases = {
        "there is no session": ["info", *base, "--session", str(tmp_path / "none")],
        "was never taught": ["generate", *base, "--prompt", "a <max> dog", "--out", str(tmp_path)],
        "`count` is 99": ["generate", *base, "--prompt", "a dog", "--count", "99", "--out", str(tmp_path)],
        "strength `rex` is not": ["generate", *base, "--prompt", "a dog", "--strength", "rex", "--out", str(tmp_path)],
        "has no colon": ["generate", *base, "--prompt", "a dog", "--region", "0,0,1,1", "--out", str(tmp_path)],
        "outside the canvas": ["generate", *base, "--prompt", "a dog", "--region", "0,0,2,1: a cat", "--out", str(tmp_path)],
        "could not be loaded": ["generate", "--base", str(tmp_path / "nothing-here"), "--prompt", "a dog", "--out", str(tmp_path)],
        "no diffusers pipeline": ["generate", "--base", str(tmp_path), "--prompt", "a dog", "--out", str(tmp_path)],
        "`steps` is 0": ["teach", *base, "--session", str(session), "--name", "a", "--class", "dog", "--steps", "0", str(tiny / "0.png")],
        "no model repo": ["push", "lora", *base, "--session", str(session), "--repo", "rex"],
        "the name is empty": ["teach", *base, "--session", str(session), "--name", "", "--class", "dog", str(tiny / "0.png")],
        "model_index.json": ["teach", *base, "--session", str(session), "--name", "a", "--class", "dog", str(tiny / "base/model_index.json")],
    }
    for message, argv in cases.items():
        capsys.readouterr()
        assert main(argv) == 2, message
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1, err
    assert not session.exists()


def test_teaching_a_name_twice_keeps_the_session(tiny, tmp_path, capsys):
    assert teach(tiny, tmp_path / "s") == 0
    before = {p.name: p.read_bytes() for p in (tmp_path / "s").iterdir()}
    assert teach(tiny, tmp_path / "s") == 2
    assert "already taught" in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in (tmp_path / "s").iterdir()} == before


def test_more_pictures_or_steps_refine_what_is_taught_from_the_shell(tiny, tmp_path, capsys):
    assert teach(tiny, tmp_path / "s", "--more") == 2 and "`<rex>` was never taught" in capsys.readouterr().err
    assert teach(tiny, tmp_path / "s") == 0 and teach(tiny, tmp_path / "s", name="tom") == 0
    base = load_base(tiny / "base")
    before = Session.load(tmp_path / "s", base)
    assert teach(tiny, tmp_path / "s", "--more") == 0 and "<rex> taught" in capsys.readouterr().out
    after = Session.load(tmp_path / "s", base)
    assert after.tokens == ("<rex>", "<tom>")
    assert not torch.equal(before.concepts[0].vector, after.concepts[0].vector) and torch.equal(before.concepts[1].vector, after.concepts[1].vector)


def test_forget_rename_merge_export_import_from_the_shell(tiny, tmp_path, capsys):
    base, first, second = ["--base", str(tiny / "base")], tmp_path / "1", tmp_path / "2"
    for session, name in ((first, "rex"), (first, "tom"), (second, "rex")):
        assert teach(tiny, session, name=name) == 0

    def said(*argv):
        capsys.readouterr()
        assert main([*argv, *base]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    both = ["merge", "--session", str(first), "--with", str(second), "--out", str(tmp_path / "both")]
    assert main([*both, *base]) == 2 and "both sessions have a `<rex>`" in capsys.readouterr().err
    assert "<rex> is now <max>" in said("rename", "--session", str(second), "--name", "rex", "--to", "max")
    assert "<rex>, <tom>, <max> in" in said(*both)
    assert main([*both, *base]) == 2 and "is there already" in capsys.readouterr().err
    assert "is now <max>, <rex>, <tom>" in said("reorder", "--session", str(tmp_path / "both"), "max", "rex", "tom")
    assert "is now <rex>, <tom>, <max>" in said("reorder", "--session", str(tmp_path / "both"), "rex", "tom", "max")
    out = said("forget", "--session", str(tmp_path / "both"), "--name", "rex")
    assert out.startswith("<rex> forgotten: ") and "<tom> no CLIP" in out and "<max> no CLIP" in out
    assert "relative error" in said("export", "lora", "--session", str(tmp_path / "both"), "--rank", "2", "--out", str(tmp_path / "lora"))
    assert "<tom>, <max> imported" in said("import", "--session", str(tmp_path / "again"), str(tmp_path / "lora"))
    capsys.readouterr()
    for argv, message in (
        (["forget", "--session", str(first), "--name", "hut"], "`hut` was never taught"),
        (["rename", "--session", str(first), "--name", "rex", "--to", "tom"], "already taught"),
        (["reorder", "--session", str(first), "rex"], "does not name every concept once"),
        (["export", "patch", "--session", str(first), "--out", str(second)], "is there already"),
        (["import", "--session", str(first), str(second)], "is there already"),
        (["import", "--session", str(tmp_path / "3"), str(tmp_path / "nothing")], "there is no folder"),
    ):
        assert main([*argv, *base]) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1, err


def test_what_the_others_lost_is_said_in_numbers(capsys):
    _lost([Change("tom", "<tom>", picture(), picture(), 0.5, 0.25), Change("max", "<max>", picture(), picture(), None, None)])
    assert capsys.readouterr().out == "<tom> CLIP-I 0.500 -> 0.250\n<max> no CLIP to score it\n"


def test_a_pipeline_of_another_kind_is_refused_by_name(tmp_path, capsys):
    (tmp_path / "model_index.json").write_text('{"_class_name": "KandinskyPipeline"}')
    assert main(["generate", "--base", str(tmp_path), "--prompt", "a", "--out", str(tmp_path)]) == 2
    assert "is a `KandinskyPipeline`" in capsys.readouterr().err


def test_the_module_runs_from_a_shell():
    done = subprocess.run([sys.executable, "-m", "cns", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "teach" in done.stdout
