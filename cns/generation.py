"""Prompt and session in, pictures out, also bound to regions or from a picture; and where each word of a prompt acted."""

from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import torch
from PIL import Image
from torch import Tensor

from .attention import Heat, mapped
from .images import square, to_pictures, to_pixels, withheld
from .regions import Region, Shares, bound, check_words, checked, layered, set_into
from .session import Session
from .text import check_length, check_prompt, read, tokenize

CHUNK = 4  # pictures that are drawn at once


@dataclass(frozen=True)
class GenerateSettings:
    """How to draw. Picture i comes from seed + i, so each can be drawn again alone."""

    count: int = 1  # pictures, 1 to 16
    seed: int = 0  # 0 to 2^63 - 1 - count
    steps: int | None = None  # denoising steps, 1 to 200; None: the base's own
    guidance: float | None = None  # classifier-free guidance, 0 to 30; None: the base's own
    negative: str = ""  # what to keep away from, as long as a prompt may be
    strengths: dict[str, float] = field(default_factory=dict)  # by concept, 0 to 1.5 times what was taught
    regions: tuple[Region, ...] = ()  # boxes with words of their own, later ones over earlier ones; also as from JSON
    image_strength: float = 0.6  # from a picture: the share of the steps that draw anew, 0.05 to 1
    together: float | None = None  # with regions: the share of the steps that draw them all, 0 to 1; below 1 each is first drawn alone and set into its box; None: the base's own

    def __post_init__(self):
        ranges = (("count", 1, 16), ("seed", 0, None), ("steps", 1, 200), ("guidance", 0, 30), ("image_strength", 0.05, 1), ("together", 0, 1))
        for name, low, high in ranges:
            value, high = getattr(self, name), 2**63 - 1 - (self.count or 0) if high is None else high  # the seed of the last picture is one, too
            whole = name in ("count", "seed", "steps")
            if value is not None and not (isinstance(value, int if whole else int | float) and low <= value <= high):
                raise ValueError(f"`{name}` is {value}: choose {'a whole number from ' if whole else ''}{low} to {high}")
        if not isinstance(self.strengths, dict):
            raise ValueError(f"`strengths` is {self.strengths}: give a number for each concept's name")
        check_length("`negative`", self.negative)
        object.__setattr__(self, "regions", checked(self.regions))


def generate(
    base, prompt: str, session: Session | None = None, settings: GenerateSettings = GenerateSettings(), image: Image.Image | None = None
) -> list[Image.Image]:
    """`settings.count` pictures of `prompt`, with what `session` taught; `image`: start from its centre square.

    Raises ValueError for a bad prompt, region or strength, or a foreign session.
    """
    session, pictures = _ready(base, prompt, session, settings, image), []
    for first in range(0, settings.count, CHUNK):
        some = replace(settings, seed=settings.seed + first, count=min(CHUNK, settings.count - first))
        with session.on(base):  # and then others have their turn
            pictures += sample(base, prompt, session.vectors, some, image)
    return pictures


def explain(
    base, prompt: str, session: Session | None = None, settings: GenerateSettings = GenerateSettings(), image: Image.Image | None = None
) -> tuple[Image.Image, list[Heat]]:
    """The first picture that `generate` gives, and for every word of the prompt and of the regions where it acted."""
    if not base.family.regions:
        raise ValueError(f"base `{base.id}` is a {base.family.name}, whose attention cannot be mapped: draw without the overlay")
    session, settings = _ready(base, prompt, session, settings, image), replace(settings, count=1)
    maps: list[Tensor] = []
    with session.on(base):
        picture = sample(base, prompt, session.vectors, settings, image, maps)[0]
    mean = torch.stack([m[0] for m in maps]).mean(0)  # [1 + regions, tokens, h, w], over layers and steps
    heats = []
    for text, attention in zip((prompt, *(r.words for r in settings.regions)), mean):
        for word, first, end in tokenize(base.tokenizers[0], text, session.tokens, base.family.space).words:
            heats.append(Heat(word, attention[first:end].sum(0).numpy()))
    return picture, heats


def _ready(base, prompt, session, settings, image) -> Session:
    """The session as it is to be drawn with, once all input is checked."""
    session = session or Session.new(base)
    session.check(base)
    check_prompt(base, session, prompt)
    check_words(base, session, settings.regions)
    if settings.regions and not base.family.regions:
        raise ValueError(f"base `{base.id}` is a {base.family.name}, whose attention cannot be bound to regions: leave them out")
    if settings.negative and not base.family.negatives:
        raise ValueError(f"base `{base.id}` is a {base.family.name}, which cannot be kept away from a prompt: leave `negative` empty")
    if image and int((settings.steps or base.steps) * settings.image_strength) < 1:
        raise ValueError(f"`image_strength` {settings.image_strength} of {settings.steps or base.steps} steps is none: raise one of them")
    return session.scaled(settings.strengths)


