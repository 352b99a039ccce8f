"""The shape of the package: no import cycle, third-party libraries behind their walls, nothing extra at the top level."""

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = [f for f in (ROOT / "cns").rglob("*.py")]
CODE = [*FILES, ROOT / "app.py"]
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef
WALLS = {  # library -> the modules that may import it
    "gradio": {"cns/ui"},
    "spaces": {"cns/ui"},
    "huggingface_hub": {"cns/store/exchange.py", "cns/store/hub.py", "cns/store/jobs.py", "cns/store/people.py", "cns/store/push.py"},
    "matplotlib": {"cns/figures.py", "cns/bench/report.py"},
    "diffusers": {"cns/base.py", "cns/bench/sizes.py", "cns/starter"},
    "transformers": {"cns/base.py", "cns/bench/sizes.py", "cns/scores.py", "cns/starter"},
    "resvg_py": {"cns/starter"},
    "peft": {"cns/baselines/lora.py"},
}


def imports(file: Path):
    """(module, names) of every import in `file`; relative ones as dotted paths from the root."""
    package = list(file.relative_to(ROOT).with_suffix("").parts)
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((a.name, []) for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = package[: len(package) - node.level] if node.level else []
            yield ".".join([*prefix, *(node.module or "").split(".")]).strip("."), [a.name for a in node.names]


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_the_import_graph_has_no_cycle():
    names = {name_of(f) for f in FILES}
    graph = {}
    for file in FILES:
        needs = {f"{module}.{w}" if f"{module}.{w}" in names else module for module, what in imports(file) for w in what or [""]}
        graph[name_of(file)] = needs & names - {name_of(file)}
    assert [*graphlib.TopologicalSorter(graph).static_order()]


def test_third_party_libraries_stay_behind_their_walls():
    outside = [
        f"{file.relative_to(ROOT)} imports {module}"
        for file in FILES
        for module, _ in imports(file)
        if (allowed := WALLS.get(module.split(".")[0])) is not None and not any(str(file.relative_to(ROOT)).startswith(a) for a in allowed)
    ]
    assert outside == []


def test_no_module_is_over_400_lines_and_no_function_over_60():
    assert [f"{f.relative_to(ROOT)}: {n} lines" for f in CODE if (n := len(f.read_text().splitlines())) > 400] == []
    found = [(f, n) for f in [*CODE, *(ROOT / "tests").glob("*.py")] for n in ast.walk(ast.parse(f.read_text())) if isinstance(n, FUNCTION)]
    assert [f"{f.relative_to(ROOT)}: {n.name}, {lines} lines" for f, n in found if (lines := n.end_lineno - n.lineno + 1) > 60] == []


def section(title: str) -> str:
    """What README.md says under that heading."""
    return (ROOT / "README.md").read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_the_readmes_map_names_every_module_and_nothing_else():
    named = []
    for row in re.findall(r"^\| (?!in `cns/`)(.+?) \| (`.+) \|$", section("Where things are"), re.M):
        folder = (re.match("`([a-z]+/)`", row[0]) or [""] * 2)[1]
        for names, words in re.findall(r"((?:`\w+`(?:, )?)+) ([^`;|]+)(?:;|$)", row[1]):
            assert 1 <= len(words.split()) <= 8, words
            named += [f"{folder}{name}" for name in re.findall("`(.+?)`", names)]
    there = [str(f.relative_to(ROOT / "cns").with_suffix("")) for f in FILES if f.name != "__init__.py"]
    assert sorted(named) == sorted(there)


def test_the_readme_tells_the_method_in_five_sentences_and_one_figure():
    said = section("How it works")
    points = re.split(r"^\d\. ", said.split("\n| in the paper")[0], flags=re.M)
    assert len(points) == 6 and points[0].count("](assets/") == 1 == said.count("](assets/")
    sentences = [" ".join(p.split()) for p in points[1:]]
    assert all(s.endswith(".") and not re.search(r"[.!?]\)? [A-Z]", s) and re.search(r"\((the paper's|ours)", s) for s in sentences), sentences


def test_the_readme_names_the_gate_what_makes_its_pictures_and_the_paper():
    assert {"bash .ci/run", "python tests/pictures.py"} <= set(re.findall("`(.+?)`", section("Working on it")))
    assert (ROOT / ".ci/run").exists() and (ROOT / "tests/pictures.py").exists()
    fields = dict(re.findall(r"^  (\w+) += \{(.+)\},?$", section("Licence and citation"), re.M))
    assert fields["title"] == "Continual Personalization for Diffusion Models" and fields["year"] == "2025" and "2510.02296" in fields["note"]
    assert fields["author"].count(" and ") == 5


def test_ruff_finds_nothing():
    pytest.importorskip("ruff", reason="no linter: pip install -r tests/requirements.txt")
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "--no-cache", str(ROOT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_type_checker_finds_nothing(tmp_path):
    pytest.importorskip("mypy", reason="no type checker: pip install -r tests/requirements.txt")
    done = subprocess.run([sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_top_level_holds_nothing_extra():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    top = {t.split("/")[0] for t in tracked}
    assert {t for t in top if not t.startswith(".")} <= {"app.py", "requirements.txt", "README.md", "LICENSE", "cns", "assets", "tests"}


def test_assets_stay_under_64_mib():
    assert sum(f.stat().st_size for f in (ROOT / "assets").rglob("*") if f.is_file()) <= 64 * 2**20
