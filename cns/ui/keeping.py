"""Under the line of what is known: how the session is kept, its history, and the ways to carry it elsewhere or to delete it."""

import secrets
from pathlib import Path

import gradio as gr

from ..session import Session
from ..store.archive import MAX_BYTES, pack, unpack
from ..store.versions import Owned, State, conflicts, is_key
from . import html, signin, temp
from .common import NO_STORE, Shared, keep_session, mark, spoken

NOTHING = "no session was found under this key: check it"
SURE = "Delete this session for good, with all its versions?"
POLL = 2.0  # seconds between looks at a save that is on its way


def build(base, store, shared: Shared, people=None) -> None:
    """Layout first, wiring below. With `people`, visitors can sign in."""
    kept = gr.HTML(html.kept(State("", "")), elem_id="kept")
    retry = gr.Button("Try to save again", size="sm", visible=False, elem_id="retry-save")
    timer = gr.Timer(POLL, active=False)
    with gr.Accordion("Your session", open=False, elem_id="your-session") as panel:
        gr.Markdown(about(store, people))
        if people:
            signin.build(base, store, shared, panel)
        with gr.Row(visible=bool(store)):
            history = gr.Dropdown(label="History, the newest first", choices=[], scale=3, elem_id="history")
            back = gr.Button("Bring back", size="sm", scale=0, min_width=110, elem_id="bring-back")
            undo = gr.Button("Undo the last change", size="sm", scale=0, min_width=160, elem_id="undo")
        with gr.Row():
            save = gr.Button("Download as one file", size="sm", elem_id="download")
            upload = gr.UploadButton("Upload such a file, or an export", size="sm", file_types=[".safetensors", ".zip"], type="filepath", elem_id="upload")
            file = gr.DownloadButton("file", visible="hidden", elem_id="session-file")
        with gr.Row(visible=bool(store)):
            mine = gr.Textbox(label="Resume key of this session: whoever has it can open it", type="password", interactive=False, buttons=["copy"], elem_id="my-key")
            other = gr.Textbox(label="Resume key of another one", type="password", max_length=64, elem_id="other-key")
            enter = gr.Button("Open", size="sm", scale=0, min_width=90, elem_id="open-key")
        with gr.Row(visible=bool(store)):
            delete = gr.Button("Delete my session", size="sm", variant="stop", scale=0, min_width=160, elem_id="delete")
        left = gr.HTML(elem_id="what-remains")
    shared.asleep += [undo, back, upload, enter, delete]

    def shown(key, kept_mark):
        """How it is kept now, and the history as far as it is known without asking."""
        note = kept_mark[1] if kept_mark else ""
        state = State("failed", note.removeprefix("not saved: ")) if note.startswith("not saved") else store.state(key) if store else State("", "")
        owned = isinstance(key, Owned)
        versions = sorted(store.known(key), reverse=True) if store and (owned or is_key(key)) else []
        again, waits = state.kind == "failed" and bool(store), state.kind in ("saving", "failed") and not note.startswith("not saved")
        return html.kept(state), gr.update(visible=again), gr.update(choices=labels(versions), value=None), gr.update(visible=False) if owned else key, gr.Timer(active=waits)

    @shared.keyed
    def show(key, kept_mark):
        return shown(key, kept_mark)

    @shared.keyed
    def poll(key, kept_mark):
        out = shown(key, kept_mark)
        return out[0], out[1], out[4]

    @shared.keyed
    def look(key):
        return gr.update(choices=labels(store.history(key)), value=None) if store else gr.skip()

    def changed(session, note):
        return session, html.words(session), html.knows(session, base), mark(note)

    @shared.keyed
    def try_again(session, key, kept_mark):
        store.retry()
        return mark(keep_session(store, key, session, "keep")) if session and kept_mark[1].startswith("not saved") else mark("")

    @shared.keyed
    def take_back(session, key):
        return changed(store.undo(key, session, base), "saved")

    @shared.keyed
    def bring(session, key, version):
        if not version:
            raise ValueError("no version is chosen: choose one from the history")
        return changed(store.bring_back(key, version, session, base), "saved")

    @spoken
    def download(session):
        if not session or not session.concepts:
            raise ValueError("there is nothing to download yet: teach something first")
        path = temp.new_file(f"cns-{session.concepts[-1].name}.safetensors")
        path.write_bytes(pack(session))
        return str(path)

    @shared.keyed
    def take_in(path, session, key):
        new = received(path, base)
        return changed(new, keep_session(store, key, new, "upload", "", session))

    @shared.keyed
    def open_key(text, key):
        wanted = (text or "").strip().lower()
        session = store.load(wanted, base)
        if session is None:
            raise ValueError(NOTHING)
        if isinstance(key, Owned):  # whoever signed in works on what is his
            wanted = signin.SIGN + signin.copied_versions(store, wanted, key.user)
        return *changed(session, ""), wanted, ""

    @shared.keyed
    def remove(key):
        remains = store.delete(key)
        return *changed(None, ""), signin.another(store, key) or secrets.token_hex(16), f'<p class="cns-note">{html.esc("Deleted. " + remains)}</p>'

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    session = [shared.session, shared.known, shared.line, shared.kept]
    gr.on([shared.kept.change, shared.known.change, shared.key.change], show, [shared.key, shared.kept], [kept, retry, history, mine, timer], queue=False, **quiet)  # type: ignore[union-attr]
    timer.tick(poll, [shared.key, shared.kept], [kept, retry, timer], queue=False, **quiet)
    panel.expand(look, [shared.key], [history], api_visibility="private")
    retry.click(try_again, [shared.session, shared.key, shared.kept], [shared.kept], api_visibility="private")
    undo.click(take_back, [shared.session, shared.key], session, api_visibility="private")
    back.click(bring, [shared.session, shared.key, history], session, api_visibility="private")
    save.click(download, [shared.session], [file], api_visibility="private").success(
        None, None, None, js="() => document.querySelector('#session-file').click()", **quiet
    )  # fmt: skip
    upload.upload(take_in, [upload, shared.session, shared.key], session, api_visibility="private")
    enter.click(open_key, [other, shared.key], [*session, shared.key, other], api_visibility="private")
    delete.click(
        remove, [shared.key], [*session, shared.key, left], api_visibility="private",
        js=f"(key) => {{ if (!confirm('{SURE}')) throw new Error('kept'); return [key]; }}",
    )  # fmt: skip


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
