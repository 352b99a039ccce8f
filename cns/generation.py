"""Prompt and session in, pictures out."""

from dataclasses import dataclass

import torch
from PIL import Image

from .session import Session
from .text import check_prompt, encode


@dataclass(frozen=True)
class GenerateSettings:
    """How to draw. Picture i comes from seed + i, so each can be drawn again alone."""

    count: int = 1  # pictures, 1 to 16
    seed: int = 0  # 0 to 2^63 - 17
    steps: int | None = None  # denoising steps, 1 to 200; None: the base's own
    guidance: float | None = None  # classifier-free guidance, 0 to 30; None: the base's own
    negative: str = ""  # what to keep away from

    def __post_init__(self):
        for name, low, high in (("count", 1, 16), ("seed", 0, 2**63 - 17), ("steps", 1, 200), ("guidance", 0, 30)):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"`{name}` is {value}: choose {low} to {high}")


def generate(base, prompt: str, session: Session | None = None, settings: GenerateSettings = GenerateSettings()) -> list[Image.Image]:
    """`settings.count` pictures of `prompt`, with what `session` taught. Raises ValueError for a bad prompt or a foreign session."""
    session = session or Session.new(base)
    session.check(base)
    check_prompt(base, session, prompt)
    with session.on(base):
        return sample(base, prompt, session.vectors, settings)


@torch.no_grad()
def sample(base, prompt: str, vectors, settings: GenerateSettings, chunk: int = 4) -> list[Image.Image]:
    """Draw with the base as it stands now; whoever calls holds its lock."""
    guidance = base.guidance if settings.guidance is None else settings.guidance
    (text, negative), _ = encode(base, [prompt, settings.negative], vectors)
    pictures = []
    for start in range(0, settings.count, chunk):
        seeds = range(settings.seed + start, settings.seed + min(start + chunk, settings.count))
        out = base.pipe(
            prompt_embeds=text.expand(len(seeds), -1, -1), negative_prompt_embeds=negative.expand(len(seeds), -1, -1),
            height=base.size, width=base.size, num_inference_steps=settings.steps or base.steps, guidance_scale=guidance,
            generator=[torch.Generator().manual_seed(s) for s in seeds],
        )  # fmt: skip
        pictures += out.images
    return pictures
