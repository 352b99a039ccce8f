"""A prompt in, what the key and value projections make their keys and values of out.

Where only cross-attention reads the text, every layer reads the same x, whatever is drawn: one pass of a text projection tells it.

Where text and picture attend to each other (MMDiT: Esser et al., 2024), a layer reads what the layers before made of the text, which
depends on the time and the picture, too. There x is listened to layer by layer, at several levels of noise on what the base itself
draws in one step. What holds an update still carries over: if dW x = 0 in the first layer, the second reads what it read
before, and so on to the last; but the x heard are examples of those that will be read, not all of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

LEVELS = (1.0, 0.6, 0.3)  # of noise, from nothing but noise down
CHUNK = 8  # prompts in a pass of a large denoiser


@contextmanager
def listened(modules: dict[str, nn.Module]):
    """Within: yields {name: list of what the module was given}, one for each pass."""
    heard: dict[str, list[Tensor]] = {name: [] for name in modules}
    hooks = [m.register_forward_pre_hook(lambda _, given, name=name: heard[name].append(given[0])) for name, m in modules.items()]
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


def together(base, text) -> Iterator[Tensor]:
    """What all layers read alike [1, n, length, din]."""
    yield base.projected(text)[None]


def passes(n: int) -> int:
    """How many times `layer_by_layer` runs the denoiser for so many prompts."""
    return -(-n // CHUNK) * len(LEVELS)


def layer_by_layer(base, text) -> Iterator[Tensor]:
    """What each layer reads [layers, n, length, din], for a few prompts at one level of noise after the other."""
    keys = {n: getattr(m, base.family.projections[0]) for n, m in base.layers.items()}
    generator = torch.Generator().manual_seed(0)
    for first in range(0, len(text.features), CHUNK):
        part = text[first : first + CHUNK]
        noise = torch.randn((len(part.features), *base.latent_shape), generator=generator).to(base.device)
        z = torch.zeros_like(noise)  # of which the first level leaves nothing
        for level in LEVELS:
            t = base.noise.times(torch.full((len(noise),), level)).to(base.device)
            noised = base.noise.add(z, noise, t)
            with listened(keys) as heard:
                predicted = base.predict(noised, t, part)
            z = base.noise.clean(noised, predicted.float(), t)
            yield torch.stack([x for (x,) in heard.values()])


def first_block(denoiser: nn.Module, text) -> Tensor:
    """What the first joint block's projections read [n, length, d], halfway to noise: no picture has come into it yet."""
    half, one = (torch.full((len(text.features),), x, device=text.features.device).to(text.features.dtype) for x in (500.0, 1000.0))
    time = denoiser.time_text_embed(half, *([one] if denoiser.config.get("guidance_embeds") else []), text.pooled)  # see `families._packed`
    return denoiser.transformer_blocks[0].norm1_context(denoiser.context_embedder(text.features), emb=time)[0]
