"""Signing in on the page: the app with Gradio's stand-in for the OAuth pages, which sets the real signed cookie, and the stand-in Hub that says whose token it is."""

import hashlib
import http.client
import importlib
import json
import threading
from types import SimpleNamespace

import gradio as gr
import pytest
from conftest import CHROMIUM, MINUTES
from huggingface_hub import HfApi, constants
from test_hub_store import until
from test_keeping import Visitor, renamed
from test_people import hub, people  # noqa: F401  a fixture

from cns.store import Draft, HubStore, LocalStore, pack
from cns.store.versions import Owned
from cns.ui import build
from cns.ui.api import ENDPOINTS
from cns.ui.signin import Door, free


@pytest.fixture
def serve(tiny_base, hub, monkeypatch):  # noqa: F811
    """Serves the app on a store as on a Space; its `cookie(name)` signs somebody in and is his cookie."""
    info, served = {"scope": "openid profile"}, []
    monkeypatch.setattr("gradio.oauth._get_mocked_oauth_info", lambda: info)

    def start(store, base=tiny_base, **more):
        demo = build(base, store, people=people(hub), **more)
        demo.queue(max_size=128, default_concurrency_limit=8)
        with pytest.warns(UserWarning, match="mocked"):
            demo.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
        demo.store = store
        served.append(demo)

        def cookie(name):
            info.update(access_token=f"hf_oauth_{name}", userinfo={"preferred_username": name, "name": name, "profile": "", "picture": ""})
            connection = http.client.HTTPConnection("127.0.0.1", demo.server_port)
            connection.request("GET", "/login/callback")
            return connection.getresponse().getheader("Set-Cookie").split(";")[0]

        demo.cookie = cookie
        return demo

    yield start
    for demo in served:
        demo.close()


@pytest.fixture
def space(serve, tmp_path):
    return serve(LocalStore(tmp_path))


class Page(Visitor):
    """A page that holds what a browser would: the text of its session, and what it had before it signed in."""

    def __init__(self, space, cookie="", text="", before=None):
        super().__init__(space, cookie)
        self.text, self.before = text, before

    def load(self) -> str:
        """Opens the page; the line that says what is known."""
        self.text, self.before = self.call("arrive", self.text, self.before)
        self.shown = self.call("resume", self.text)
        _, _, self.text, _, line, *_ = self.shown
        return line

    def take(self, session) -> list:
        return self.call("take_in", self.upload(pack(session)), None, self.text)

    def again(self, cookie) -> "Page":
        """The same browser later."""
        return Page(self.demo, cookie, self.text, self.before)


def test_what_a_visitor_taught_before_he_signed_in_is_his_by_name_on_every_device(space, rex):
    visitor = Page(space)
    visitor.load()
    key = visitor.text
    visitor.take(renamed(rex, "max"))
    visitor.take(rex)
    ann = visitor.again(space.cookie("ann"))
    assert "&lt;rex&gt; dog" in ann.load() and ann.text == "@session-1"
    assert len(ann.call("look", ann.text)[0]["choices"]) == 2
    elsewhere = Page(space, space.cookie("ann"))
    assert "&lt;rex&gt; dog" in elsewhere.load() and elsewhere.text == "@session-1"
    assert ann.call("show", ann.text, None)[3]["visible"] is False  # a named session has no resume key
    out = ann.again("")
    assert "&lt;rex&gt; dog" in out.load() and out.text == key  # signed out, it is there as before
    back = out.again(space.cookie("ann"))
    back.load()
    assert back.text == "@session-1" and back.call("mine", back.text)[1]["choices"] == [["session-1", "session-1"]]  # copied once


def test_what_is_deleted_from_the_account_does_not_come_back_and_what_is_new_does(space, rex):
    page = Page(space)
    page.load()
    page.take(rex)
    page = page.again(space.cookie("ann"))
    page.load()
    page.text = page.call("remove", page.text)[-2]
    page = page.again(space.cookie("ann"))
    assert "Nothing taught yet" in page.load()
    page = page.again("")
    page.load()
    page.take(renamed(rex, "max"))
    page = page.again(space.cookie("ann"))
    assert "&lt;max&gt; dog" in page.load()


