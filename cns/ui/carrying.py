"""The "Take it with you" part of the Inspect tab: the session for other programs, as a file or in a model repo on the Hub.

A push acts with the token that the visitor gives and with no other; it is asked for each time and kept nowhere.
"""

import tempfile
import zipfile
from contextlib import contextmanager
from pathlib import Path

import gradio as gr

from ..export import export
from ..session import Session
from ..store.push import client, push
from . import gpu, html, temp
from .common import Shared, spoken

KINDS = {
    "The session, to import it elsewhere": "session",
    "A patch and embeddings for A1111 and ComfyUI, exact": "patch",
    "A LoRA and embeddings, smaller, with an error": "lora",
    "The whole pipeline, for diffusers": "pipeline",
}
MAX_SENT = 2**30  # bytes of a pipeline as one file


def build(base, shared: Shared) -> None:
    """Layout first, wiring below."""
    with gr.Row():
        kind = gr.Dropdown(list(KINDS.items()), value="session", label="Take it with you", scale=3, elem_id="export-kind")
        rank = gr.Number(16, label="Rank of the LoRA", precision=0, minimum=1, visible=False, min_width=90)
        make = gr.Button("Make the file", size="sm", min_width=90, elem_id="export")
        file = gr.DownloadButton("Download", size="sm", visible=False, min_width=90, elem_id="exported")
    error = gr.HTML(elem_id="export-error")
    with gr.Accordion("Or push it to a model repo of yours on the Hub", open=False, elem_id="hub"):
        gr.HTML(html.note("As chosen above, with a card that shows what it draws and its scores. The token is used for this push alone and kept nowhere."))
        with gr.Row():
            repo = gr.Textbox(label="Model repo", placeholder="you/rex", max_lines=1, max_length=100, min_width=120, elem_id="repo")
            token = gr.Textbox(label="Your token with write access", placeholder="hf_...", type="password", max_length=500, min_width=120, elem_id="hub-token")
            public = gr.Checkbox(label="Public", min_width=80)
            send = gr.Button("Push it", size="sm", visible=False, min_width=90, elem_id="push")
        pushed_to = gr.HTML(elem_id="pushed")

    @spoken
    def made(session, kind, rank):
        path, about = zipped(base, session or Session.new(base), kind, int(rank or 0))
        return gr.update(value=str(path), visible=True, label=f"Download {path.name}"), html.note(error_of(about))

    @spoken
    def pushed(session, kind, rank, repo, token, public):
        address = to_hub(base, session or Session.new(base), kind, int(rank or 0), repo, token, not public)["url"]
        return f'<p class="cns-note" role="status">Pushed to <a href="{html.esc(address)}" target="_blank" rel="noopener">{html.esc(repo.strip())}</a>.</p>'

    quick = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    make.click(made, [shared.session, kind, rank], [file, error], api_visibility="private")
    send.click(pushed, [shared.session, kind, rank, repo, token, public], [pushed_to], api_visibility="private")
    token.change(  # fields of passwords tell no input; the token itself stays in the browser until it is used
        lambda given: gr.update(visible=bool(given)), [token], [send], js="(token) => [token.trim() ? 'given' : '']", **quick
    )
    kind.change(lambda k: (gr.update(visible=k == "lora"), gr.update(visible=False), ""), [kind], [rank, file, error], **quick)
    shared.known.change(lambda: (gr.update(visible=False), "", ""), None, [file, error, pushed_to], **quick)


def error_of(about: dict) -> str:
    """The error of a LoRA, in words; nothing for what is exact."""
    return f"relative error {about['relative_error']:.1%} at rank {about['rank']}" if "relative_error" in about else ""


@contextmanager
def exported(base, session: Session, kind: str, rank: int):
    """Within: (a folder that holds the session as `kind`, what `export.export` says of it)."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "cns"
        yield out, gpu.whole(session, out) if kind == "pipeline" else export(base, session, kind, out, rank)


def zipped(base, session: Session, kind: str, rank: int) -> tuple[Path, dict]:
    """(a zip of the session as `kind`, what is in it). Raises ValueError for a pipeline that is too large to be sent, and as `export.export`."""
    if kind == "pipeline" and (size := base.parameters * base.pipe.dtype.itemsize) > MAX_SENT:
        raise ValueError(f"a `pipeline` of {size / 2**30:.1f} GB is too large to be sent: push it to a model repo, or make it with `python -m cns export pipeline`")
    with exported(base, session, kind, rank) as (folder, about):
        path = temp.new_file(f"cns-{kind}.zip")
        with zipfile.ZipFile(path, "w") as archive:  # not compressed: weights hardly shrink
            for file in sorted(f for f in folder.rglob("*") if f.is_file()):
                archive.write(file, file.relative_to(folder))
    return path, about


def to_hub(base, session: Session, kind: str, rank: int, repo: str, token: str, private: bool) -> dict:
    """Push the session as `kind` to the model repo `repo` with `token`. Returns what is in it and its `url`."""
    repo = (repo or "").strip()
    api = client(repo, token)
    with exported(base, session, kind, rank) as (folder, about):
        return {**about, "url": push(folder, session, about, repo, api, private)}
