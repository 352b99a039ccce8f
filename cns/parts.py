"""Long work in parts: a generator that yields after each, so that it can be shown, stopped and shared; what it returns is the result.
Some yield how far they are: the share that is done.

A part is about one pass of a network. Between two of them nothing is held and the base is bit for bit itself, so whoever
waits may drop the generator there. A picture is drawn by a pipeline that yields nothing: there `passing` asks before each pass.
"""

import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
Parts = Generator[None, None, T]
Shares = Generator[float, None, T]  # each (0, 1]


class Stopped(Exception):
    """Whoever waits has enough: what is there is kept."""


class Dropped(Exception):
    """Whoever waits wants none of it."""


class Stop:
    """Whether `asked` ever said yes: once it did, it stays so. What it raises goes through."""

    def __init__(self, asked: Callable[[], bool] | None = None, said: bool = False):
        self.asked, self.said = asked, said

    def __call__(self) -> bool:
        self.said = bool(self.asked and self.asked()) or self.said
        return self.said

    def end(self) -> None:
        """Raises Stopped when it did."""
        if self():
            raise Stopped


def whole(parts: Generator[Any, None, T]) -> T:
    """What `parts` return, all done at once."""
    while True:
        try:
            next(parts)
        except StopIteration as end:
            return end.value


def shares(costs: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """(name, share of all the costs that is done after it) of each."""
    done = 0.0
    for name, cost in costs.items():
        done += cost
        yield name, done / sum(costs.values())


def locked(base, parts: Parts[T]) -> Parts[T]:
    """`parts`, with the base's lock held within each and free between them."""
    while True:
        with base.lock:
            try:
                next(parts)
            except StopIteration as end:
                return end.value
        yield


@contextmanager
def passing(base, asked: Callable[[], object]):
    """Within: `asked()` is called before every pass of the denoiser in this thread; what it raises ends the drawing."""
    me = threading.get_ident()
    base.before_pass[me] = asked
    try:
        yield
    finally:
        del base.before_pass[me]
