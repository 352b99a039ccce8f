"""The first moments of a visit, in a real browser: as long as the session is being opened the page says so, and nothing can be done on none."""

import threading

import pytest
from conftest import NO_BROWSER, visitor

from cns.store import LocalStore
from cns.ui import build

pytestmark = NO_BROWSER


class Slow(LocalStore):
    """Opens no session before it is told to."""

    def __init__(self, root):
        super().__init__(root)
        self.go = threading.Event()

    def load(self, key, base):
        assert self.go.wait(600)
        return super().load(key, base)


@pytest.fixture
def slow(tiny_base, tmp_path):
    """(the app's address, its store)."""
    demo = build(tiny_base, store := Slow(tmp_path))
    demo.queue(max_size=8, default_concurrency_limit=4)
    demo.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    yield demo.local_url, store
    store.go.set()
    demo.close()


ASLEEP = ("#teach", "#guide-1", "#start-over", "#generate", "#upload", "#open-key")


def test_a_session_that_is_still_being_opened_is_not_called_empty_and_nothing_is_taught_to_none(browser, slow):
    address, store = slow
    with visitor(browser, address, opened=False) as page:
        assert page.locator("#knows .cns-knows").inner_text().startswith("Opening your session")
        page.get_by_role("button", name="Your session").click()
        page.get_by_role("tab", name="Generate").click()
        page.locator("#prompt textarea").fill("a dog")
        assert [b for b in ASLEEP if not page.locator(b).is_disabled()] == []
        page.locator("#prompt textarea").press("Shift+Enter")
        page.get_by_text("This page has not opened its session yet").first.wait_for()
        store.go.set()
        page.locator("#knows", has_text="Nothing taught yet").wait_for()
        page.locator("#generate:enabled").wait_for()
        assert [b for b in ASLEEP if not page.locator(b).is_enabled()] == []
