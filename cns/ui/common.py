"""What the tabs share: one visitor's states, and the one place where the core's errors become messages."""

import functools
import html as escape
import inspect
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import gradio as gr
import torch

from ..images import Missing
from ..parts import Stopped
from . import html, temp, zerogpu


@dataclass
class Shared:
    """Components that belong to no tab. `known` is a tuple of "<token> class word", changed with every teaching."""

    session: gr.State
    run: gr.State  # a server-made id, for Stop
    known: gr.State
    key: gr.BrowserState
    linked: gr.State  # the concept that the page's address asks for, until it was shown
    keyed: Callable  # `spoken`, for handlers that take the session's `key`
    line: gr.HTML | None = None
    tabs: gr.Tabs | None = None
    restart: gr.Button | None = None  # asleep while something is being taught
    lesson: gr.Button | None = None  # teaches the first thing: asleep then, and once anything is known
    kept: gr.State | None = None  # (a fresh mark, what `keep_session` said), changed with every save
    offer: tuple = ()  # the row and the words that offer a draft
    asleep: list = field(default_factory=list)  # more buttons that sleep then

    @property
    def states(self) -> list:
        """What says which session is shown, see `showing`."""
        return [self.session, self.known, self.line, self.kept]


NO_STORE = "not saved: it lives as long as this page"


def keep_session(store, key, session, verb="teach", concept="", before=None) -> str:
    """Save, and say how it goes: "saved", "saving", or "not saved: why"; a session that could not be saved is still there in this page."""
    if not store:
        return NO_STORE
    try:
        store.save(key, session, verb, concept, before)
    except (OSError, ValueError) as error:
        return f"not saved: {error}"
    return "saved" if store.state(key).kind == "saved" else "saving"


def mark(note: str) -> tuple[str, str]:
    """A value of `Shared.kept` that differs from the one before."""
    return secrets.token_hex(4), note


def showing(session, base, note: str = "") -> tuple:
    """Values of `Shared.states` for `session`; `note`: how it is kept."""
    return session, html.words(session), html.knows(session, base), mark(note)


EXPECTED = (ValueError, OSError, FloatingPointError, torch.OutOfMemoryError, Stopped)
STOPPED = "stopped: nothing new was drawn"
SAID = 1000  # characters of a message: some say again what was typed
FULL = "the GPU's memory is full: ask for fewer pictures at once, or end other programs that use it, and try again"


def spoken(handler):
    """`handler` (a function or a generator), with the core's and the platform's errors shown as messages."""
    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def generator(*args, **options):
            try:
                yield from handler(*args, **options)
            except Exception as error:
                raise told(error) from None

        return generator

    @functools.wraps(handler)
    def function(*args, **options):
        try:
            return handler(*args, **options)
        except Exception as error:
            raise told(error) from None

    return function


def told(error: Exception) -> Exception:
    """`error` as a message, if it is one of those that are to be expected."""
    expected = isinstance(error, EXPECTED) and not isinstance(error, gr.Error)  # which is a ValueError, and said already
    return message(error) if expected or zerogpu.sentence(error) else error


def swept_away(error: Exception) -> str | None:
    """What to say of an upload that the clean-up took, by its name alone: the server's paths are nothing to a visitor. None for other errors."""
    if isinstance(error, Missing):
        return f"your picture `{error.name}` is no longer here, as uploads are kept for an hour only: add it again"
    path = Path(str(getattr(error, "filename", None) or "/")).resolve()
    if isinstance(error, FileNotFoundError) and path.is_relative_to(temp.ROOT.resolve()):
        return f"your file `{path.name}` is no longer here, as uploads are kept for an hour only: upload it again"
    return None


def message(error: Exception) -> gr.Error:
    """The error's own sentence, capitalised. gr.Error renders HTML, so it is escaped."""
    text = zerogpu.sentence(error) or swept_away(error) or {torch.OutOfMemoryError: FULL, Stopped: STOPPED}.get(type(error), str(error))
    title = "Stopped" if isinstance(error, Stopped) else "That did not work"
    text = text if len(text) <= SAID else f"{text[:SAID]}..."
    return gr.Error(escape.escape(text[:1].upper() + text[1:], quote=False), title=title, duration=20, print_exception=False)
