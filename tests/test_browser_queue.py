"""Two visitors at once, in a real browser: the second sees where in the queue he waits, and can leave it."""

import re
import threading
from contextlib import contextmanager

import pytest
from conftest import NO_BROWSER, few_steps, pick, picture, visitor
from gradio_client import Client, handle_file

from cns.ui import gpu

pytestmark = NO_BROWSER


@pytest.fixture
def others(served, tiny_base, tmp_path):
    """A program that asks the app for pictures or teaches it."""
    gpu.use(tiny_base)
    picture().save(tmp_path / "1.png")
    client = Client(served.local_url, verbose=False)
    teach = {"name": "hut", "class_word": "house", "images": [handle_file(str(tmp_path / "1.png"))], "steps": 1, "api_name": "/teach"}
    return {
        "draw": lambda: client.submit("a house", api_name="/generate"),
        "teach": lambda: client.submit(client.predict(api_name="/new_session"), **teach),
    }


@contextmanager
def occupied(base, jobs):
    """Within: the base is held, so that the `jobs` begin and do not end; afterwards they do."""
    with base.lock:
        for _ in range(6000):
            if len(base.lock._waiting) == len(jobs):
                break
            threading.Event().wait(0.05)
        yield
    for job in jobs:
        job.result()


def test_who_waits_for_another_visitors_drawing_sees_his_place_in_the_queue(browser, served, tiny_base, others):
    with visitor(browser, served.local_url) as page:
        page.get_by_role("tab", name="Generate").click()
        page.locator("#prompt textarea").fill("a dog")
        with occupied(tiny_base, [others["draw"]()]):
            page.locator("#generate").click()
            page.locator("#drawn", has_text=re.compile(r"queue: 1/1")).wait_for()
        page.locator("#pictures img").first.wait_for()


def test_a_teaching_can_be_stopped_while_it_waits_for_its_turn_and_after_its_begin(browser, served, tiny_base, others):
    with visitor(browser, served.local_url) as page:
        pick(page, 5)
        few_steps(page)
        with occupied(tiny_base, [others["teach"]() for _ in range(4)]):
            page.locator("#teach").click()
            page.locator("#queue", has_text=re.compile(r"queue: 1/1")).wait_for()
            page.locator("#stop-drop").click()
            page.locator("#live", has_text="nothing of it was kept").wait_for()
            page.locator("#teach:enabled").wait_for()
            assert page.locator("#queue").inner_text().strip() == ""
        with occupied(tiny_base, []):
            page.locator("#teach").click()
            page.locator("#live", has_text="Finding its neurons").wait_for()
            page.locator("#stop-keep").click()
            page.locator("#live", has_text="nothing of it was kept").wait_for()
        assert page.locator("#knows .cns-knows").inner_text().startswith("Nothing taught yet")
        page.locator("#images").get_by_role("button", name="Clear").click()
        page.locator("#teach").click()
        page.locator("#live", has_text="There is no image").wait_for()
        page.locator("#teach:enabled").wait_for()
        assert page.locator("#stops").is_hidden()
