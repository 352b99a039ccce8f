"""What the tabs share: one visitor's states, and the one place where the core's errors become messages."""

import functools
import html as escape
import inspect
from dataclasses import dataclass

import gradio as gr
import torch


@dataclass
class Shared:
    """Components that belong to no tab. `known` is a tuple of "<token> class word", changed with every teaching."""

    session: gr.State
    run: gr.State  # a server-made id, for Stop
    known: gr.State
    key: gr.BrowserState
    line: gr.HTML | None = None
    tabs: gr.Tabs | None = None
    restart: gr.Button | None = None  # asleep while something is being taught


EXPECTED = (ValueError, OSError, FloatingPointError, torch.OutOfMemoryError)
FULL = "the GPU's memory is full: ask for fewer pictures at once, or end other programs that use it, and try again"


def spoken(handler):
    """`handler` (a function or a generator), with the core's errors shown as messages. gr.Error renders HTML, so they are escaped."""
    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def generator(*args, **options):
            try:
                yield from handler(*args, **options)
            except EXPECTED as error:
                raise message(error) from None

        return generator

    @functools.wraps(handler)
    def function(*args, **options):
        try:
            return handler(*args, **options)
        except EXPECTED as error:
            raise message(error) from None

    return function


def message(error: Exception) -> gr.Error:
    """The error's own sentence, capitalised."""
    text = FULL if isinstance(error, torch.OutOfMemoryError) else str(error)
    return gr.Error(escape.escape(text[:1].upper() + text[1:], quote=False), title="That did not work", duration=20, print_exception=False)
