"""Finished units in; `continual.json` with its flat summary, a table and plots out."""

import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

COLUMNS = {  # score -> (head of its column, digits)
    "clip_i": ("CLIP-I", 3), "judge_i": ("judge", 3), "clip_t": ("CLIP-T", 3), "clip_t_scaled": ("CLIP-T x2.5", 3), "forgetting": ("forgetting", 4),
    "clip_i_multi": ("CLIP-I multi", 3), "clip_t_multi": ("CLIP-T multi", 3), "confusion": ("confusion", 3), "drift": ("drift", 4),
    "changed_fraction": ("changed", 4), "bytes": ("bytes", 0), "teach_s": ("teach s", 1), "fusion_s": ("fusion s", 2),
}  # fmt: skip
PLOTTED = ("cns", "cns_paper", "finetune_kv", "lora_sum", "token_only")


def scores(raw: dict, eye: str = "clip") -> dict[str, float]:
    """The scores of one unit."""
    last, ends = raw["matrix"][-1], raw["end"][eye]
    out = {"clip_i": _mean(v[eye]["i"] for v in last.values()), "clip_t": _mean(v[eye]["t"] for v in last.values())}
    best = {c: max(row[c][eye]["i"] for row in raw["matrix"] if c in row) for c in last}
    out |= {"forgetting": _mean(best[c] - v[eye]["i"] for c, v in last.items()), "separation": _mean(v[eye]["i"] - v[eye]["other"] for v in last.values())}
    out |= {"clip_t_scaled": 2.5 * max(out["clip_t"], 0), **ends}
    if "clip_t_multi" in out:
        out["clip_t_multi_scaled"] = 2.5 * max(out["clip_t_multi"], 0)
    if eye == "clip":
        out |= {k: raw[k] for k in ("changed_fraction", "peak_mib")} | {"bytes": raw["bytes"][-1]}
        out |= {"teach_s": _mean(raw["teach_s"]), "fusion_s": raw["fusion_s"][-1]}
        if "judge" in raw["end"]:
            out |= {f"judge_{k.removeprefix('clip_')}": v for k, v in scores(raw, "judge").items()}
    return out


def summary(units: list[dict]) -> dict[str, dict]:
    """{method: {score: {"mean", "spread"}}}; spread is the standard deviation over the runs, None of one run."""
    by_method: dict[str, list[dict]] = {}
    for u in units:
        by_method.setdefault(u["key"]["method"], []).append(scores(u["raw"]))
    out = {}
    for name, runs in by_method.items():
        every = {s: [r[s] for r in runs] for s in runs[0]}
        out[name] = {s: {"mean": _mean(v), "spread": float(np.std(v, ddof=1)) if len(v) > 1 else None} for s, v in every.items()}
    return out


def table(result: dict[str, dict]) -> str:
    """Markdown, one row a method; a dash where a score does not apply."""
    columns = {s: c for s, c in COLUMNS.items() if any(s in m for m in result.values())}
    lines = ["| method | " + " | ".join(head for head, _ in columns.values()) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, values in result.items():
        cells = []
        for s, (_, digits) in columns.items():
            v = values.get(s)
            spread = f" ± {v['spread']:,.{digits}f}" if v and v["spread"] is not None else ""
            cells.append(f"{v['mean']:,.{digits}f}{spread}" if v else "-")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write(folder: Path, units: list[dict], themselves: dict[str, float], about: dict) -> dict:
    """All of it into `folder`, `themselves` being what the concepts' own pictures score; returns what `continual.json` holds."""
    both = summary(units) | {"own_pictures": {s: {"mean": v, "spread": None} for s, v in themselves.items()}}
    result = {**about, "runs": len({(u["key"]["seed"], u["key"]["order"]) for u in units}), "summary": both, "raw": units}
    (folder / "continual.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / "continual.md").write_text(f"`{about['command']}`, runs: {result['runs']}\n\n" + table(result["summary"]))
    over_stream(units).savefig(folder / "continual.png", dpi=110)
    strips = {u["key"]["method"]: folder / "runs" / f"{u['key']['method']}-{u['key']['concepts']}-s0-o0.png" for u in units}
    if all(f.exists() for f in strips.values()):  # the pictures of runs that are only known by their scores are not at hand
        strip(strips).save(folder / "strip.png")
    return result


def over_stream(units: list[dict]) -> Figure:
    """CLIP-I of every concept over the stream, one panel a method; faint: each concept, strong: their mean; of the first run."""
    first = {u["key"]["method"]: u["raw"] for u in reversed(units)}
    names = [n for n in PLOTTED if n in first] or list(first)
    figure = Figure(figsize=(2.6 * len(names), 2.8), layout="constrained")
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names), sharey=True)), names):
        rows = [{c: v["clip"]["i"] for c, v in row.items()} for row in first[name]["matrix"]]
        for c in rows[-1]:
            axes.plot(*zip(*((k, row[c]) for k, row in enumerate(rows, 1) if c in row)), color="#3f7de0", alpha=0.35, marker=".", markersize=3, lw=1)
        axes.plot(range(1, len(rows) + 1), [_mean(r.values()) for r in rows], color="#d9822b", lw=2)
        axes.set(title=name, xlabel="concepts taught")
        axes.grid(alpha=0.25)
    figure.axes[0].set_ylabel("CLIP-I")
    return figure


def strip(files: dict[str, Path]) -> Image.Image:
    """The first concept after more and more others, one row a method."""
    rows, scale, label = {name: Image.open(f) for name, f in files.items()}, 2, 110  # pixels for a name
    width, height = max(r.width for r in rows.values()), max(r.height for r in rows.values())
    out = Image.new("RGB", (label + width * scale, height * scale * len(rows)), "white")
    for i, (name, picture) in enumerate(rows.items()):
        ImageDraw.Draw(out).text((6, (i + 0.5) * height * scale - 5), name, fill="black")
        out.paste(picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.BICUBIC), (label, i * height * scale))
    return out


def _mean(values) -> float:
    return float(np.mean(list(values)))
