"""Prompts and taught tokens in, text features out.

Taught tokens never enter the tokenizer or the embedding table: a prompt is cut at them, and the text encoder's embedding
layer is given their vectors at those places (each encoder its own part). So the text encoder stays as it is, whatever a session knows.
"""

import re
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from .families import Text

TOKEN = re.compile(r"<[a-z][a-z0-9_-]*>")


@dataclass(frozen=True)
class Tokens:
    """One prompt's token ids, padded, with the taught tokens' places and the words that did not fit."""

    ids: list[int]  # [length], 0 where a taught token stands
    start: int  # position of the first word: 1 after a start-of-text token, 0 where there is none
    slots: tuple[tuple[int, str], ...]  # (position, token)
    words: tuple[tuple[str, int, int], ...]  # (word or token, its first position, the one after its last)
    end: int  # position of the end-of-text token; words are at start..end-1
    cut: list[str]  # words beyond the encoder's length


def tokenize(tokenizer, prompt: str, known=()) -> Tokens:
    """`prompt` as ids. Raises ValueError for a token like `<rex>` that is not among the `known`."""
    pieces, units = re.split(f"({TOKEN.pattern})", prompt.lower()), []
    for piece in pieces:
        if TOKEN.fullmatch(piece):
            if piece not in known:
                taught = ", ".join(f"`{k}`" for k in known) or "nothing yet"
                raise ValueError(f"token `{piece}` was never taught. Taught: {taught}")
            units.append((piece, [0], piece))
        else:
            for word in piece.split():
                units.append((word, tokenizer(word, add_special_tokens=False).input_ids, None))
    ids = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    start, room, slots, words, cut = len(ids), tokenizer.model_max_length - 1, [], [], []  # one place is for the end of the text
    for word, word_ids, token in units:
        if cut or len(ids) + len(word_ids) > room:
            cut.append(word)
            continue
        slots += [(len(ids), token)] if token else []
        words.append((word, len(ids), len(ids) + len(word_ids)))
        ids += word_ids
    end = len(ids)
    ids += [tokenizer.eos_token_id] + [tokenizer.pad_token_id] * (room - end)
    return Tokens(ids, start, tuple(slots), tuple(words), end, cut)


def check_prompt(base, session, prompt: str) -> list[str]:
    """The words of `prompt` that the encoder will not read. Raises ValueError for an empty prompt or an untaught token."""
    if not prompt.strip():
        raise ValueError("the prompt is empty: say what to draw")
    return tokenize(base.pipe.tokenizer, prompt, session.tokens if session else ()).cut


@contextmanager
def _vectors_at(embedding, places: list[tuple[int, int, str]], vectors: dict[str, Tensor]):
    """Within: the embedding layer's output has `vectors[token]` at each (row, position)."""

    def replace(_, __, out):
        rows, columns = (torch.tensor(i, device=out.device) for i in zip(*((r, p) for r, p, _ in places)))
        return out.index_put((rows, columns), torch.stack([vectors[t] for _, _, t in places]).to(out))

    handle = embedding.register_forward_hook(replace) if places else None
    try:
        yield
    finally:
        if handle:
            handle.remove()


def read(base, prompts: list[str], vectors: dict[str, Tensor] | None = None) -> Text:
    """`prompts` as the base's denoiser reads them. `vectors` maps tokens to embeddings [din]; gradients flow to them."""
    vectors, ids, masks = vectors or {}, [], []
    with ExitStack() as stack:
        for i, (tokenizer, embedding) in enumerate(zip(base.tokenizers, base.embeddings)):
            rows = [tokenize(tokenizer, p, tuple(vectors)) for p in prompts]
            places = [(r, position, token) for r, row in enumerate(rows) for position, token in row.slots]
            stack.enter_context(_vectors_at(embedding, places, {k: v.split(base.widths)[i] for k, v in vectors.items()}))
            ids.append(torch.tensor([row.ids for row in rows], device=base.device))
            masks.append(torch.arange(ids[-1].shape[1], device=base.device) <= torch.tensor([row.end for row in rows], device=base.device)[:, None])
        features, pooled, mask = base.family.read(base.encoders, ids, masks)
    if base.pipe.config.get("force_zeros_for_empty_prompt"):
        said = torch.tensor([bool(p) for p in prompts], device=base.device)
        features, pooled = features * said[:, None, None], pooled * said[:, None]
    position = torch.arange(features.shape[1], device=base.device)
    ends = torch.tensor([row.end for row in rows], device=base.device)  # the same for every encoder
    return Text(features, (position >= rows[0].start) & (position < ends[:, None]), pooled, mask)


def class_embedding(base, concept) -> Tensor:
    """What a new token starts from: the mean embedding [din] of the class word's tokens, of one text encoder after the other."""
    ids = [t(concept.class_word, add_special_tokens=False).input_ids for t in base.tokenizers]
    return torch.cat([e.weight[i].detach().float().mean(0) for e, i in zip(base.embeddings, ids)])


def encode(base, prompts: list[str], vectors: dict[str, Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """(text features [n, length, din], mask [n, length] of the words: no start, end or padding): see `read`."""
    text = read(base, prompts, vectors)
    return text.features, text.words