def test_nobody_else_opens_changes_or_lists_a_named_session(space, rex, tiny_base):
    ann, bob = Page(space, space.cookie("ann")), Page(space, space.cookie("bob"))
    for page in (ann, bob):
        page.load()
    ann.take(rex)
    assert "Nothing taught yet" in bob.load() and bob.call("look", ann.text)[0]["choices"] == []
    bob.call("remove", ann.text)
    bob.take(renamed(rex, "max"))
    assert "&lt;rex&gt; dog" in ann.load()
    nobody = Page(space, "", "@session-1")
    forged = Page(space, f"{ann.headers['Cookie'][:-3]}xyz", "@session-1")
    for page in (nobody, forged):
        for handler, inputs in (("look", ["@session-1"]), ("remove", ["@session-1"]), ("take_back", [None, "@session-1"]), ("discard", ["@session-1"]), ("start_over", ["0" * 32, "@session-1"])):
            with pytest.raises(RuntimeError, match="You are not signed in"):
                page.call(handler, *inputs)
        assert "Nothing taught yet" in page.load() and not page.text.startswith("@")
    for name in ("ann", "bob"):
        assert len(space.store.named(people_id(name))) == 1


def people_id(name: str) -> str:
    """As the stand-in has it."""
    return hashlib.sha256(f"hf_oauth_{name}".encode()).hexdigest()[:24]


def test_sessions_are_begun_by_name_and_opened_and_a_key_opens_a_copy(space, rex):
    ann, visitor = Page(space, space.cookie("ann")), Page(space)
    for page in (ann, visitor):
        page.load()
    ann.take(rex)
    visitor.take(renamed(rex, "max"))
    with pytest.raises(RuntimeError, match="cannot name a session"):
        ann.call("open_name", "../x", ann.text)
    ann.text = ann.call("open_name", " Holidays ", ann.text)[-1]
    assert ann.text == "@holidays"
    ann.take(renamed(rex, "sun"))
    assert [c[0] for c in ann.call("mine", ann.text)[1]["choices"]] == ["holidays", "session-1"]
    assert "&lt;rex&gt; dog" in ann.call("open_name", "session-1", ann.text)[2]
    opened = ann.call("open_key", visitor.text, ann.text)
    assert "&lt;max&gt; dog" in opened[2] and opened[4] == "@session-2"
    ann.text = ann.call("start_over", "0" * 32, ann.text)[2]
    assert ann.text == "@session-3"
    assert visitor.call("mine", visitor.text)[0]["visible"] is False
    with pytest.raises(RuntimeError, match="You are not signed in"):
        visitor.call("open_name", "session-1", visitor.text)


def test_a_draft_of_a_visitor_goes_with_him(space):
    visitor = Page(space)
    visitor.load()
    space.store.keep_draft(visitor.text, Draft([b"picture"], {"name": "rex"}))
    ann = visitor.again(space.cookie("ann"))
    ann.load()
    assert space.store.draft(Owned(people_id("ann"), "session-1")).settings == {"name": "rex"} and space.store.draft(visitor.text) is None


def test_a_hub_that_cannot_be_asked_closes_the_session_for_a_while_and_forgets_nothing(space, hub, rex):  # noqa: F811
    ann = Page(space, space.cookie("ann"))
    ann.load()
    ann.take(rex)
    bob = Page(space, space.cookie("bob"), "@session-1")
    hub.fail("GET", "/whoami-v2", 500, times=20)
    with pytest.raises(RuntimeError, match="did not say who you are"):
        bob.call("arrive", bob.text, None)
    out = bob.call("resume", bob.text)
    assert out[2] == "@session-1" and "did not say who you are" in out[4] and "Nothing taught yet" in out[4]
    hub.faults.clear()
    bob.load()
    assert bob.text == "@session-1"


def test_a_token_that_a_caller_sends_along_is_not_taken(space, rex):
    """Another app may have it from him."""
    ann = Page(space, space.cookie("ann"))
    ann.load()
    ann.take(rex)
    stranger = Visitor(space)
    stranger.headers = {"Authorization": "Bearer hf_oauth_ann", "X-HF-Authorization": "Bearer hf_oauth_ann"}
    stranger.more = {"oauth_token": "hf_oauth_ann"}
    with pytest.raises(RuntimeError, match="You are not signed in"):
        stranger.call("look", "@session-1")


def test_an_old_sign_in_is_none():
    session = {"oauth_info": {"access_token": "hf_oauth_ann", "expires_at": 1}}
    request = SimpleNamespace(request=SimpleNamespace(scope={"session": session}))
    assert Door(SimpleNamespace(who=lambda _: "somebody")).person(request) is None


def test_where_nobody_can_sign_in_there_is_no_button_and_a_name_opens_nothing(tiny_base, tmp_path, space):
    def buttons(demo):
        return [b for b in demo.blocks.values() if isinstance(b, gr.LoginButton)]

    demo = build(tiny_base, LocalStore(tmp_path))
    assert buttons(demo) == [] and not demo.expects_oauth and len(buttons(space)) == 1
    assert not Door(None).takes("@session-1") and Door(None).key("@session-1", None) == "@session-1"
    assert {n.strip("/") for n in space.get_api_info()["named_endpoints"]} == set(ENDPOINTS)


