"""A GPU that is lent by the second: what a teaching costs there, how it is cut into calls, and what the platform's errors mean.

A visitor has a quota of seconds a day. A call asks for its time beforehand, is refused when that is more than what is left
(the platform counts it 1.5 times), is charged what it took, and is killed when it takes longer than it asked for. So a
teaching is a row of short calls, each planned from the steps it is to train and from what a step took so far.
"""

import math
import os
import re
from dataclasses import dataclass

ON_LOAN = bool(os.environ.get("SPACES_ZERO_GPU"))
SLICE = 15.0  # training in one call [s]: short, so that little is lost and the last seconds of a quota can still be used
MARGIN = 1.5  # times what a call is thought to take
LONGEST = 120  # seconds in one call that the platform lends to anyone


@dataclass
class Pace:
    """What things take on this machine [s]: assumed, until the first teaching has shown it."""

    step: float = 0.2  # a training step, previews and the choice of neurons spread over all steps
    draw: float = 2.0  # a picture
    start: float = 5.0  # a call before its first step
    measured: bool = False

    def learn(self, seconds: float, steps: int, drawing: float | None = None, pictures: int = 1) -> None:
        """`steps` took `seconds`; `pictures` took `drawing`."""
        self.step, self.measured = max(1e-4, seconds / max(1, steps)), True
        if drawing:
            self.draw = drawing / pictures

    def steps(self) -> int:
        """How many fit a slice."""
        return max(1, int(SLICE / self.step))

    def finishing(self, known: int) -> float:
        """Seconds for the pictures at the end: before, after, and one for each of the concepts `known` till then."""
        return (2 + known) * self.draw

    def price(self, steps: int, known: int) -> int:
        """Seconds that it takes to teach `steps` to a session that knows so many concepts."""
        return math.ceil(self.start + steps * self.step + self.finishing(known))

    def asked(self, steps: int, known: int) -> int:
        """Seconds to ask for in one call that trains `steps`, or, with none left, finishes."""
        return min(LONGEST, math.ceil(self.start + MARGIN * (steps * self.step if steps > 0 else self.finishing(known))))


def priced(pace: Pace, steps: int, known: int) -> str:
    """What the visitor reads before pressing Teach."""
    seconds = pace.price(steps, known)
    about = f"Teaching takes about {seconds} s" + (" of your GPU time of today" if ON_LOAN else "")
    return about + ("" if pace.measured else " (assumed: nothing was taught here yet)") + "."


SENTENCES = (  # what the platform says (title and text), what the visitor reads; the first that fits
    (r"quota exceeded.*\((\d+)s requested vs\. (\d+)s left\).*?Try again in ([\d:]+)",
     "your GPU time of today is used up ({0} s were asked for, {1} s are left): try again in {2}, choose fewer steps, or sign in to an account with more"),
    (r"quota exceeded.*runs limit", "you made too many GPU calls in a short time: wait a few minutes, then try again"),
    (r"quota exceeded.*GPU limit", "the GPU time for visitors who are not signed in is used up: sign in to Hugging Face, reload this page and try again"),
    (r"No GPU was available", "no GPU became free in time: try again in a few minutes; visitors who are signed in are served first"),
    (r"illegal duration.*\((\d+)s\)", "{0} s of GPU time is more than the platform lends at once: choose fewer steps or fewer pictures"),
    (r"pending credits", "your other tasks hold all of your GPU time: wait until they have ended, then try again"),
    (r"worker error.*aborted", "the platform took the GPU away before this was done: try again; what a teaching had learned by then is kept in this page"),
    (r"worker error.*OutOfMemory", "the GPU's memory is full: ask for fewer pictures at once and try again"),
    (r"worker error", "the program on the GPU failed: try again, and tell the owner of this Space if it fails again"),
    (r"proxy token", "this page's sign-in has expired: reload the page and try again"),
    (r"ZeroGPU API|Unexpected end of stream|queue disconnect|Connection closed by visitor|ZeroGPU client error|Error while initializing ZeroGPU",
     "the GPU platform did not answer as it should: try again in a minute"),
    (r"^ZeroGPU", "the GPU platform refused: try again in a few minutes"),
)  # fmt: skip


def sentence(error: Exception) -> str | None:
    """What to tell the visitor of a platform error; None when it is none."""
    said = f"{getattr(error, 'title', '')} {getattr(error, 'message', error)}"
    if not (said.startswith("ZeroGPU") or isinstance(error, RuntimeError)):
        return None
    for pattern, text in SENTENCES:
        if found := re.search(pattern, said, re.DOTALL):
            return text.format(*found.groups())
    return None


def taken_away(error: Exception) -> bool:
    """Whether the platform killed the call: it took longer than it had asked for, or the machine was needed."""
    return "GPU task aborted" in str(getattr(error, "message", error))
