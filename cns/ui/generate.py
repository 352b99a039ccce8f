"""The Generate tab: a prompt in, pictures out, with what the session knows and, if asked, without it."""

import random
import re
from dataclasses import replace
from functools import partial

import gradio as gr

from ..generation import GenerateSettings
from ..images import load_images
from ..regions import check_words
from ..session import STRONGEST
from ..text import TOKEN, check_prompt
from ..variations import SWEEP, columns, usual
from . import gpu, html, regions, temp
from .common import Shared, spoken

EXAMPLES = ("a fox on a beach", "a teapot next to an owl, shaded style", "a sailboat at night")
GUIDANCE, STRENGTH, ANEW = "guidance", "strength of what the prompt names", "how much of a picture is drawn anew"
SCENES = ("a {} on a beach", "a {} at night", "a small {} on a yellow background")  # for what was just taught
RENDER = "render"  # one at a time: Gradio lists a page's events while another part of it may add some


def build(base, shared: Shared) -> tuple[gr.Textbox, dict]:
    """Layout first, wiring below. Returns the prompt and the arguments of an event that draws it."""
    page = Layout(base, shared)
    return page.prompt, wired(page, Desk(base), shared)


class Layout:
    """What the tab shows; `inputs` say what is to be drawn."""

    def __init__(self, base, shared: Shared):
        with gr.Row():
            with gr.Column(scale=5):
                self._asking(shared)
                image, *more = options(base, shared, lambda: self.inputs)  # type: ignore[has-type]
                self._variations()
            with gr.Column(scale=6):
                self._results()
        self.inputs = [shared.run, self.prompt, image, shared.session, self.count, self.seed, *more]
        self.last = gr.State(None)  # (prompt, settings, picture to start from) of what is shown

    def _asking(self, shared: Shared):
        self.prompt = gr.Textbox(label="Prompt", placeholder="a <rex> dog face on a teal background", lines=2, max_length=1000, elem_id="prompt")
        chips(self.prompt, shared)
        with gr.Row():
            self.count = gr.Slider(1, 8, 4, step=1, label="Pictures", min_width=120)
            self.seed = gr.Number(0, label="Seed of the first", precision=0, minimum=0, min_width=120, elem_id="seed")
            self.dice = gr.Button("New seed", size="sm", scale=0, min_width=90, elem_id="new-seed")
        self.bare = gr.Checkbox(label="Also draw the same seeds without what you taught", elem_id="bare")
        with gr.Row():
            self.draw = gr.Button("Generate", variant="primary", scale=4, elem_id="generate")
            self.stop = gr.Button("Stop", scale=1, min_width=80, elem_id="stop-drawing")

    def _variations(self):
        with gr.Accordion("Variations", open=False, elem_id="variations"):
            gr.HTML(html.note("A table of pictures: a row for each seed, a column for each value of one more thing."))
            with gr.Row():
                self.what = gr.Radio([GUIDANCE, STRENGTH, ANEW], value=GUIDANCE, label="What varies along a row", min_width=160, elem_id="vary")
                self.rows = gr.Slider(1, 4, 2, step=1, label="Seeds", min_width=120)
            self.vary = gr.Button("Draw the table", size="sm", elem_id="draw-table")

    def _results(self):
        look = {"format": "png", "columns": 2, "object_fit": "contain", "visible": False, "show_label": False, "elem_classes": "cns-grid"}
        self.note = gr.HTML(html.empty("Your pictures appear here."), elem_id="drawn")
        self.pictures = gr.Gallery(label="With what you taught", elem_id="pictures", **look)
        self.title = gr.Markdown("**The same seeds without what you taught**", visible=False)
        self.plain = gr.Gallery(label="The untaught model", elem_id="plain", **look)
        self.where = gr.Checkbox(label="Show where each word of the first picture acted", visible=False, elem_id="where")
        self.heat = gr.HTML(elem_id="heat")
        self.table = gr.HTML(elem_id="table")


