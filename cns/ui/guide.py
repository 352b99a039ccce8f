"""The first visit: three buttons over the tabs that teach a ready thing, draw it and show its neurons, one after another."""

from dataclasses import dataclass

import gradio as gr

from .common import Shared

STEPS = ("1. Teach it a dog", "2. Draw what it learned", "3. See where it keeps it")
LESSON = "rex"  # the ready thing of the first step
PROMPT = "a {} on a teal background"
WORDS = '<p class="cns-note"><b>First time here?</b> Three clicks show what it does, in about a minute.</p>'
CSS = """
#guide { align-items: center; gap: .5rem; border: 1px dashed var(--border-color-primary); border-radius: 12px; padding: .35rem .75rem; }
#guide > * { flex: 0 0 auto; width: auto !important; }
#guide > .block { flex: 1 1 240px; }
"""


@dataclass
class Guide:
    row: gr.Row
    buttons: list[gr.Button]


def build(shared: Shared) -> Guide:
    """The layout."""
    with gr.Row(elem_id="guide") as row:
        gr.HTML(WORDS)
        buttons = [
            gr.Button(text, size="sm", min_width=0, interactive=i == 0, variant="secondary" if i else "primary", elem_id=f"guide-{i + 1}")
            for i, text in enumerate(STEPS)
        ]
        close = gr.Button("Hide", size="sm", min_width=0, elem_id="guide-hide")
    close.click(lambda: gr.update(visible=False), None, [row], queue=False, show_progress="hidden", api_visibility="private")
    shared.asleep.append(buttons[0])
    return Guide(row, buttons)


def wire(guide: Guide, shared: Shared, lesson, prompt: gr.Textbox, drawing: dict) -> None:
    """`lesson(start, name)` teaches a ready thing after the event `start`; `drawing` are the arguments of an event that draws `prompt`."""
    quiet = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    first, second, third = guide.buttons

    def turn(to: str, press):
        return press(lambda: gr.update(selected=to), None, [shared.tabs], **quiet)

    lesson(turn("teach", first.click), LESSON)
    shared.known.change(lambda known: standing(1 if known else 0), [shared.known], guide.buttons, **quiet)
    asked = turn("generate", second.click).then(lambda known: PROMPT.format(known[-1]), [shared.known], [prompt], **quiet)
    asked.then(**drawing).success(lambda: standing(2), None, guide.buttons, **quiet)
    turn("inspect", third.click).then(lambda: gr.update(visible=False), None, [guide.row], **quiet)


def standing(done: int) -> list:
    """Updates of the buttons with so many steps done: what is done is ticked, what is next stands out."""
    return [
        gr.update(value=f"\N{CHECK MARK} {text}" if i < done else text, interactive=i == done or 0 < i < done, variant="primary" if i == done else "secondary")
        for i, text in enumerate(STEPS)
    ]
