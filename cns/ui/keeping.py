"""Under the line of what is known: how the session is kept, its history, and the ways to carry it elsewhere or to delete it."""

import secrets
from pathlib import Path

import gradio as gr

from ..session import Session
from ..store.archive import MAX_BYTES, pack, unpack
from ..store.versions import Owned, State, conflicts, is_key
from . import html, signin, temp
from .common import NO_STORE, Shared, keep_session, mark, showing, spoken

NOTHING = "no session was found under this key: check it"
SURE = "Delete this session for good, with all its versions?"
POLL = 2.0  # seconds between looks at a save that is on its way


def build(base, store, shared: Shared, people=None) -> None:
    """With `people`, visitors can sign in."""
    page = Layout(base, store, shared, people)
    shared.asleep += [page.undo, page.back, page.upload, page.enter, page.delete]
    wire(page, Desk(base, store), shared)


class Layout:
    """What there is to see and to press."""

    def __init__(self, base, store, shared: Shared, people):
        self.kept = gr.HTML(html.kept(State("", "")), elem_id="kept")
        self.retry = gr.Button("Try to save again", size="sm", visible=False, elem_id="retry-save")
        self.timer = gr.Timer(POLL, active=False)
        with gr.Accordion("Your session", open=False, elem_id="your-session") as self.panel:
            gr.Markdown(about(store, people))
            if people:
                signin.build(base, store, shared, self.panel)
            self._history(bool(store))
            with gr.Row():
                self.save = gr.Button("Download as one file", size="sm", elem_id="download")
                self.upload = gr.UploadButton("Upload such a file, or an export", size="sm", file_types=[".safetensors", ".zip"], type="filepath", elem_id="upload")
                self.file = gr.DownloadButton("file", visible="hidden", elem_id="session-file")
            self._keys(bool(store))
            with gr.Row(visible=bool(store)):
                self.delete = gr.Button("Delete my session", size="sm", variant="stop", scale=0, min_width=160, elem_id="delete")
            self.left = gr.HTML(elem_id="what-remains")

    def _history(self, visible: bool):
        with gr.Row(visible=visible):
            self.history = gr.Dropdown(label="History, the newest first", choices=[], scale=3, elem_id="history")
            self.back = gr.Button("Bring back", size="sm", scale=0, min_width=110, elem_id="bring-back")
            self.undo = gr.Button("Undo the last change", size="sm", scale=0, min_width=160, elem_id="undo")

    def _keys(self, visible: bool):
        with gr.Row(visible=visible):
            self.mine = gr.Textbox(label="Resume key of this session: whoever has it can open it", type="password", interactive=False, buttons=["copy"], elem_id="my-key")
            self.other = gr.Textbox(label="Resume key of another one", type="password", max_length=64, elem_id="other-key")
            self.enter = gr.Button("Open", size="sm", scale=0, min_width=90, elem_id="open-key")


class Desk:
    """What the controls do; `key` is what the store takes."""

    def __init__(self, base, store):
        self.base, self.store = base, store

    def show(self, key, kept_mark):
        """How it is kept now, and the history as far as it is known without asking."""
        note, store = kept_mark[1] if kept_mark else "", self.store
        state = State("failed", note.removeprefix("not saved: ")) if note.startswith("not saved") else store.state(key) if store else State("", "")
        owned = isinstance(key, Owned)
        versions = sorted(store.known(key), reverse=True) if store and (owned or is_key(key)) else []
        again, waits = state.kind == "failed" and bool(store), state.kind in ("saving", "failed") and not note.startswith("not saved")
        return html.kept(state), gr.update(visible=again), gr.update(choices=labels(versions), value=None), gr.update(visible=False) if owned else key, gr.Timer(active=waits)

    def poll(self, key, kept_mark):
        out = self.show(key, kept_mark)
        return out[0], out[1], out[4]

    def look(self, key):
        return gr.update(choices=labels(self.store.history(key)), value=None) if self.store else gr.skip()

    def try_again(self, session, key, kept_mark):
        self.store.retry()
        return mark(keep_session(self.store, key, session, "keep")) if session and kept_mark[1].startswith("not saved") else mark("")

    def take_back(self, session, key):
        return showing(self.store.undo(key, session, self.base), self.base, "saved")

    def bring(self, session, key, version):
        if not version:
            raise ValueError("no version is chosen: choose one from the history")
        return showing(self.store.bring_back(key, version, session, self.base), self.base, "saved")

    def take_in(self, path, session, key):
        new = received(path, self.base)
        return showing(new, self.base, keep_session(self.store, key, new, "upload", "", session))

    def open_key(self, text, key):
        wanted = (text or "").strip().lower()
        session = self.store.load(wanted, self.base)
        if session is None:
            raise ValueError(NOTHING)
        if isinstance(key, Owned):  # whoever signed in works on what is his
            wanted = signin.SIGN + signin.copied_versions(self.store, wanted, key.user)
        return *showing(session, self.base), wanted, ""

    def remove(self, key):
        remains = self.store.delete(key)
        return *showing(None, self.base), signin.another(self.store, key) or secrets.token_hex(16), html.note(f"Deleted. {remains}")

