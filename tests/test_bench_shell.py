"""Every bench from the shell, on a tiny base with the starter's CLIP: what is asked for is run, and each figure that is promised is printed."""

import json
import re
import socket

import pytest
from conftest import CALIBRATION, TEMPLATES, picture, tiny_pipeline

import cns
from cns.__main__ import main
from cns.base import CARD
from cns.bench import speed

THINGS = {"rex": ("dog face", "red"), "tom": ("cat face", "gray"), "hut": ("house", "teal")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny base whose card asks for few steps of everything."""
    folder = tmp_path_factory.mktemp("bench") / "tiny"
    tiny_pipeline().save_pretrained(folder)
    card = {"steps": 2, "guidance": 2.0, "templates": TEMPLATES, "scenes": TEMPLATES[2:], "calibration": CALIBRATION, "class_words": ["dog", "cat", "house"]}
    (folder / CARD).write_text(json.dumps({**card, "teach": {"steps": 2, "batch_size": 2, "room": 2}}))
    return folder


@pytest.fixture
def bench(folder, monkeypatch, capsys):
    """What `python -m cns bench ...` prints."""
    monkeypatch.setenv("CNS_CLIP", str(cns.STARTER / "clip"))
    some = [cns.Concept(n, word, [picture(colour), picture("white")]) for n, (word, colour) in THINGS.items()]
    for module in ("speed", "store", "load"):
        monkeypatch.setattr(f"cns.bench.{module}.ready_concepts", lambda limit: some[:limit])

    def run(*argv):
        assert main(["bench", "--base", str(folder), *map(str, argv)]) == 0
        return capsys.readouterr().out

    return run


def figures(out: str) -> dict[str, float]:
    """{what: value} of the rows in `out`."""
    found = re.findall(r"^(\S.*?) +([\d,.]+) (s|ms|MiB|bytes|pictures|teachings|a minute|times|of all|files|commits|entries|sessions|saves)$", out, re.M)
    return {what: float(value.replace(",", "")) for what, value, _ in found}


def test_speed_prints_what_each_thing_takes(bench, monkeypatch):
    monkeypatch.setattr(speed, "app_ready", lambda source: 12.5)
    seen = figures(bench("speed"))
    assert seen["app ready"] == 12.5
    for name in THINGS:
        assert seen[f"teach <{name}>, previews and memories included"] > 0
    sizes = [value for what, value in seen.items() if what.startswith("session after ")]
    assert len(sizes) == 3 and sizes == sorted(sizes) and sizes[0] > 1000
    for what in ("load the base", "draw a picture with the session", "draw a picture without one", "select base neurons by gradient",
                 "select base neurons by response, as in the paper", "move a new token to where there is room", "select general neurons (once for a base)",
                 "apply and remove the session", "remember all concepts", "peak memory of this process"):  # fmt: skip
        assert seen[what] >= 0, what


SERVER = """
import http.server, sys
assert sys.argv[1] == "--port" and sys.argv[3] == "--store" and sys.argv[5:] in ([], ["--base", "mine"]), sys.argv
http.server.HTTPServer(("127.0.0.1", int(sys.argv[2])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


@pytest.mark.parametrize("source", [None, "mine"])
def test_an_app_is_ready_when_its_first_page_comes_and_one_that_stops_is_said(tmp_path, monkeypatch, source):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    monkeypatch.setattr(speed, "ROOT", tmp_path)
    (tmp_path / "app.py").write_text(SERVER)
    assert speed.app_ready(source, port) > 0
    (tmp_path / "app.py").write_text("raise SystemExit(2)")
    with pytest.raises(ValueError, match="stopped before it was ready"):
        speed.app_ready(source, port)


def test_the_median_leaves_out_the_first_run_and_the_moods():
    runs = []
    assert speed.median_ms(lambda: runs.append(1), 5) >= 0 and len(runs) == 6


def test_store_prints_sizes_a_resume_and_a_year(bench, monkeypatch):
    monkeypatch.setattr("cns.bench.store.SESSIONS", 30)
    seen = figures(bench("store"))
    files = {what: value for what, value in seen.items() if what.endswith("weights: file")}
    assert [what.split(" ")[0] for what in files] == ["1", "2"] and [*files.values()] == sorted(files.values())
    assert sum("save, flushed to the disk" in what for what in seen) == 2 == sum("load and check" in what for what in seen)
    assert seen["resume one of 30 sessions with 10 versions each"] > 0 and seen["files after it (recommended: at most 100,000)"] == 300
    assert seen["a year, 30 sessions taught 12 times: commits"] <= 360


def test_load_prints_what_a_crowd_meets(bench):
    seen = figures(bench("load", "--visitors", 2, "--teachers", 0, "--requests", 4))
    assert seen["2 visitors and 0 teachers: pictures"] == 4 and seen["teachings beside them"] == 0
    assert seen["pictures and concepts that were somebody else's, and errors"] == 0 == seen["files left an hour later"]
    assert seen["the longest"] >= seen["95 of 100 at most"] >= seen["a visitor waits for a picture: median"]


def test_continual_and_multi_write_their_tables_and_say_the_command(bench, tmp_path):
    said = bench("continual", "--quick", "--methods", "base", "--concepts", 2, "--seeds", 1, "--results", tmp_path)
    assert "| base |" in said and "python -m cns bench continual --methods base --concepts 2 --seeds 1 --quick" in said
    said = bench("multi", "--quick", "--methods", "base", "--concepts", 3, "--results", tmp_path)
    assert "| real | pairs, regions |" in said and "| base | triples, prompt |" in said
    assert "python -m cns bench multi --methods base --concepts 3 --quick" in said


def test_search_tries_three_rates_and_marks_the_best(bench, monkeypatch):
    tried = []

    def unit(base, way, concepts, plan, tick):
        kind, s = type(way).__name__, way.settings
        tried.append((kind, len(concepts), s.steps, s.token_rate if kind == "TokenOnly" else s.rate))
        return {"rate": tried[-1][-1]}, {}

    monkeypatch.setattr("cns.bench.search.unit", unit)
    monkeypatch.setattr("cns.bench.search.scores", lambda raw: {"clip_i": raw["rate"], "forgetting": 0.5})
    lines = bench("search", "--methods", "base", "token_only", "finetune_kv", "--steps", 3).splitlines()
    assert [line.split()[0] for line in lines] == ["token_only"] * 3 + ["finetune_kv"] * 3
    assert [line.endswith("<- best CLIP-I") for line in lines] == [False, False, True] * 2 and all("forgetting 0.5000" in line for line in lines)
    assert [t[0] for t in tried] == ["TokenOnly"] * 3 + ["FinetuneKV"] * 3 and {t[1:3] for t in tried} == {(3, 3)}
    rates = [t[-1] for t in tried]
    assert [r / rates[1] for r in rates[:3]] == [r / rates[4] for r in rates[3:]] == pytest.approx([0.3, 1, 3])
