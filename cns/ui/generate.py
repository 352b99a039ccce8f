"""The Generate tab: a prompt in, pictures out, with what the session knows and, if asked, without it."""

import random
import re
from dataclasses import replace

import gradio as gr

from ..generation import GenerateSettings
from ..text import TOKEN, check_prompt
from . import gpu, html
from .common import Shared, spoken

EXAMPLES = ("a small owl on a yellow background", "a teapot next to an owl, shaded style", "a large strawberry on a teal background")
SCENES = ("a {} on a teal background", "a small {} on a yellow background", "a {} next to a teapot")  # for what was just taught


def build(base, shared: Shared) -> None:
    """Layout first, wiring below."""
    with gr.Row():
        with gr.Column(scale=5):
            prompt = gr.Textbox(label="Prompt", placeholder="a <rex> dog face on a teal background", lines=2, max_length=1000, elem_id="prompt")
            chips(prompt, shared)
            with gr.Row():
                count = gr.Slider(1, 8, 4, step=1, label="Pictures", min_width=120)
                seed = gr.Number(0, label="Seed of the first; each next one adds 1", precision=0, minimum=0, min_width=120, elem_id="seed")
                dice = gr.Button("New seed", size="sm", scale=0, min_width=90, elem_id="new-seed")
            bare = gr.Checkbox(label="Also draw the same seeds without what you taught", elem_id="bare")
            draw = gr.Button("Generate", variant="primary", elem_id="generate")
            with gr.Accordion("Advanced", open=False):
                negative = gr.Textbox(label="Negative prompt", placeholder="what to keep away from", max_lines=1, max_length=1000)
                with gr.Row():
                    steps = gr.Slider(1, 100, base.steps, step=1, label="Steps", min_width=120)
                    guidance = gr.Slider(0, 20, base.guidance, step=0.5, label="Guidance", min_width=120)
        with gr.Column(scale=6):
            note = gr.HTML(html.empty("Your pictures appear here."), elem_id="drawn")
            look = {"format": "png", "columns": 2, "object_fit": "contain", "visible": False, "show_label": False, "elem_classes": "cns-grid"}
            pictures = gr.Gallery(label="With what you taught", elem_id="pictures", **look)
            title = gr.Markdown("**The same seeds without what you taught**", visible=False)
            plain = gr.Gallery(label="The untaught model", elem_id="plain", **look)

    @spoken
    def run(prompt, negative, count, seed, steps, guidance, bare, session):
        settings = GenerateSettings(int(count), int(seed or 0), int(steps), float(guidance), negative or "")
        cut = check_prompt(base, session, prompt)
        if negative:
            check_prompt(base, session, negative)
        drawn, without = gpu.draw(prompt, session, settings), []
        if bare:
            without = gpu.draw(untaught(prompt, session), None, replace(settings, negative=untaught(settings.negative, session)))
        return described(prompt, settings, cut), shown(drawn, settings), gr.update(visible=bare), shown(without, settings)

    gr.on(
        [draw.click, prompt.submit], run, [prompt, negative, count, seed, steps, guidance, bare, shared.session], [note, pictures, title, plain],
        concurrency_id="draw", concurrency_limit=1, show_progress_on=[note], api_visibility="private",
    )  # fmt: skip
    dice.click(lambda: random.randrange(2**31), None, [seed], queue=False, show_progress="hidden", api_visibility="private")


def chips(prompt: gr.Textbox, shared: Shared) -> None:
    """Under the prompt: what was taught, to click into it, and whole prompts to try, the newest concept's first."""

    @gr.render(inputs=[shared.known])
    def row(known):
        if not known:
            gr.HTML('<p class="cns-note">What you teach appears here, to click into the prompt. Until then, try:</p>')
        with gr.Row(elem_classes="cns-chips"):
            for words in known:
                chip(words, lambda p, w=words: add(p, w), [prompt], "primary")
        with gr.Row(elem_classes="cns-chips"):
            for text in tries(known):
                chip(text, lambda t=text: t, None, "secondary")

    def chip(label, change, inputs, variant):
        button = gr.Button(label, size="sm", min_width=60, scale=0, variant=variant, elem_classes="cns-chip")
        button.click(change, inputs, [prompt], queue=False, show_progress="hidden", api_visibility="private")


def tries(known: tuple[str, ...]) -> list[str]:
    """Prompts worth a click."""
    return [scene.format(known[-1]) for scene in SCENES] if known else list(EXAMPLES)


def shown(pictures, settings: GenerateSettings):
    """An update of a gallery: each picture under its seed; hidden when there is none."""
    return gr.update(value=[(html.enlarged(p), f"seed {settings.seed + i}") for i, p in enumerate(pictures)], visible=bool(pictures))


def described(prompt: str, settings: GenerateSettings, cut: list[str]) -> str:
    """What was drawn and how, and the words that the model could not read."""
    text = f"{html.esc(prompt)} &middot; {settings.steps} steps, guidance {settings.guidance:g}"
    if settings.negative:
        text += f", away from {html.esc(settings.negative)}"
    if cut:
        text += f"<br><b>Too long for this model, not read:</b> {html.esc(' '.join(cut))}"
    return f'<p class="cns-note">{text}</p>'


def add(prompt: str, words: str) -> str:
    """`words` at the end of the prompt, as a sentence would have them."""
    prompt = (prompt or "").rstrip()
    return f"{prompt} {words}" if prompt else f"a {words} on a teal background"


def untaught(prompt: str, session) -> str:
    """The prompt as the untaught base can read it: each token becomes its class word, unless that follows it anyway."""
    words = {c.token: c.class_word for c in session.concepts} if session else {}
    prompt = re.sub(r"\s+", " ", prompt.lower()).strip()
    for token, word in words.items():
        prompt = prompt.replace(f"{token} {word}", word).replace(token, word)
    return TOKEN.sub("", prompt)
