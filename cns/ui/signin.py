"""Who is at the page: a visitor with a resume key, or somebody who signed in with Hugging Face and owns named sessions.

The page holds one text for the session that it shows: a resume key, or "@" and a name. A name opens nothing by itself: each
call joins it with the person for whom the call's own cookie speaks, by the Hub's word.
"""

import inspect
import itertools
import time

import gradio as gr

from ..store.people import People, Person
from ..store.versions import Owned, is_key
from .common import Shared, showing, spoken

SIGN = "@"
EXPIRED = "you are not signed in, or not any more: reload this page and sign in again; what was taught before is kept"


class Door:
    """Says whose session a call means. `people` None: nobody can sign in here."""

    def __init__(self, people: People | None):
        self.people = people

    def person(self, request: gr.Request) -> Person | None:
        """Who signed in; None for a visitor. Raises OSError when the Hub cannot be asked.

        The token counts only from the cookie that this app signed: one that a caller sends along may be what another app got from him.
        """
        info = request.request.scope.get("session", {}).get("oauth_info") if self.people else None
        return self.people.who(info["access_token"]) if self.people and info and info["expires_at"] > time.time() else None

    def takes(self, text) -> bool:
        """Whether a page can hold `text`."""
        return is_key(text) or (bool(self.people) and _is_name(text))

    def key(self, text, request: gr.Request):
        """What a store takes for the page's `text`. Raises ValueError for a name without somebody who signed in."""
        if not self.people or not _is_name(text):
            return text
        if not (person := self.person(request)):
            raise ValueError(EXPIRED)
        return Owned(person.id, text.removeprefix(SIGN))

    def account(self, text, request: gr.Request) -> tuple[Owned, Person, str, float]:
        """(what a store takes for the page's `text`, who signed in, his token, seconds for which it is valid). Raises ValueError for a visitor."""
        key, person = self.key(text, request), self.person(request)
        if not person or not isinstance(key, Owned):
            raise ValueError(EXPIRED)
        info = request.request.scope["session"]["oauth_info"]
        return key, person, info["access_token"], info["expires_at"] - time.time()

    def keyed(self, handler):
        """`spoken`, for a handler that takes `key`: it gets what a store takes for it."""
        if not self.people:
            return spoken(handler)
        at = [*inspect.signature(handler).parameters].index("key")

        def opened(request, inputs):
            return [*inputs[:at], self.key(inputs[at], request), *inputs[at + 1 :]]

        if inspect.isgeneratorfunction(handler):

            def known(request: gr.Request, *inputs):
                yield from handler(*opened(request, inputs))
        else:

            def known(request: gr.Request, *inputs):
                return handler(*opened(request, inputs))

        known.__name__ = getattr(handler, "__name__", "known")
        return spoken(known)

    def arrive(self, store, text, before, request: gr.Request) -> tuple[str, list[str]]:
        """(the text that the page is to hold, `before`), once it is known who came.

        `before` is [the key of this browser's visitor, what of it was copied for whom]: what he taught before he signed in becomes a
        named session, once, and is there again under its key when he signs out.
        """
        person, (own, copied) = self.person(request), before if isinstance(before, list) and len(before) == 2 else ("", "")
        if not person:
            return own if _is_name(text) else text, [own, copied]
        names = store.named(person.id)
        name = text.removeprefix(SIGN) if _is_name(text) and text.removeprefix(SIGN) in names else (names or [free(names)])[0]
        if is_key(text):
            newest = f"{person.id} {versions[0].name}" if (versions := store.history(text)) else ""
            if newest and (text, newest) != (own, copied):
                name = copied_versions(store, text, person.id)
            if draft := store.draft(text):
                store.keep_draft(Owned(person.id, name), draft)
                store.drop_draft(text)
            own, copied = text, newest
        return SIGN + name, [own, copied]


def _is_name(text) -> bool:
    return isinstance(text, str) and text.startswith(SIGN)


def free(names) -> str:
    """The first of session-1, session-2, ... that is not in `names`."""
    return next(n for i in itertools.count(1) if (n := f"session-{i}") not in names)


def another(store, key) -> str | None:
    """The text of a new named session for the owner of `key`; None for a visitor."""
    return SIGN + free(store.named(key.user)) if isinstance(key, Owned) else None


def copied_versions(store, key: str, user: str) -> str:
    """Every version under a resume key as those of a new named session of `user`: its name."""
    owned = Owned(user, free(store.named(user)))
    versions = [(v, store.read(key, v.name)) for v in sorted(store.versions(key))]  # read first: nothing is half copied when a read fails
    for version, content in versions:
        store.put(owned, version, content)
    return owned.name


def arriving(demo: gr.Blocks, door: Door, store, shared: Shared):
    """Finds out who came when the page is opened; what is to happen then is given to what this returns."""
    before = gr.BrowserState(None, storage_key="cns-before", secret=store.secret())

    def arrive(text, before, request: gr.Request):
        return door.arrive(store, text, before, request)

    return demo.load(spoken(arrive), [shared.key, before], [shared.key, before], show_progress="hidden", api_visibility="private").then


def build(base, store, shared: Shared, panel: gr.Accordion) -> None:
    """The button and the names, in "Your session"."""
    with gr.Row():
        gr.LoginButton(logout_value="Sign out ({})", size="sm", scale=0, min_width=240, elem_id="sign-in")
    with gr.Row(visible=False) as own:
        names = gr.Dropdown(label="Your sessions: choose one, or type the name of a new one", allow_custom_value=True, scale=3, elem_id="names")
        enter = gr.Button("Open", size="sm", scale=0, min_width=90, elem_id="open-name")
    shared.asleep.append(enter)

    @shared.keyed
    def mine(key):
        if not isinstance(key, Owned):
            return gr.update(visible=False), gr.skip()
        return gr.update(visible=True), gr.update(choices=sorted({key.name, *store.named(key.user)}), value=key.name)

    @shared.keyed
    def open_name(name, key):
        if not isinstance(key, Owned):
            raise ValueError(EXPIRED)
        wanted = Owned(key.user, (name or "").strip().lower())
        return *showing(store.load(wanted, base), base), SIGN + wanted.name

    gr.on([panel.expand, shared.key.change], mine, [shared.key], [own, names], show_progress="hidden", api_visibility="private")
    enter.click(open_name, [names, shared.key], [*shared.states, shared.key], api_visibility="private")
