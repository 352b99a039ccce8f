"""The "Take it with you" part of the Inspect tab: the session for other programs, as a file or in a model repo on the Hub.

A push acts with the token that the visitor gives and with no other; it is asked for each time and kept nowhere.
Both are made in steps: (what is being done, the share of it that is done), and can be stopped between two.
"""

import json
import tempfile
import time
import zipfile
from collections.abc import Generator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TypeVar

import gradio as gr

from ..export import ABOUT, exporting
from ..parts import Shares, Stopped, shares
from ..session import Session
from ..store.push import client, pushing
from . import gpu, html, temp
from .common import Shared, spoken

KINDS = {
    "The session, to import it elsewhere": "session",
    "A patch and embeddings for A1111 and ComfyUI, exact": "patch",
    "A LoRA and embeddings, smaller, with an error": "lora",
    "The whole pipeline, for diffusers": "pipeline",
}
MAX_SENT = 2**30  # bytes of a pipeline as one file
TERMS = (
    "As chosen above, with a card that shows what it draws and its scores. The token is used for this push alone and kept nowhere. "
    "Stop ends it until the last file is uploaded, and nothing of it is left; what is once in the repo stays."
)

T = TypeVar("T")
Steps = Generator[tuple[str, float], None, T]


def build(base, shared: Shared) -> None:
    """Layout first, wiring below."""
    page = Layout()
    wire(page, Desk(base, page), shared)


class Layout:
    """What there is to fill in and to press; a Stop takes the place of what it stops."""

    def __init__(self):
        with gr.Row():
            self.kind = gr.Dropdown(list(KINDS.items()), value="session", label="Take it with you", scale=3, elem_id="export-kind")
            self.rank = gr.Number(16, label="Rank of the LoRA", precision=0, minimum=1, visible=False, min_width=90)
            self.make = gr.Button("Make the file", size="sm", min_width=90, elem_id="export")
            self.stop_making = gr.Button("Stop", size="sm", min_width=90, visible=False, elem_id="stop-export")
            self.file = gr.DownloadButton("Download", size="sm", visible=False, min_width=90, elem_id="exported")
        self.making = gr.HTML(elem_id="making")
        with gr.Accordion("Or push it to a model repo of yours on the Hub", open=False, elem_id="hub"):
            gr.HTML(html.note(TERMS))
            with gr.Row():
                self.repo = gr.Textbox(label="Model repo", placeholder="you/rex", max_lines=1, max_length=100, min_width=120, elem_id="repo")
                self.token = gr.Textbox(label="Your token with write access", placeholder="hf_...", type="password", max_length=500, min_width=120, elem_id="hub-token")
                self.public = gr.Checkbox(label="Public", min_width=80)
                self.send = gr.Button("Push it", size="sm", visible=False, min_width=90, elem_id="push")
                self.stop_sending = gr.Button("Stop", size="sm", min_width=90, visible=False, elem_id="stop-push")
            self.sending = gr.HTML(elem_id="pushed")


class Desk:
    """What the controls do. Both yield updates of the page, by component."""

    def __init__(self, base, page: Layout):
        self.base, self.page = base, page

    @spoken
    def made(self, session, kind, rank, run):
        page, done = self.page, None
        steps = zipping(self.base, session or Session.new(self.base), kind, int(rank or 0))
        yield {page.file: gr.update(visible=False)}
        try:
            done = yield from followed(steps, gpu.Watch.of(run, "export"), page.make, page.stop_making, page.making)
        except Stopped:
            yield {page.making: html.note("Stopped: no file was made.")}
        if done:
            path, about = done
            error = f"relative error {about['relative_error']:.1%} at rank {about['rank']}" if "relative_error" in about else ""
            yield {page.file: gr.update(value=str(path), visible=True, label=f"Download {path.name}"), page.making: html.note(error)}

    @spoken
    def pushed(self, session, kind, rank, repo, token, public, run):
        page, done = self.page, None
        steps = sending(self.base, session or Session.new(self.base), kind, int(rank or 0), repo, token, not public)
        try:
            done = yield from followed(steps, gpu.Watch.of(run, "push"), page.send, page.stop_sending, page.sending)
        except Stopped:
            yield {page.sending: html.note("Stopped: nothing was pushed.")}
        if done:
            link = f'<a href="{html.esc(done["url"])}" target="_blank" rel="noopener">{html.esc(repo.strip())}</a>'
            yield {page.sending: f'<p class="cns-note" role="status">Pushed to {link}.</p>'}


