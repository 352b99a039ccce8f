"""The app for programs: named endpoints over HTTP (and as MCP tools), each on the session that a key opens.

A key comes from `new_session` or from the page ("Your session"); what changes the session saves it, as the page does.
"""

import secrets
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder

from .. import owning
from ..concept import Concept
from ..generation import GenerateSettings
from ..images import load_images
from ..session import Session
from ..store.versions import check_key
from ..teaching import TeachSettings
from . import gpu, temp
from .carrying import to_hub, zipped
from .common import keep_session, spoken
from .keeping import received

ENDPOINTS = {"new_session": "light", "teach": "teach", "generate": "draw", "inspect": "light", "forget": "draw", "rename": "light",
             "reorder": "light", "merge": "draw", "export": "light", "push": "light", "import_session": "light"}  # name: what it queues with  # fmt: skip
LIMITS = {"light": 4, "teach": 4, "draw": 1}


def build(base, store) -> None:
    """Every endpoint under its own name, described by its docstring."""
    api = Api(base, store)
    for name, group in ENDPOINTS.items():
        gr.api(spoken(getattr(api, name)), api_name=name, concurrency_id=group, concurrency_limit=LIMITS[group])


class Api:
    """The endpoints on one base and one store."""

    def __init__(self, base, store):
        self.base, self.store = base, store

    def new_session(self) -> str:
        """A key for a new, empty session. Whoever has the key can open the session."""
        return secrets.token_hex(16)

    def teach(self, key: str, name: str, class_word: str, images: list[dict], steps: int | None = None, seed: int = 0, more: bool = False) -> dict:
        """Teach a thing from 1 to 10 pictures (files) to the session of `key`; `more` goes on with a name that is taught. Returns what the session knows."""
        check_key(key)
        session = self._store.load(key, self.base)
        concept = Concept(name, class_word, load_images([_uploaded(i) for i in images]))
        settings = TeachSettings.of(self.base, seed=seed, preview_every=0, **({} if steps is None else {"steps": steps}))
        *_, last = gpu.learn(session, concept, settings, secrets.token_hex(16), more)
        return self._saved(key, last.session, "teach", concept.name, session)

    def generate(
        self, prompt: str, key: str = "", count: int = 1, seed: int = 0, steps: int | None = None, guidance: float | None = None,
        negative: str = "", strengths: dict | None = None, regions: list[dict] | None = None, together: float | None = None,
        image: dict | None = None, image_strength: float = 0.6,
    ) -> list[dict]:  # fmt: skip
        """PNG files of `prompt`, drawn with what the session of `key` knows ("": the untaught model).

        `strengths`: {name: 0 to 1.5}; `regions`: [{"box": [left, top, right, bottom], "words": "a <rex> dog"}] in fractions of the canvas;
        `together`: the share of the steps that draws all regions, 0 to 1; `image` (a file): start from it and draw `image_strength` of it anew.
        """
        settings = GenerateSettings(count, seed, steps, guidance, negative, strengths or {}, tuple(regions or ()), image_strength, together)
        start = load_images([_uploaded(image)])[0] if image else None
        pictures = gpu.draw(prompt, self._opened(key) if key else None, settings, start)
        files = [temp.new_file(f"{seed + i}.png") for i in range(count)]
        for file, picture in zip(files, pictures):
            picture.save(file)
        return [_file(f) for f in files]

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
        return _file(zipped(self.base, self._opened(key), kind, rank)[0])

    def push(self, key: str, repo: str, token: str, kind: str = "lora", rank: int = 16, public: bool = False) -> dict:
        """Export the session of `key` to the model repo `repo` ("owner/name", made when it is not there) on the Hub, with a model card.

        `token`: one of your own that may write there; it is used for this alone and kept nowhere. Returns the repo's `url`.
        """
        return to_hub(self.base, self._opened(key), kind, rank, repo, token, not public)

    def import_session(self, key: str, file: dict) -> dict:
        """Let the session of `key` be the one in a file that `export` or the page made; what it was before stays in its history."""
        check_key(key)
        before = self._store.load(key, self.base)
        return self._saved(key, received(_uploaded(file), self.base), "upload", "", before)

    @property
    def _store(self):
        if not self.store:
            raise ValueError("this app keeps no sessions, so there is none to open: start it with `--store`")
        return self.store

    def _opened(self, key: str) -> Session:
        if (session := self._store.load(key, self.base)) is None:
            raise ValueError("no session was found under this `key`: check it, or teach something under it first")
        return session

    def _saved(self, key: str, session: Session, verb: str, concept: str, before: Session | None) -> dict:
        return {**session.summary(self.base), "kept": keep_session(self.store, key, session, verb, concept, before)}


def _lost(changes) -> list[dict]:
    """Every concept's CLIP-I before and after, None without a CLIP."""
    return [{"token": c.token, "clip_i_before": c.clip_i_before, "clip_i_after": c.clip_i_after} for c in changes]


def _uploaded(file: dict) -> Path:
    """Where an uploaded file lies. Raises ValueError for any other path of this machine."""
    path = Path(str(file.get("path", "") if isinstance(file, dict) else "")).resolve()
    if not path.is_relative_to(Path(get_upload_folder()).resolve()):
        raise ValueError("this is no uploaded file: send pictures with `gradio_client.handle_file`")
    return path


def _file(path: str | Path) -> dict:
    """As a client downloads it."""
    return gr.FileData(path=str(path), meta={"_type": "gradio.FileData"}).model_dump()
