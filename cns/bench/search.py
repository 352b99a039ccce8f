"""A small search for each method's learning rate: below and above its own, on things that streams of up to 17 do not use."""

from tqdm import tqdm

from ..base import load_base
from ..baselines import method
from .continual import STREAM, Run, stream, unit
from .report import scores
from .scoring import Plan

FACTORS = (0.3, 1.0, 3.0)
THINGS = 3  # taught, from the end of the stream
LOOK = Plan(prompts=4, seeds=1, drift=4, pairs=1, triples=1)


def search(base, names: tuple[str, ...], steps: int | None) -> dict[str, dict[float, dict[str, float]]]:
    """{method: {rate: scores after the last concept}}, the untaught base left out as it learns nothing."""
    concepts, found = stream(len(STREAM), 0)[-THINGS:], {}
    learn = [n for n in names if n != "base"]
    with tqdm(total=len(learn) * len(FACTORS) * len(concepts), unit="concept") as bar:
        for name in learn:
            settings = method(name, base).settings
            own, key = (settings.token_rate, "token_rate") if name == "token_only" else (settings.rate, "rate")
            for factor in FACTORS:
                bar.set_postfix_str(f"{name} {key} {factor * own:g}")
                raw, _ = unit(base, method(name, base, **{key: factor * own}, **({"steps": steps} if steps else {})), concepts, LOOK, bar.update)
                found.setdefault(name, {})[factor * own] = scores(raw)
    return found


def run(args) -> None:
    """From the shell; `args` as `cns.__main__` parses them."""
    asked = Run(methods=tuple(args.methods)) if args.methods else Run()
    for name, by_rate in search(load_base(args.base), asked.methods, args.steps).items():
        best = max(by_rate, key=lambda r: by_rate[r]["clip_i"])
        for rate, s in by_rate.items():
            mark = " <- best CLIP-I" if rate == best else ""
            print(
                f"{name:<18}rate {rate:<9.2g}CLIP-I {s['clip_i']:.3f}  judge {s.get('judge_i', float('nan')):.3f}  forgetting {s['forgetting']:.4f}  drift {s.get('drift', 0):.4f}{mark}"
            )
