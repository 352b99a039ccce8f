"""Prompts and taught tokens in, text features out.

Taught tokens never enter the tokenizer or the embedding table: a prompt is cut at them, and the text encoder's embedding
layer is given their vectors at those places (each encoder its own part). So the text encoder stays as it is, whatever a session knows.
"""

import re
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .families import Text

TOKEN = re.compile(r"<[a-z][a-z0-9_-]*>")
LONGEST = 4000  # characters of a text: more than any encoder reads


@dataclass(frozen=True)
class Tokens:
    """One prompt's token ids, padded, with the taught tokens' places and the words that did not fit."""

    ids: list[int]  # [length], 0 where a taught token stands
    start: int  # position of the first word: 1 after a start-of-text token, 0 where there is none
    slots: tuple[tuple[int, str], ...]  # (position, token)
    words: tuple[tuple[str, int, int], ...]  # (word or token, its first position, the one after its last)
    end: int  # the position after the last word; words are at start..end-1
    closed: int  # the position after the end-of-text token, where there is one; the rest is padding
    cut: list[str]  # words beyond the encoder's length
    seen: list[int]  # the positions whose features the denoiser reads


def tokenize(tokenizer, prompt: str, known=(), space: str = "", behind: bool = False, cased: bool = False) -> Tokens:
    """`prompt` as ids. Raises ValueError for a token like `<rex>` that is not among the `known`.

    `space`: what tells the tokenizer that a word follows on others; `behind`: so does the prompt itself; `cased`: capitals are left to it.
    """
    pieces, units = re.split(f"({TOKEN.pattern})", prompt if cased else prompt.lower(), flags=re.IGNORECASE), []
    for piece in pieces:
        if TOKEN.fullmatch(token := piece.lower()):
            if token not in known:
                taught = ", ".join(f"`{k}`" for k in known) or "nothing yet"
                raise ValueError(f"token `{token}` was never taught. Taught: {taught}")
            units.append((token, [0], token))
        else:
            for word in piece.split():
                units.append((word, tokenizer((space if units or behind else "") + word, add_special_tokens=False).input_ids, None))
    empty = tokenizer("").input_ids  # what it puts around any text
    ids, closing = ([i for i in empty if i == mark] for mark in (tokenizer.bos_token_id, tokenizer.eos_token_id))
    start, room, slots, words, cut = len(ids), tokenizer.model_max_length - len(closing), [], [], []
    for word, word_ids, token in units:
        if cut or len(ids) + len(word_ids) > room:
            cut.append(word)
            continue
        slots += [(len(ids), token)] if token else []
        words.append((word, len(ids), len(ids) + len(word_ids)))
        ids += word_ids
    end = len(ids)
    ids += closing + [tokenizer.pad_token_id] * (room - end)
    return Tokens(ids, start, tuple(slots), tuple(words), end, end + len(closing), cut, [*range(len(ids))])


def check_length(what: str, text: str, most: int = LONGEST) -> None:
    """Raises ValueError for a `text` of more than `most` characters; `what` is its name."""
    if len(text) > most:
        raise ValueError(f"{what} has {len(text):,} characters: shorten it to {most:,} or fewer")


def check_prompt(base, session, prompt: str) -> list[str]:
    """The words of `prompt` that no encoder will read. Raises ValueError for an empty or much too long prompt or an untaught token."""
    check_length("the prompt", prompt)
    if not prompt.strip():
        raise ValueError("the prompt is empty: say what to draw")
    known = session.tokens if session else ()
    return min((tokenize(t, prompt, known, base.family.space).cut for t in base.tokenizers), key=len)


@contextmanager
def _vectors_at(embedding, places: list[tuple[int, int, str]], vectors: dict[str, Tensor]):
    """Within: the embedding layer's output has `vectors[token]` at each (row, position)."""

    scale = getattr(embedding, "scalar_embed_scale", 1.0)  # Gemma's layer makes what it looks up longer

    def put(_, __, out):
        rows, columns = (torch.tensor(i, device=out.device) for i in zip(*((r, p) for r, p, _ in places)))
        return out.index_put((rows, columns), scale * torch.stack([vectors[t] for _, _, t in places]).to(out))

    handle = embedding.register_forward_hook(put) if places else None
    try:
        yield
    finally:
        if handle:
            handle.remove()


def _row(family, tokenizer, prompt: str, known, asked: bool) -> Tokens:
    """`prompt` as an encoder of this family reads it: `asked` for a picture, it stands behind the family's instruction."""
    asks = tokenizer(family.instruction, add_special_tokens=False).input_ids
    row, n = tokenize(tokenizer, prompt, known, family.space, asked and bool(asks), family.cased), len(asks)
    if not asked or not asks:
        return replace(row, ids=row.ids + [tokenizer.pad_token_id] * n)  # as long as the others
    ids, slots = [*row.ids[: row.start], *asks, *row.ids[row.start :]], tuple((position + n, token) for position, token in row.slots)
    seen = [*row.seen[: row.start], *(position + n for position in row.seen[row.start :])]
    return replace(row, ids=ids, start=row.start + n, slots=slots, end=row.end + n, closed=row.closed + n, seen=seen)


def read(base, prompts: list[str], vectors: dict[str, Tensor] | None = None, away: int = 0) -> Text:
    """`prompts` as the base's denoiser reads them, the first `away` of them as what to keep away from.

    `vectors` maps tokens to embeddings [din]; gradients flow to them.
    """
    vectors, ids, masks, words = vectors or {}, [], [], []
    with ExitStack() as stack:
        for i, (tokenizer, embedding) in enumerate(zip(base.tokenizers, base.embeddings)):
            rows = [_row(base.family, tokenizer, p, tuple(vectors), r >= away) for r, p in enumerate(prompts)]
            places = [(r, position, token) for r, row in enumerate(rows) for position, token in row.slots]
            stack.enter_context(_vectors_at(embedding, places, {k: v.split(base.widths)[i] for k, v in vectors.items()}))
            ids.append(torch.tensor([row.ids for row in rows], device=base.device))
            position = torch.arange(ids[-1].shape[1], device=base.device)
            start, end, closed = torch.tensor([(row.start, row.end, row.closed) for row in rows], device=base.device).T[:, :, None]  # each [n, 1]
            masks.append(position < closed)
            words.append((position >= start) & (position < end))
        text = base.family.read(base.encoders, ids, masks, words)
    if base.family.instruction:
        text = text.at(torch.tensor([row.seen for row in rows], device=base.device))
    if base.pipe.config.get("force_zeros_for_empty_prompt"):
        said = torch.tensor([bool(p) for p in prompts], device=base.device)
        text = replace(text, features=text.features * said[:, None, None], pooled=text.pooled * said[:, None])
    return text


def class_embedding(base, concept) -> Tensor:
    """What a new token starts from: the mean embedding [din] of the class word's tokens, of one text encoder after the other."""
    ids = [t(base.family.space + concept.class_word, add_special_tokens=False).input_ids for t in base.tokenizers]
    return torch.cat([e.weight[i].detach().float().mean(0) for e, i in zip(base.embeddings, ids)])


def encode(base, prompts: list[str], vectors: dict[str, Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """(text features [n, length, din], mask [n, length] of the words: no start, end or padding): see `read`."""
    text = read(base, prompts, vectors)
    return text.features, text.words
