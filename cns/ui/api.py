"""The app for programs: named endpoints over HTTP (and as MCP tools), each on the session that a key opens.

A key comes from `new_session` or from the page ("Your session"); what changes the session saves it, as the page does.
"""

import secrets

import gradio as gr

from .. import owning
from ..concept import Concept
from ..images import load_images
from ..parts import whole
from ..session import Session
from ..store.versions import check_key
from ..teaching import TeachSettings
from . import gpu
from .carrying import sending, zipping
from .common import keep_session, spoken
from .drawing import Drawing, as_file, uploaded
from .keeping import received

ENDPOINTS = {  # name: what it queues with
    "new_session": "light", "teach": "teach", "generate": "draw", "vary": "draw", "attention": "draw", "layouts": "light", "inspect": "light", "forget": "draw",
    "rename": "light", "reorder": "light", "merge": "draw", "export": "light", "push": "light", "import_session": "light",
}  # fmt: skip
LIMITS = {"light": 4, "teach": 4, "draw": 1}


def build(base, store) -> None:
    """Every endpoint under its own name, described by its docstring."""
    api = Api(base, store)
    for name, group in ENDPOINTS.items():
        gr.api(spoken(getattr(api, name)), api_name=name, concurrency_id=group, concurrency_limit=LIMITS[group])


class Api(Drawing):
    """All endpoints."""

    def new_session(self) -> str:
        """A key for a new, empty session. Whoever has the key can open the session."""
        return secrets.token_hex(16)

    def teach(self, key: str, name: str, class_word: str, images: list[dict], steps: int | None = None, seed: int = 0, more: bool = False) -> dict:
        """Teach a thing from 1 to 10 pictures (files) to the session of `key`; `more` goes on with a name that is taught. Returns what the session knows."""
        check_key(key)
        session = self._store.load(key, self.base)
        concept = Concept(name, class_word, load_images([uploaded(i) for i in images]))
        settings = TeachSettings.of(self.base, seed=seed, preview_every=0, **({} if steps is None else {"steps": steps}))
        *_, last = gpu.learn(session, concept, settings, secrets.token_hex(16), more)
        return self._saved(key, last.session, "teach", concept.name, session)

    def inspect(self, key: str) -> dict:
        """What the session of `key` knows: of every concept its neurons and scores, and what was changed in all."""
        return self._opened(key).summary(self.base)

    def forget(self, key: str, name: str) -> dict:
        """Take a concept out of the session of `key`: its share of the weights and its token. Returns what is left, and what the others `lost`."""
        session = self._opened(key)
        less = owning.forget(session, name)
        lost = _lost(gpu.compare(session, less))
        return {**self._saved(key, less, "forget", session.concept(name).name, session), "lost": lost}

    def rename(self, key: str, name: str, to: str) -> dict:
        """Call a concept of the session of `key` by another name."""
        session = self._opened(key)
        return self._saved(key, owning.rename(session, name, to), "rename", session.concept(name).name, session)

    def reorder(self, key: str, names: list[str]) -> dict:
        """Put the concepts of the session of `key` in the order of `names`; the weights stay as they are."""
        session = self._opened(key)
        return self._saved(key, owning.reorder(session, names), "reorder", "", session)

    def merge(self, key: str, other: str) -> dict:
        """Add what the session of the key `other` knows to the session of `key`. Returns what it knows then, and what each concept `lost`."""
        session, more = self._opened(key), self._opened(other)
        both = owning.merge(session, more)
        lost = _lost(gpu.compare(session, both) + gpu.compare(more, both))
        shared = len(session.delta) + len(more.delta) - len(both.delta)
        return {**self._saved(key, both, "merge", "", session), "weights_in_both": shared, "lost": lost}

    def export(self, key: str, kind: str = "session", rank: int = 16) -> dict:
        """The session of `key` for other programs, as a zip file; `kind`: "patch", "lora" (of `rank`), "pipeline" or "session"."""
        return as_file(whole(zipping(self.base, self._opened(key), kind, rank))[0])

    def push(self, key: str, repo: str, token: str, kind: str = "lora", rank: int = 16, public: bool = False) -> dict:
        """Export the session of `key` to the model repo `repo` ("owner/name", made when it is not there) on the Hub, with a model card.

        `token`: one of your own that may write there; it is used for this alone and kept nowhere. Returns the repo's `url`.
        """
        return whole(sending(self.base, self._opened(key), kind, rank, repo, token, not public))

    def import_session(self, key: str, file: dict) -> dict:
        """Let the session of `key` be the one in a file that `export` or the page made; what it was before stays in its history."""
        check_key(key)
        before = self._store.load(key, self.base)
        return self._saved(key, received(uploaded(file), self.base), "upload", "", before)

    def _saved(self, key: str, session: Session, verb: str, concept: str, before: Session | None) -> dict:
        return {**session.summary(self.base), "kept": keep_session(self.store, key, session, verb, concept, before)}


def _lost(changes) -> list[dict]:
    """Every concept's CLIP-I before and after, None without a CLIP."""
    return [{"token": c.token, "clip_i_before": c.clip_i_before, "clip_i_after": c.clip_i_after} for c in changes]
