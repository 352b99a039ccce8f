"""The first visit: a strip over the tabs with three buttons that teach a ready thing, draw it and show its neurons.

It stays until it is hidden or something was taught. The browser remembers either, so that a later visit opens without it;
within a visit nothing moves: a step that is done is ticked.
"""

from dataclasses import dataclass

import gradio as gr

from .common import Shared

STEPS = ("1. Teach a ready thing", "2. Draw it somewhere new", "3. See its neurons")
LESSON = "rex"  # the ready thing of the first step
PROMPT = "a {} on a beach"
WORDS = '<p class="cns-note"><b>Try it in three steps</b></p>'
HEAD = """<script>
window.cnsBeen = () => { try { localStorage.setItem("cns-been", "yes"); } catch {} };
try { if (localStorage.getItem("cns-been")) document.documentElement.classList.add("cns-been"); } catch {}
window.cnsShow = (id, looks = 40) => { // a tab's parts come a moment after it is chosen
  const place = document.querySelector(id);
  if (place) place.scrollIntoView({ block: innerWidth > 640 ? "nearest" : "start" });
  else if (looks) setTimeout(() => cnsShow(id, looks - 1), 50);
};
</script>"""
HIDE = """() => { cnsBeen(); document.documentElement.classList.add("cns-been"); document.querySelector('[role="tab"][aria-selected="true"]').focus(); }"""
CSS = """
#guide { align-items: center; gap: .5rem; border: 1px dashed var(--border-color-primary); border-radius: 12px; padding: .35rem .75rem; background: var(--body-background-fill); }
#guide > * { flex: 0 0 auto; width: auto !important; }
#guide > .block { flex: 1 1 240px; padding: 0; }
.cns-been #guide { display: none; }
.gradio-container { overflow: clip !important; } /* were it hidden, the strip could not stay in sight on a phone */
@media (max-width: 640px) {
  #guide { flex-wrap: wrap; position: sticky; top: 0; z-index: 50; gap: .4rem; }
  #guide > .block { flex: 1 1 60%; min-width: 0; }
  #guide > button { flex: 1 1 30%; white-space: normal; padding-inline: .3rem; order: 1; min-height: 44px; align-self: stretch; }
  #guide > #guide-hide { flex: 0 0 auto; order: 0; min-height: 0; }
  #live, #drawn, #concept { scroll-margin-top: 140px; }
}
"""


@dataclass
class Guide:
    buttons: list[gr.Button]
    done: gr.State  # the steps that are done, a tuple of numbers from 0


def build(shared: Shared) -> Guide:
    """The layout."""
    with gr.Row(elem_id="guide"):
        gr.HTML(WORDS)
        buttons = [
            gr.Button(text, size="sm", min_width=0, interactive=i == 0, variant="secondary" if i else "primary", elem_id=f"guide-{i + 1}")
            for i, text in enumerate(STEPS)
        ]
        hide = gr.Button("Hide", size="sm", min_width=0, elem_id="guide-hide")
    hide.click(None, None, None, js=HIDE, api_visibility="private")
    shared.lesson = buttons[0]
    return Guide(buttons, gr.State(()))


def wire(guide: Guide, shared: Shared, lesson, prompt: gr.Textbox, drawing: dict) -> None:
    """`lesson(start, name)` teaches a ready thing after the event `start`; `drawing` are the arguments of an event that draws `prompt`."""
    quiet = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    first, second, third = guide.buttons

    def turn(to: str, press, place: str):
        shown = press(lambda: gr.update(selected=to), None, [shared.tabs], **quiet)
        return shown.then(None, None, None, js=f"() => cnsShow('{place}')", api_visibility="private")

    def ticked(step: int):
        return {"fn": lambda known, done: standing(known, {*done, step}), "inputs": [shared.known, guide.done], "outputs": [*guide.buttons, guide.done], **quiet}

    lesson(turn("teach", first.click, "#live"), LESSON)
    shared.known.change(lambda known, done: standing(known, {*done, 0} if known else ()), [shared.known, guide.done], [*guide.buttons, guide.done], **quiet).then(
        None, None, None, js="() => cnsBeen()", api_visibility="private"
    )
    asked = turn("generate", second.click, "#drawn").then(lambda known: PROMPT.format(known[-1]), [shared.known], [prompt], **quiet)
    asked.then(**drawing).success(**ticked(1))
    turn("inspect", third.click, "#concept").then(**ticked(2))


def standing(known: tuple[str, ...], done) -> tuple:
    """Updates of the buttons and the state with the steps `done`: these are ticked, the next one stands out, nothing is drawn before it is taught."""
    upcoming = min({*range(len(STEPS))} - {*done}, default=None)
    buttons = [
        gr.update(value=f"\N{CHECK MARK} {text}" if i in done else text, interactive=bool(known) == bool(i), variant="primary" if i == upcoming else "secondary")
        for i, text in enumerate(STEPS)
    ]
    return *buttons, tuple(done)