def wire(page: Layout, desk: Desk, shared: Shared) -> None:
    """Every event."""
    private = {"api_visibility": "private"}
    quick = {"queue": False, "show_progress": "hidden", **private}
    what = [shared.session, page.kind, page.rank]
    page.make.click(
        desk.made, [*what, shared.run], [page.make, page.stop_making, page.file, page.making],
        show_progress="minimal", show_progress_on=[page.making], **private,
    )  # fmt: skip
    page.send.click(
        desk.pushed, [*what, page.repo, page.token, page.public, shared.run], [page.send, page.stop_sending, page.sending],
        show_progress="minimal", show_progress_on=[page.sending], **private,
    )  # fmt: skip
    for button, it in ((page.stop_making, "export"), (page.stop_sending, "push")):
        button.click(partial(stopping, it), [shared.run], [button], **quick)
    page.token.change(  # fields of passwords tell no input; the token itself stays in the browser until it is used
        lambda given: gr.update(visible=bool(given)), [page.token], [page.send], js="(token) => [token.trim() ? 'given' : '']", **quick
    )
    page.kind.change(lambda k: (gr.update(visible=k == "lora"), gr.update(visible=False), ""), [page.kind], [page.rank, page.file, page.making], **quick)
    shared.known.change(lambda: (gr.update(visible=False), "", ""), None, [page.file, page.making, page.sending], **quick)


@spoken
def stopping(what: str, run: str):
    """End it before its next step."""
    temp.made(gpu.halt(run, what))
    return gr.update(value="Stopping...", interactive=False)


def followed(steps: Steps[T], watch: gpu.Watch, start: gr.Button, stop: gr.Button, line: gr.HTML):
    """Yields updates of the page while `steps` are done, at last of its buttons; returns what they return. Raises Stopped when the page has enough."""
    idle = {start: gr.update(visible=True), stop: gr.update(visible=False), line: ""}
    yield {start: gr.update(visible=False), stop: gr.update(value="Stop", interactive=True, visible=True), line: html.bar("Beginning", 0.0)}
    at, began, now = "", 0.0, time.monotonic()
    try:
        with closing(steps):
            while True:
                watch.asked()
                words, share = next(steps)
                began, at, now = began if words == at else now, words, time.monotonic()
                yield {line: html.bar(f"{words}{html.soon((now - began) / share * (1 - share))}", share)}
    except StopIteration as end:
        yield idle
        return end.value
    except Exception:
        yield idle
        raise


def zipping(base, session: Session, kind: str, rank: int) -> Steps[tuple[Path, dict]]:
    """(a zip of the session as `kind`, what is in it). Raises ValueError for a pipeline that is too large to be sent, and as `export.export`."""
    if kind == "pipeline" and (size := base.parameters * base.pipe.dtype.itemsize) > MAX_SENT:
        raise ValueError(f"a `pipeline` of {size / 2**30:.1f} GB is too large to be sent: push it to a model repo, or make it with `python -m cns export pipeline`")
    with tempfile.TemporaryDirectory() as folder:
        out, packed = Path(folder) / "cns", Path(folder) / "cns.zip"
        about = yield from named("Making the file", exported(base, session, kind, rank, out))
        yield from named("Packing it", _pack(out, packed))
        return packed.replace(temp.new_file(f"cns-{kind}.zip")), about


def _pack(folder: Path, to: Path) -> Shares[None]:
    files = {f.relative_to(folder).as_posix(): f.stat().st_size for f in sorted(folder.rglob("*")) if f.is_file()}
    with zipfile.ZipFile(to, "w") as archive:  # not compressed: weights hardly shrink
        for name, share in shares(files):
            archive.write(folder / name, name)
            yield share


def sending(base, session: Session, kind: str, rank: int, repo: str, token: str, private: bool) -> Steps[dict]:
    """Push the session as `kind` to the model repo `repo` with `token`; what is in it and its `url`. Raises as `export.export` and `push.push`."""
    repo = (repo or "").strip()
    api = client(repo, token)
    with tempfile.TemporaryDirectory() as folder:
        about = yield from named("Making the export", exported(base, session, kind, rank, out := Path(folder) / "cns"))
        url = yield from named("Uploading", pushing(out, session, about, repo, api, private))
        return {**about, "url": url}


def exported(base, session: Session, kind: str, rank: int, out: Path) -> Shares[dict]:
    """The session as `kind` in the new folder `out`, on the GPU where it takes the base's weights; what `export.export` says of it."""
    yield from gpu.whole(session, out) if kind == "pipeline" else exporting(base, session, kind, out, rank)
    return json.loads((out / ABOUT).read_text())


def named(words: str, parts: Shares[T]) -> Steps[T]:
    """`parts` as steps of that name."""
    with closing(parts):
        while True:
            try:
                share = next(parts)
            except StopIteration as end:
                return end.value
            yield words, share