def test_the_app_lets_people_sign_in_only_on_a_space_with_a_store(tiny_base, tmp_path, monkeypatch):
    """Elsewhere Gradio would sign everybody in as the owner, or not start at all."""
    monkeypatch.setenv("CNS_STORE", str(tmp_path))
    monkeypatch.setattr("cns.load_base", lambda _: tiny_base)
    app = importlib.import_module("app")
    space = {"SYSTEM": "spaces", "SPACE_ID": "me/cns", "OAUTH_CLIENT_ID": "id"}
    for missing in ({}, {"SYSTEM"}, {"OAUTH_CLIENT_ID"}, {"CNS_STORE"}):
        with monkeypatch.context() as patch:
            patch.setattr(app, "ON_SPACE", True)
            for name, value in space.items():
                patch.setenv(name, value)
            for name in missing:
                patch.delenv(name)
            assert bool(app.opened(app.options([]))[2]) == (not missing)


def test_fifty_at_once_on_the_hub_half_of_them_signed_in_lose_nothing_and_see_nobody_elses(serve, hub, rex, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    store = HubStore("me/sessions", tmp_path, api=HfApi(endpoint=hub.url, token="hf_writer"), interval=0.2)
    space, seen, wrong = serve(store), {}, []
    cookies = {f"thing{i}": space.cookie(f"user{i}") if i % 2 else "" for i in range(50)}

    def visit(name, cookie):
        try:
            one = Page(space, cookie)
            one.load()
            two = one.again(cookie)  # another tab
            one.take(renamed(rex, name))
            two.take(renamed(rex, f"{name}b"))
            fresh = one.again(cookie)
            fresh.load()
            seen[name] = fresh.text, json.dumps([fresh.shown, fresh.call("look", fresh.text), fresh.call("mine", fresh.text)])
        except Exception as error:
            wrong.append(f"{name}: {error!r}")

    threads = [threading.Thread(target=visit, args=both) for both in cookies.items()]
    for work in (threading.Thread.start, threading.Thread.join):
        for thread in threads:
            work(thread)
    assert wrong == [] and len(seen) == 50
    texts = [text for text, _ in seen.values()]
    for name, (text, shown) in seen.items():
        assert text == "@session-1" if cookies[name] else len(text) == 32
        assert f";{name}b&" in shown and not [n for n in seen if n != name and (f";{n}&" in shown or f";{n}b&" in shown)]
        assert not [t for t in texts if t != text and len(t) == 32 and t in shown]
    store.close()
    elsewhere = HubStore("me/sessions", tmp_path, api=HfApi(endpoint=hub.url, token="hf_writer"), interval=0.01)  # it commits what is left
    for name, (text, _) in seen.items():
        key = Owned(people_id(f"user{name.removeprefix('thing')}"), "session-1") if cookies[name] else text
        until(lambda key=key: elsewhere.state(key).kind in ("", "saved"))
        assert len(elsewhere.history(key)) == 2
    elsewhere.close()
    assert len({p.rsplit("/", 1)[0] for p in hub.head("me/sessions").tree if p.startswith("sessions/")}) == 50


def test_free_names():
    assert free([]) == "session-1" and free(["session-1", "session-3"]) == "session-2"


@pytest.mark.skipif(not CHROMIUM, reason="no browser: install Debian's `chromium`")
def test_in_a_browser_the_button_signs_in_and_out(space, rex, browser, tmp_path):
    space.cookie("ann")
    file = tmp_path / "rex.safetensors"
    file.write_bytes(pack(rex))
    page = browser.new_page()
    page.set_default_timeout(MINUTES)
    page.goto(space.local_url)
    panel = page.locator("#your-session")
    panel.get_by_text("Your session", exact=True).click()
    page.wait_for_function("document.querySelector('#my-key input').value")  # the page has opened its session
    key = page.locator("#my-key input").input_value()
    page.locator("#your-session input[type=file]").first.set_input_files(file)
    page.locator("#knows").get_by_text("<rex> dog").wait_for()
    with page.expect_navigation(url=space.local_url):
        page.locator("#sign-in").click()
    page.locator("#knows").get_by_text("<rex> dog").wait_for()
    panel.get_by_text("Your session", exact=True).click()
    page.get_by_text("Sign out (ann)").wait_for()
    assert page.locator("#names input").input_value() == "session-1" and not page.locator("#my-key").is_visible()
    with page.expect_navigation(url=space.local_url):
        page.get_by_text("Sign out (ann)").click()
    page.locator("#knows").get_by_text("<rex> dog").wait_for()
    panel.get_by_text("Your session", exact=True).click()
    page.get_by_text("Sign in with Hugging Face").wait_for()
    assert page.locator("#my-key input").input_value() == key and not page.locator("#names").is_visible()
    page.close()