class Desk:
    """What draws."""

    def __init__(self, base):
        self.base = base

    @spoken
    def generated(self, bare, run, prompt, image, session, *how):
        """(what it is, pictures, the title and pictures of the untaught model, whether to offer the maps, `Layout.last`)"""
        settings, start, watches = asked(*how), started(image), gpu.Watch.of(run).parts(1 + bool(bare))
        cut = check_prompt(self.base, session, prompt) + check_words(self.base, session, settings.regions)
        if settings.negative:
            check_prompt(self.base, session, settings.negative)
        drawn, without = gpu.draw(prompt, session, settings, start, watches[0]), []
        if bare:
            without = gpu.draw(untaught(prompt, session), None, plainly(settings, session), start, watches[1])
        last = prompt, settings, start
        return described(prompt, settings, cut), shown(drawn, settings), gr.update(visible=bare), shown(without, settings), gr.update(visible=True), last


@spoken
def acted(asked_for, last, session, run):
    """Where each word of the first picture acted, if that is to be shown."""
    if not asked_for or not last:
        return ""
    picture, heats = gpu.explain(last[0], session, *last[1:], gpu.Watch.of(run))
    return html.strip([(h.over(html.enlarged(picture)), h.word) for h in heats])


def wired(page: Layout, desk: Desk, shared: Shared) -> dict:
    """Every event of the tab. Returns the arguments of one that draws."""
    private, quick = {"api_visibility": "private"}, {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    drawing = {
        "fn": desk.generated, "inputs": [page.bare, *page.inputs], "outputs": [page.note, page.pictures, page.title, page.plain, page.where, page.last],
        "concurrency_id": "draw", "concurrency_limit": 1, "show_progress_on": [page.note], **private,
    }  # fmt: skip
    mapping = {"fn": acted, "inputs": [page.where, page.last, shared.session, shared.run], "outputs": [page.heat], "concurrency_id": "draw", **private}
    drawn = gr.on([page.draw.click, page.prompt.submit], **drawing)
    after, mapped = drawn.success(**mapping), page.where.input(**mapping)
    table = page.vary.click(spoken(variations), [page.what, page.rows, *page.inputs], [page.table], concurrency_id="draw", show_progress_on=[page.table], **private)
    page.stop.click(spoken(stopped), [shared.run], [page.note], cancels=[drawn, after, mapped, table], **quick)
    page.dice.click(lambda: random.randrange(2**31), None, [page.seed], **quick)
    return drawing


def stopped(run: str) -> str:
    """End what is being drawn, and say so."""
    temp.made(gpu.halt(run))
    return html.note("Stopped: nothing new was drawn.")


def options(base, shared: Shared, inputs) -> list:
    """What need not be touched, folded away: [image, strengths, negative, steps, guidance, share drawn anew, share drawn together, *regions]."""
    with gr.Accordion("Strength of each concept", open=False, elem_id="strength"):
        strengths = gr.State({})
        sliders(shared, strengths, inputs)
    boxes, together = regions.build(base)
    with gr.Accordion("Advanced", open=False):
        negative = gr.Textbox(label="Negative prompt", placeholder="what to keep away from", max_lines=1, max_length=1000)
        with gr.Row():
            steps = gr.Slider(1, 100, base.steps, step=1, label="Steps", min_width=120)
            guidance = gr.Slider(0, 20, base.guidance, step=0.5, label="Guidance", min_width=120)
        with gr.Row():
            image = gr.Image(label="A picture to start from", type="filepath", height=150, min_width=260, format="png", buttons=[], elem_id="start")
            image.preprocess = spoken(partial(readable, image.preprocess))  # Gradio opens it before we do, and says nothing of what is wrong with it
            anew = gr.Slider(5, 100, 60, step=5, label="How much of it is drawn anew [%]", min_width=260)
    return [image, strengths, negative, steps, guidance, anew, together, *boxes]


def readable(preprocess, payload):
    """What Gradio makes of a picture to start from, once it is known that we can read it."""
    if payload and payload.path:
        started(payload.path)
    return preprocess(payload)


def sliders(shared: Shared, strengths: gr.State, inputs) -> None:
    """One slider for each concept, and a button that draws the prompt at four strengths of it."""

    @gr.render(inputs=[shared.known], concurrency_limit=1, concurrency_id=RENDER)
    def rows(known):
        if not known:
            gr.HTML('<p class="cns-note">A slider for each thing that you teach appears here.</p>')
        for words in known:
            name = words.split()[0].strip("<>")
            with gr.Row():
                slider = gr.Slider(0, 100 * STRONGEST, 100, step=5, label=f"<{name}> [%]", min_width=160, scale=3, interactive=True, elem_id=f"strength-{name}")
                strip = gr.Button("Draw 0, 50, 100, 150 %", size="sm", min_width=180, scale=1)
            drawn = gr.HTML()
            slider.input(lambda v, kept, n=name: {**kept, n: v / 100}, [slider, strengths], [strengths], show_progress="hidden", api_visibility="private")
            strip.click(spoken(partial(sweep, name)), inputs(), [drawn], concurrency_id="draw", api_visibility="private")

    shared.known.change(dict, None, [strengths], queue=False, api_visibility="private")


def sweep(name: str, run, prompt, image, session, *how) -> str:
    """The first picture at four strengths of one concept."""
    settings, start = replace(asked(*how), count=1), started(image)
    return html.strip([(pictures[0], f"{s:.0%}") for s, pictures in drawn_each(run, prompt, session, start, columns(session, settings, [name], SWEEP))])


def drawn_each(run: str, prompt: str, session, start, wanted) -> list:
    """(value, pictures) of each (value, settings) `wanted`."""
    watches = gpu.Watch.of(run).parts(len(wanted))
    return [(v, gpu.draw(prompt, session, each, start, watch)) for (v, each), watch in zip(wanted, watches)]


def variations(what: str, seeds: int, run, prompt, image, session, *how) -> str:
    """A row of pictures for each seed, a column for each value."""
    settings, start = replace(asked(*how), count=int(seeds)), started(image)
    if what == ANEW and not start:
        raise ValueError("there is no picture to start from: give one under Advanced")
    varied = named_in(prompt, settings, session) if what == STRENGTH else {GUIDANCE: "guidance", ANEW: "image_strength"}[what]
    values = SWEEP if what == STRENGTH else usual(varied, settings.guidance)  # type: ignore[arg-type]
    said = {GUIDANCE: "guidance {:g}", STRENGTH: "strength {:.0%}", ANEW: "{:.0%} anew"}[what]
    drawn = [(said.format(v), pictures) for v, pictures in drawn_each(run, prompt, session, start, columns(session, settings, varied, values))]
    return "".join(html.note(f"seed {settings.seed + i}") + html.strip([(pictures[i], words) for words, pictures in drawn]) for i in range(int(seeds)))


def named_in(prompt: str, settings: GenerateSettings, session) -> list[str]:
    """The concepts that the prompt or a region names. Raises ValueError for none."""
    text = " ".join([prompt, *(r.words for r in settings.regions)]).lower()
    named = [c.name for c in session.concepts if c.token in text] if session else []
    if not named:
        raise ValueError("the prompt names nothing that was taught, so no strength can vary: click a taught thing into it")
    return named


def asked(count, seed, strengths, negative, steps, guidance, anew, together, *boxes) -> GenerateSettings:
    """The page's values as settings."""
    return GenerateSettings(
        int(count), int(seed or 0), int(steps), float(guidance), negative or "", strengths, regions.regions(boxes), anew / 100, together / 100
    )


def started(path: str | None):
    """The picture to start from, None for none."""
    return load_images([path])[0] if path else None


def plainly(settings: GenerateSettings, session) -> GenerateSettings:
    """The settings as the untaught base can read them."""
    boxes = tuple(replace(r, words=untaught(r.words, session)) for r in settings.regions)
    return replace(settings, negative=untaught(settings.negative, session), strengths={}, regions=boxes)


def chips(prompt: gr.Textbox, shared: Shared) -> None:
    """Under the prompt: what was taught, to click into it, and whole prompts to try, the newest concept's first."""

    @gr.render(inputs=[shared.known], concurrency_limit=1, concurrency_id=RENDER)
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
