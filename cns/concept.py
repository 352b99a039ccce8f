"""Images, a name and a class word in, a checked `Concept` out: all that can be wrong is said here, before any training."""

import re
from dataclasses import dataclass

from PIL import Image

from .text import check_length, tokenize

NAME_LENGTH, CLASS_LENGTH = 24, 64  # characters


class AlreadyTaught(ValueError):
    """The session already has a concept of this name."""


def checked_name(name: str | None) -> str:
    """`name` lowered and without blanks around it. Raises ValueError when a token cannot be made of it."""
    name = (name or "").strip().lower()
    if not name:
        raise ValueError("the name is empty: give your thing a short name such as `rex`")
    if len(name) > NAME_LENGTH:
        raise ValueError(f"name `{name[:NAME_LENGTH]}...` has {len(name)} characters: use at most {NAME_LENGTH}")
    if not re.fullmatch("[a-z][a-z0-9_-]*", name):
        raise ValueError(f"name `{name}` has characters that a token cannot have: use a-z, digits, `-` and `_`, a letter first")
    return name


@dataclass(frozen=True)
class Concept:
    """A thing to teach: `name` (a-z, digits, `-`, `_`; upper case is lowered), `class_word`, 1 to 10 RGB pictures."""

    name: str
    class_word: str
    images: list[Image.Image]

    def __post_init__(self):
        object.__setattr__(self, "name", checked_name(self.name))
        check_length(f"the class word of `{self.name}`", self.class_word or "", CLASS_LENGTH)
        object.__setattr__(self, "class_word", " ".join((self.class_word or "").lower().split()))
        if not self.class_word:
            raise ValueError(f"the class word of `{self.name}` is empty: say what kind of thing it is, such as `dog`")
        if not 1 <= len(self.images) <= 10:
            raise ValueError(f"`{self.name}` has {len(self.images)} images: give 1 to 10 (4 or 5 work well)")

    @property
    def token(self) -> str:
        return f"<{self.name}>"

    @property
    def words(self) -> str:
        """What stands for the thing in a prompt: "<rex> dog"."""
        return f"{self.token} {self.class_word}"


def check(base, session, concept: Concept, more: bool = False) -> None:
    """Raises ValueError when `concept` cannot be taught to `session` (None: a new one) on `base`: see the messages.

    `more`: the concept is to be there already, and is taught more pictures.
    """
    if session:
        session.check(base)
        if concept.token in session.tokens and not more:
            raise AlreadyTaught(f"`{concept.token}` was already taught: teach it more pictures, or choose another name, such as `{concept.name}2`")
    if more:
        known = session.concept(concept.name) if session else None
        if known is None:
            raise ValueError(f"`{concept.token}` was never taught, so there is nothing to teach more of: teach it first")
        if known.class_word != concept.class_word:
            raise ValueError(f"`{concept.token}` was taught as `{known.class_word}`, not as `{concept.class_word}`: use the same class word")
    for word in concept.class_word.split():
        pieces = [p.removesuffix("</w>") for p in base.tokenizers[0].tokenize(base.family.space + word)]
        if len(pieces) != 1:
            some = ", ".join(f"`{w}`" for w in base.class_words[:8])
            parts = " + ".join(f"`{p}`" for p in pieces) or "nothing"
            raise ValueError(f"class word `{word}` is not one word to this base, it reads {parts}: use a plain word such as {some}")
    longest = max(base.card.templates, key=len).format(concept.words)
    if cut := tokenize(base.tokenizers[0], longest, (concept.token,), base.family.space).cut:
        raise ValueError(f"class word `{concept.class_word}` is too long for the base's captions (`{cut[0]}` would be cut): shorten it")