def wire(page: Layout, desk: Desk, shared: Shared) -> None:
    """Every event."""
    private = {"api_visibility": "private"}
    quiet, keyed = {"show_progress": "hidden", **private}, shared.keyed
    gr.on(
        [shared.kept.change, shared.known.change, shared.key.change], keyed(desk.show), [shared.key, shared.kept],  # type: ignore[union-attr]
        [page.kept, page.retry, page.history, page.mine, page.timer], queue=False, **quiet,
    )  # fmt: skip
    page.timer.tick(keyed(desk.poll), [shared.key, shared.kept], [page.kept, page.retry, page.timer], queue=False, **quiet)
    page.panel.expand(keyed(desk.look), [shared.key], [page.history], **private)
    page.retry.click(keyed(desk.try_again), [shared.session, shared.key, shared.kept], [shared.kept], **private)
    page.undo.click(keyed(desk.take_back), [shared.session, shared.key], shared.states, **private)
    page.back.click(keyed(desk.bring), [shared.session, shared.key, page.history], shared.states, **private)
    page.save.click(spoken(download), [shared.session], [page.file], **private).success(
        None, None, None, js="() => document.querySelector('#session-file').click()", **quiet
    )
    page.upload.upload(keyed(desk.take_in), [page.upload, shared.session, shared.key], shared.states, **private)
    page.enter.click(keyed(desk.open_key), [page.other, shared.key], [*shared.states, shared.key, page.other], **private)
    page.delete.click(
        keyed(desk.remove), [shared.key], [*shared.states, shared.key, page.left], **private,
        js=f"(key) => {{ if (!confirm('{SURE}')) throw new Error('kept'); return [key]; }}",
    )  # fmt: skip


def download(session) -> str:
    """The path of a file that holds the session."""
    if not session or not session.concepts:
        raise ValueError("there is nothing to download yet: teach something first")
    path = temp.new_file(f"cns-{session.concepts[-1].name}.safetensors")
    path.write_bytes(pack(session))
    return str(path)


def received(path: str | Path, base) -> Session:
    """The session in an uploaded file. Raises ValueError for a bad one."""
    if (size := Path(path).stat().st_size) > MAX_BYTES:
        raise ValueError(f"the file has {size / 2**20:.0f} MB, at most {MAX_BYTES // 2**20} are read: of an export, zip its folder `cns-session` alone")
    return unpack(Path(path).read_bytes(), base)


def about(store, people=None) -> str:
    """Where the session is, and who can see it."""
    if not store:
        return f"This app keeps nothing: your session is {NO_STORE}. Download it to have it again later."
    return (
        f"Saved by itself after every change, {store.place}, under a random key that only your browser has. Your own pictures are not kept, "
        "but for the time while they are being taught. Nobody finds your session without the key."
        + (" Signed in, you have sessions with names instead, on every device; what this browser was taught before becomes one of them." if people else "")
    )


def labels(versions) -> list[tuple[str, str]]:
    """(what a person reads, the version's name)"""
    torn = conflicts(versions)
    return [(f"{v.when:%Y-%m-%d %H:%M:%S} UTC: {v.what}{' (one of two made at once)' if v in torn else ''}", v.name) for v in versions]
