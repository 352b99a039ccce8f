"""Settings in, the columns of a table of pictures out: the same seeds, with one thing varied."""

from collections.abc import Sequence
from dataclasses import replace

from .generation import GenerateSettings
from .session import Session

SWEEP = (0.0, 0.5, 1.0, 1.5)  # strengths of a concept
ANEW = (0.25, 0.5, 0.75, 1.0)  # shares of a picture that are drawn anew
NUMBERS = ("guidance", "image_strength")  # settings that can vary; anything else is a concept's strength
COLUMNS = 8  # at most


def columns(session: Session | None, settings: GenerateSettings, what: str | Sequence[str], values: Sequence[float]) -> list[tuple[float, GenerateSettings]]:
    """(value, settings with it) for each of `values` of `what`: one of `NUMBERS`, or one or more concepts whose strength varies.

    Raises ValueError for a bad value before anything is drawn. A concept that has the name of a number goes by its token.
    """
    if not 1 <= len(values) <= COLUMNS:
        raise ValueError(f"there are {len(values)} values to vary `{what}` over: give 1 to {COLUMNS}")
    if not all(isinstance(v, int | float) for v in values):
        raise ValueError(f"the values of `{what}` are {list(values)}: give numbers")
    if what in NUMBERS:
        return [(v, replace(settings, **{what: v})) for v in values]  # type: ignore[arg-type]
    out = [(v, replace(settings, strengths={**settings.strengths, **dict.fromkeys([what] if isinstance(what, str) else what, v)})) for v in values]
    for _, each in out:
        (session or Session("", "")).times(each.strengths)
    return out


def usual(what: str, guidance: float) -> tuple[float, ...]:
    """Values worth a look where none are given; `guidance`: the settings' or the base's own."""
    if what == "guidance":
        return tuple(sorted({min(30.0, max(1.0, round(2 * guidance * f) / 2)) for f in (0.5, 1, 1.5, 2.5)}))
    return ANEW if what == "image_strength" else SWEEP


def parse(text: str) -> tuple[str, tuple[float, ...]]:
    """`rex=0,0.5,1` as (what, values), `rex` as (what, none). Raises ValueError for anything but numbers."""
    what, given, values = text.partition("=")
    try:
        return what.strip(), tuple(float(v) for v in values.split(",")) if given else ()
    except ValueError:
        raise ValueError(f"`{text}` names no values: write it as `guidance=2,4,8` or `rex=0,0.5,1`, or leave them out") from None
