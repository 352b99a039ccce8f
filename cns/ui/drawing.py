"""The endpoints that draw: pictures, tables of them, and where each word acted; on the session that a key opens, or on the untaught model."""

from pathlib import Path

import gradio as gr

from ..generation import GenerateSettings
from ..images import load_images
from ..regions import PRESETS
from ..session import Session
from ..variations import columns, usual
from . import gpu, temp


class Drawing:
    """They share a base and a store with `api.Api`."""

    def __init__(self, base, store):
        self.base, self.store = base, store

    def generate(
        self, prompt: str, key: str = "", count: int = 1, seed: int = 0, steps: int | None = None, guidance: float | None = None,
        negative: str = "", strengths: dict | None = None, regions: list[dict] | None = None, together: float | None = None,
        image: dict | None = None, image_strength: float = 0.6,
    ) -> list[dict]:  # fmt: skip
        """PNG files of `prompt`, drawn with what the session of `key` knows ("": the untaught model).

        `strengths`: {name: 0 to 1.5}; `regions`: [{"box": [left, top, right, bottom], "words": "a <rex> dog"}] in fractions of the canvas;
        `together`: the share of the steps that draws all regions, 0 to 1; `image` (a file): start from it and draw `image_strength` of it anew.
        """
        settings = GenerateSettings(count, seed, steps, guidance, negative, strengths or {}, regions or (), image_strength, together)  # type: ignore[arg-type]  # it reads the regions
        return [saved(p, seed + i) for i, p in enumerate(gpu.draw(prompt, self._session(key), settings, started(image)))]

    def vary(
        self, prompt: str, what: str, key: str = "", values: list[float] | None = None, seeds: int = 1, seed: int = 0, steps: int | None = None,
        guidance: float | None = None, negative: str = "", strengths: dict | None = None, regions: list[dict] | None = None,
        together: float | None = None, image: dict | None = None, image_strength: float = 0.6,
    ) -> list[dict]:  # fmt: skip
        """A table of pictures of `prompt`: a row for each of `seeds`, a column for each of `values` of `what`, which is "guidance",
        "image_strength" or the name of a concept, whose strength then varies. Returns its cells, each a `seed`, a `value` and a `file`; the rest as in `generate`.
        """
        settings = GenerateSettings(seeds, seed, steps, guidance, negative, strengths or {}, regions or (), image_strength, together)  # type: ignore[arg-type]  # it reads the regions
        session, start = self._session(key), started(image)
        over = values or usual(what, self.base.guidance if guidance is None else guidance)
        table = [(v, gpu.draw(prompt, session, each, start)) for v, each in columns(session, settings, what, over)]
        return [{"seed": seed + i, "value": v, "file": saved(pictures[i], seed + i)} for i in range(seeds) for v, pictures in table]

    def attention(
        self, prompt: str, key: str = "", seed: int = 0, steps: int | None = None, guidance: float | None = None, negative: str = "",
        strengths: dict | None = None, regions: list[dict] | None = None, together: float | None = None, image: dict | None = None,
        image_strength: float = 0.6,
    ) -> dict:  # fmt: skip
        """Where each word of `prompt` and of the regions acted: the `picture`, and `words`, each with its attention over the picture, averaged over layers and
        steps, as a `file`. The rest as in `generate`.
        """
        settings = GenerateSettings(1, seed, steps, guidance, negative, strengths or {}, regions or (), image_strength, together)  # type: ignore[arg-type]  # it reads the regions
        picture, heats = gpu.explain(prompt, self._session(key), settings, started(image))
        return {"picture": saved(picture, seed), "words": [{"word": h.word, "file": saved(h.over(picture), i)} for i, h in enumerate(heats, 1)]}

    def layouts(self) -> dict:
        """The boxes of each preset layout, from the back to the front. With words to each they are the `regions` of `generate`, or a layout's file."""
        return {name: [list(box) for box in boxes] for name, boxes in PRESETS.items()}

    @property
    def _store(self):
        if not self.store:
            raise ValueError("this app keeps no sessions, so there is none to open: start it with `--store`")
        return self.store

    def _opened(self, key: str) -> Session:
        if (session := self._store.load(key, self.base)) is None:
            raise ValueError("no session was found under this `key`: check it, or teach something under it first")
        return session

    def _session(self, key: str) -> Session | None:
        return self._opened(key) if key else None


def started(image: dict | None):
    """The picture to start from, None for none."""
    return load_images([uploaded(image)])[0] if image else None


def saved(picture, number: int) -> dict:
    """`picture` as a PNG file that a client downloads."""
    file = temp.new_file(f"{number}.png")
    picture.save(file)
    return as_file(file)


def uploaded(file: dict) -> Path:
    """Where an uploaded file lies. Raises ValueError for any other path of this machine."""
    path = Path(str(file.get("path", "") if isinstance(file, dict) else "")).resolve()
    if not path.is_relative_to(temp.UPLOADS.resolve()):
        raise ValueError("this is no uploaded file: send pictures with `gradio_client.handle_file`")
    return path


def as_file(path: str | Path) -> dict:
    """As a client downloads it."""
    return gr.FileData(path=str(path), meta={"_type": "gradio.FileData"}).model_dump()
