"""The "Own it" part of the Inspect tab: call a concept otherwise, take it out again, order and merge."""

import gradio as gr

from .. import owning
from ..concept import checked_name
from . import carrying, gpu, html
from .common import Shared, keep_session, showing
from .keeping import NOTHING, received


def build(base, store, shared: Shared, name: gr.Dropdown) -> None:
    """`name` holds the concept that is looked at."""
    page = Layout(bool(store))
    carrying.build(base, shared)
    wire(page, Desk(base, store), shared, name)


class Layout:
    """What there is to press and to fill in."""

    def __init__(self, keyed: bool):
        gr.Markdown("**Own it.** Rename a concept, or take it out again: weights that no other concept uses get their untaught values back, bit for bit.")
        with gr.Row():
            self.to = gr.Textbox(label="New name", placeholder="max", max_lines=1, max_length=64, min_width=120, elem_id="new-name")
            self.rename = gr.Button("Rename it", size="sm", min_width=90, elem_id="rename")
            self.forget = gr.Button("Forget it", size="sm", min_width=90, variant="stop", elem_id="forget")
        with gr.Row():
            self.order = gr.Textbox(label="Order of the concepts", max_lines=1, max_length=1000, min_width=160, scale=2, elem_id="order")
            self.reorder = gr.Button("Reorder", size="sm", min_width=90, elem_id="reorder")
        with gr.Row():
            self.other = gr.Textbox(label="Resume key of a session to add", type="password", max_length=64, min_width=160, scale=2, visible=keyed, elem_id="merge-key")
            self.merge = gr.Button("Add what it knows", size="sm", min_width=90, visible=keyed, elem_id="merge")
            self.add = gr.UploadButton("Add a session's file", size="sm", file_types=[".safetensors", ".zip"], type="filepath", min_width=90, elem_id="merge-file")
        self.lost = gr.HTML(elem_id="lost")


class Desk:
    """What the controls do; `key` is what the store takes. Each returns what is said and what the page then shows."""

    def __init__(self, base, store):
        self.base, self.store = base, store

    def renamed(self, session, name, to, run_id, key):
        _idle(session, name, run_id)
        new = owning.rename(session, name, to)
        return "", "", *self._saved(new, key, "rename", checked_name(to), session)

    def forgotten(self, session, name, run_id, key):
        _idle(session, name, run_id)
        new = owning.forget(session, name)
        changes = gpu.compare(session, new, gpu.Watch.of(run_id))
        return told(session, new, name, changes), *self._saved(new, key, "forget", name, session)

    def reordered(self, session, names, run_id, key):
        _idle(session, names, run_id)
        new = owning.reorder(session, [n.strip(" <>").lower() for n in names.split(",") if n.strip()])
        return "", *self._saved(new, key, "reorder", "", session)

    def merged(self, session, other_key, run_id, key):
        _idle(session, session and session.concepts, run_id)
        if (other := self.store.load((other_key or "").strip().lower(), self.base)) is None:
            raise ValueError(NOTHING)
        return "", *self._with_other(session, other, run_id, key)

    def merged_file(self, session, path, run_id, key):
        _idle(session, session and session.concepts, run_id)
        return self._with_other(session, received(path, self.base), run_id, key)

    def _with_other(self, session, other, run_id, key):
        first, second = gpu.Watch.of(run_id).parts(2)
        new = owning.merge(session, other)
        changes = gpu.compare(session, new, first) + gpu.compare(other, new, second)
        return joined(session, other, new, changes), *self._saved(new, key, "merge", "", session)

    def _saved(self, session, key, *what):
        return showing(session, self.base, keep_session(self.store, key, session, *what))


def wire(page: Layout, desk: Desk, shared: Shared, name: gr.Dropdown) -> None:
    """Every event."""
    states, who, keyed = shared.states, [shared.run, shared.key], shared.keyed
    look = {"api_visibility": "private", "concurrency_id": "draw"}
    page.rename.click(keyed(desk.renamed), [shared.session, name, page.to, *who], [page.to, page.lost, *states], **look)
    page.forget.click(
        keyed(desk.forgotten), [shared.session, name, *who], [page.lost, *states],
        js="(...inputs) => { if (!confirm('Forget this concept? Its share of the weights and its token go.')) throw new Error('kept'); return inputs; }", **look,
    )  # fmt: skip
    page.reorder.click(keyed(desk.reordered), [shared.session, page.order, *who], [page.lost, *states], **look)
    page.merge.click(keyed(desk.merged), [shared.session, page.other, *who], [page.other, page.lost, *states], **look)
    page.add.upload(keyed(desk.merged_file), [shared.session, page.add, *who], [page.lost, *states], **look)
    shared.known.change(lambda s: ", ".join(c.name for c in s.concepts) if s else "", [shared.session], [page.order], queue=False, api_visibility="private")


def _idle(session, name, run_id) -> None:
    """Raises ValueError when there is no concept, or when one is being taught to this very session."""
    if not session or not name:
        raise ValueError("there is no concept yet: teach one first")
    if gpu.flag(run_id, "busy").exists():
        raise ValueError("something is being taught right now: stop it or let it end first")


def told(before, after, name: str, changes) -> str:
    """What became of the weights, and every other concept before and after."""
    gone, freed = before.concept(name), len(before.delta) - len(after.delta)
    head = f"<h3>{html.esc(gone.token)} is forgotten</h3>" + html.facts(
        [("weights are the untaught model's again", f"{freed:,}"), ("were shared: the others' share stays", f"{sum(map(len, gone.shared.values())):,}")]
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