def passes(base, settings: GenerateSettings, image=None) -> int:
    """How many passes of the denoiser `sample` makes, with a sampler that makes one in each step."""
    steps, chunks = settings.steps or base.steps, -(-settings.count // CHUNK)
    together = base.card.together if settings.together is None else settings.together
    if image is not None:
        return int(steps * settings.image_strength) * chunks
    if not settings.regions or together == 1:
        return steps * chunks
    return (1 + len(settings.regions)) * steps * chunks + settings.count * (max(1, int(steps * together)) if together else 0)


@torch.no_grad()
def sample(base, prompt: str, vectors, settings: GenerateSettings, image=None, maps: list | None = None) -> list[Image.Image]:
    """Draw with the base as it stands now; whoever calls holds its lock. `maps` gathers attention maps, see `attention.mapped`."""
    together = base.card.together if settings.together is None else settings.together
    if settings.regions and image is None and together < 1:
        return _apart_first(base, prompt, vectors, settings, together, maps)
    guidance = base.guidance if settings.guidance is None else settings.guidance
    texts = read(base, [settings.negative, prompt, *(r.words for r in settings.regions)], vectors, away=1)
    shares = Shares(settings.regions, *base.latent_shape[1:])
    pipe, start = (base.img2img, {"image": square(image, base.size), "strength": settings.image_strength}) if image else (base.pipe, {"height": base.size, "width": base.size})
    pictures = []
    for first in range(0, settings.count, CHUNK):
        seeds = range(settings.seed + first, settings.seed + min(first + CHUNK, settings.count))
        with ExitStack() as stack:
            stack.enter_context(bound(base.layers, texts.features[2:], shares, len(seeds)))
            if maps is not None:
                maps_here = stack.enter_context(mapped(base.layers, texts.features[1:], shares, len(seeds)))
            out = pipe(
                **texts[1:2].repeated(len(seeds)).arguments(), **texts[:1].repeated(len(seeds)).arguments("negative_"),
                num_inference_steps=settings.steps or base.steps, guidance_scale=guidance,
                generator=[torch.Generator().manual_seed(s) for s in seeds], **start, **dict(base.family.drawing),
            )  # fmt: skip
        if maps is not None:
            maps += maps_here
        unsafe = getattr(out, "nsfw_content_detected", None) or [False] * len(seeds)  # what the base's own safety checker says, if it ships one
        pictures += [withheld(p.size) if bad else p for p, bad in zip(out.images, unsafe)]
    return pictures


def _apart_first(base, prompt: str, vectors, settings: GenerateSettings, together: float, maps: list | None) -> list[Image.Image]:
    """The prompt, then each region's words with the prompt, drawn alone and set into its box; then drawn over with all bound.

    `maps` gathers those of drawing over or, without that, one [count, 1 + regions, tokens, h, w] of drawing alone.
    """

    def drawn(text) -> tuple[Tensor, Tensor | None]:
        """(pixels [count, 3, h, w] of `text` alone, attention maps [count, tokens, h, w])"""
        own: list[Tensor] | None = None if maps is None else []
        pictures = sample(base, text, vectors, replace(settings, regions=()), maps=own)
        return to_pixels(pictures, base.size), None if own is None else torch.stack(own).mean(0)[:, 0]

    def over(beneath: Tensor, views: tuple[Tensor, ...]) -> Tensor:
        """The layers [count, 1 + regions, c, h, w] whose sum is `beneath` with each view in its box."""
        placed, parts = zip(*(set_into(v, r.box) for v, r in zip(views, settings.regions)))
        return torch.stack([beneath, *placed], 1) * layered(torch.stack(parts))[:, None]

    canvas, seen = drawn(prompt)
    views, views_seen = zip(*(drawn(f"{r.words}, {prompt}") for r in settings.regions))
    canvas = over(canvas, views).sum(1)
    pictures, steps = to_pictures(canvas), settings.steps or base.steps
    if not together:
        if maps is not None:
            maps.append(over(seen, views_seen))
        return pictures
    again = replace(settings, count=1, image_strength=max(together, 1 / steps + 1e-6))
    return [sample(base, prompt, vectors, replace(again, seed=settings.seed + i), p, maps)[0] for i, p in enumerate(pictures)]
