"""The Generate tab: a prompt in, pictures out, with what the session knows and, if asked, without it."""

import random
import re
from dataclasses import replace

import gradio as gr

from ..generation import GenerateSettings
from ..text import TOKEN, check_prompt
from . import gpu, html
from .common import Shared, spoken

EXAMPLES = ["a small owl on a yellow background", "a teapot next to an owl, shaded style", "a large strawberry on a teal background"]


def build(base, shared: Shared) -> None:
    """Layout first, wiring below."""
    with gr.Row():
        with gr.Column(scale=5):
            prompt = gr.Textbox(label="Prompt", placeholder="a <rex> dog face on a teal background", lines=2, max_length=1000, elem_id="prompt")

            @gr.render(inputs=[shared.known])
            def chips(known):
                if not known:
                    gr.HTML('<p class="cns-note">What you teach appears here as a chip to click into the prompt.</p>')
                    return
                with gr.Row():
                    for words in known:
                        chip = gr.Button(words, size="sm", min_width=60, scale=0, elem_classes="cns-chip")
                        chip.click(lambda p, w=words: add(p, w), [prompt], [prompt], queue=False, api_visibility="private")

            gr.Examples(EXAMPLES, [prompt], label="Try", cache_examples=False)
            draw = gr.Button("Generate", variant="primary", elem_id="generate")
            negative = gr.Textbox(label="Negative prompt", placeholder="what to keep away from", max_lines=1, max_length=1000)
            with gr.Row():
                count = gr.Slider(1, 8, 4, step=1, label="Pictures")
                seed = gr.Number(0, label="Seed", precision=0, minimum=0, info="picture i uses seed + i", elem_id="seed")
            with gr.Row():
                steps = gr.Slider(1, 100, base.steps, step=1, label="Steps")
                guidance = gr.Slider(0, 20, base.guidance, step=0.5, label="Guidance")
            dice = gr.Button("New seed", size="sm")
            bare = gr.Checkbox(label="Also draw the same seeds without what you taught", elem_id="bare")
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
        said = [f"seed {settings.seed + i}" for i in range(settings.count)]
        drawn = gpu.draw(prompt, session, settings)
        without = gpu.draw(untaught(prompt), None, replace(settings, negative=untaught(settings.negative))) if bare else []
        text = f"{html.esc(prompt)} &middot; {settings.steps} steps, guidance {settings.guidance:g}"
        if cut:
            text += f"<br><b>Too long for this model, not read:</b> {html.esc(' '.join(cut))}"
        return (
            f'<p class="cns-note">{text}</p>', gr.update(value=[(html.enlarged(p), s) for p, s in zip(drawn, said)], visible=True),
            gr.update(visible=bool(without)), gr.update(value=[(html.enlarged(p), s) for p, s in zip(without, said)], visible=bool(without)),
        )  # fmt: skip

    gr.on(
        [draw.click, prompt.submit], run, [prompt, negative, count, seed, steps, guidance, bare, shared.session], [note, pictures, title, plain],
        concurrency_id="draw", concurrency_limit=1, api_visibility="private",
    )  # fmt: skip
    dice.click(lambda: random.randrange(2**31), None, [seed], queue=False, api_visibility="private")


def add(prompt: str, words: str) -> str:
    """`words` at the end of the prompt, as a sentence would have them."""
    prompt = (prompt or "").rstrip()
    return f"{prompt} {words}" if prompt else f"a {words} on a teal background"


def untaught(prompt: str) -> str:
    """The prompt as the untaught base can read it: tokens out, class words stay."""
    return re.sub(r"\s+", " ", TOKEN.sub("", (prompt or "").lower())).strip()
