"""No dependency has a known hole, but for those listed here with the reason why they do not matter. Needs PyPI's advisories over the network."""

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires, version

import pytest

from cns.bench import ROOT

KNOWN: dict[str, str] = {}  # advisory: why it does not matter here


def closure(names) -> dict[str, str]:
    """{package: installed version} of `names` and of all that they need here; extras are left out."""
    found, waiting = {}, [re.match(r"[\w.-]+", n)[0] for n in names]
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in found:
            continue
        try:
            found[name] = version(name).split("+")[0]  # without a local build's mark, such as +cpu
        except PackageNotFoundError:
            continue  # for another system or Python
        waiting += [re.match(r"[\w.-]+", n)[0] for n in requires(name) or () if "extra ==" not in n]
    return found


def findings(report: dict) -> dict[str, str]:
    """{advisory: package and where it is mended} of `pip-audit`'s JSON."""
    return {v["id"]: f"{d['name']} {d['version']}, mended in {v['fix_versions'] or 'no version'}" for d in report["dependencies"] for v in d.get("vulns", ())}


def audit(needed: dict[str, str], folder) -> subprocess.CompletedProcess:
    """`pip-audit` of these versions."""
    (folder / "all.txt").write_text("".join(f"{n}=={v}\n" for n, v in sorted(needed.items())))
    argv = [sys.executable, "-m", "pip_audit", "-r", str(folder / "all.txt"), "--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
    return subprocess.run(argv, capture_output=True, text=True, timeout=600)


def reachable(folder) -> bool:
    """Whether the advisories can be had: a version that has some is found to."""
    try:
        return bool(findings(json.loads(audit({"pip": "24.0"}, folder).stdout)))
    except ValueError:
        return False


def test_no_dependency_has_a_known_hole(tmp_path):
    pytest.importorskip("pip_audit", reason="no auditor: pip install -r tests/requirements.txt")
    if not reachable(tmp_path):
        pytest.skip("no network: PyPI's advisories cannot be asked")
    done = audit(closure(line for line in (ROOT / "requirements.txt").read_text().splitlines() if line.strip()), tmp_path)
    assert done.returncode in (0, 1), done.stderr
    found = findings(json.loads(done.stdout))
    assert {i: what for i, what in found.items() if i not in KNOWN} == {}
    assert set(KNOWN) <= set(found), "an exception is no longer needed: take it out"


def test_the_audit_covers_what_our_requirements_need_and_reads_the_report():
    names = closure(["torch>=2.8,<2.14; python_version != '3.12'", "gradio>=6"])
    assert {"torch", "gradio", "pillow", "fastapi", "starlette"} <= names.keys() and "pytest" not in names
    report = {"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "X-1", "fix_versions": []}]}, {"name": "b", "skip_reason": "?"}]}
    assert findings(report) == {"X-1": "a 1, mended in no version"}
