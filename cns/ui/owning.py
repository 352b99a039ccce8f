"""The "Own it" part of the Inspect tab: call a concept otherwise, take it out again, order and merge."""

import gradio as gr

from .. import owning
from ..concept import checked_name
from . import carrying, gpu, html
from .common import Shared, keep_session, mark
from .keeping import NOTHING, received


def build(base, store, shared: Shared, name: gr.Dropdown) -> None:
    """Layout first, wiring below. `name` holds the concept that is looked at."""
    gr.Markdown("**Own it.** A concept can be called otherwise or taken out again: where no other uses a weight, the untaught value returns bit for bit.")
    with gr.Row():
        to = gr.Textbox(label="New name", placeholder="max", max_lines=1, max_length=64, min_width=120, elem_id="new-name")
        rename = gr.Button("Rename it", size="sm", min_width=90, elem_id="rename")
        forget = gr.Button("Forget it", size="sm", min_width=90, variant="stop", elem_id="forget")
    with gr.Row():
        order = gr.Textbox(label="Order of the concepts", max_lines=1, max_length=1000, min_width=160, scale=2, elem_id="order")
        reorder = gr.Button("Reorder", size="sm", min_width=90, elem_id="reorder")
    with gr.Row():
        other = gr.Textbox(label="Resume key of a session to add", type="password", max_length=64, min_width=160, scale=2, visible=bool(store), elem_id="merge-key")
        merge = gr.Button("Add what it knows", size="sm", min_width=90, visible=bool(store), elem_id="merge")
        add = gr.UploadButton("Add a session's file", size="sm", file_types=[".safetensors", ".zip"], type="filepath", min_width=90, elem_id="merge-file")
    lost = gr.HTML(elem_id="lost")
    carrying.build(base, shared)

    @shared.keyed
    def renamed(session, name, to, run_id, key):
        _idle(session, name, run_id)
        new = owning.rename(session, name, to)
        return "", "", *changed(new, key, "rename", checked_name(to), session)

    @shared.keyed
    def forgotten(session, name, run_id, key):
        _idle(session, name, run_id)
        new = owning.forget(session, name)
        changes = gpu.compare(session, new, gpu.Watch.of(run_id))
        return told(session, new, name, changes), *changed(new, key, "forget", name, session)

    @shared.keyed
    def reordered(session, names, run_id, key):
        _idle(session, names, run_id)
        new = owning.reorder(session, [n.strip(" <>").lower() for n in names.split(",") if n.strip()])
        return "", *changed(new, key, "reorder", "", session)

    @shared.keyed
    def merged(session, other_key, run_id, key):
        _idle(session, session and session.concepts, run_id)
        if (other := store.load((other_key or "").strip().lower(), base)) is None:
            raise ValueError(NOTHING)
        return "", *with_other(session, other, run_id, key)

    @shared.keyed
    def merged_file(session, path, run_id, key):
        _idle(session, session and session.concepts, run_id)
        return with_other(session, received(path, base), run_id, key)

    def with_other(session, other, run_id, key):
        first, second = gpu.Watch.of(run_id).parts(2)
        new = owning.merge(session, other)
        changes = gpu.compare(session, new, first) + gpu.compare(other, new, second)
        return joined(session, other, new, changes), *changed(new, key, "merge", "", session)

    def changed(session, key, *what):
        return session, html.words(session), html.knows(session, base), mark(keep_session(store, key, session, *what))

    states = [shared.session, shared.known, shared.line, shared.kept]
    look = {"api_visibility": "private", "concurrency_id": "draw"}
    rename.click(renamed, [shared.session, name, to, shared.run, shared.key], [to, lost, *states], **look)
    forget.click(
        forgotten, [shared.session, name, shared.run, shared.key], [lost, *states],
        js="(...inputs) => { if (!confirm('Forget this concept? Its share of the weights and its token go.')) throw new Error('kept'); return inputs; }", **look,
    )  # fmt: skip
    reorder.click(reordered, [shared.session, order, shared.run, shared.key], [lost, *states], **look)
    merge.click(merged, [shared.session, other, shared.run, shared.key], [other, lost, *states], **look)
    add.upload(merged_file, [shared.session, add, shared.run, shared.key], [lost, *states], **look)
    shared.known.change(lambda s: ", ".join(c.name for c in s.concepts) if s else "", [shared.session], [order], queue=False, api_visibility="private")


def _idle(session, name, run_id) -> None:
    """Raises ValueError when there is no concept, or when one is being taught to this very session."""
    if not session or not name:
        raise ValueError("there is no concept yet: teach one first")
    if gpu.flag(run_id, "busy").exists():
        raise ValueError("something is being taught right now: stop it or let it end first")


def told(before, after, name: str, changes) -> str:
    """What became of the weights, and every other concept before and after."""
    freed = len(before.delta) - len(after.delta)
    head = f"<h3>{html.esc(before.concept(name).token)} is forgotten</h3>" + html.facts(
        [("weights are the untaught model's again", f"{freed:,}"), ("were shared: the others' share stays", f"{_shared(before, name):,}")]
    )
    return head + (f'<p class="cns-note">What the others lost:</p>{pairs(changes)}' if changes else "")


def joined(first, second, both, changes) -> str:
    """What a merge made of two sessions, and every concept before and after."""
    shared = len(first.delta) + len(second.delta) - len(both.delta)
    head = f"<h3>{html.esc(', '.join(second.tokens))} added</h3>" + html.facts([("changed weights in all", f"{len(both.delta):,}"), ("of them in both sessions", f"{shared:,}")])
    return head + f'<p class="cns-note">What each lost:</p>{pairs(changes)}'


def pairs(changes) -> str:
    """Every concept before and after."""
    rows = (
        f"<div><b>{html.esc(c.token)}</b>" + html.strip([(c.before, f"before {html.score(c.clip_i_before)}"), (c.after, f"after {html.score(c.clip_i_after)}")]) + "</div>"
        for c in changes
    )
    return f'<div class="cns-memory">{"".join(rows)}</div>'


def _shared(session, name: str) -> int:
    return sum(len(own) for own in session.concept(name).shared.values())
