"""Many concepts in one picture, and owning what was learned, in a real browser on the real starter."""

import re

from conftest import NO_BROWSER, teach_ready, toast

pytestmark = NO_BROWSER


def test_strengths_tables_and_layouts_are_drawn_and_what_was_learned_is_carried_away_and_forgotten(page):
    teach_ready(page, 5)
    page.get_by_role("tab", name="Generate").click()
    page.get_by_role("button", name="<rex> dog face", exact=True).click()
    page.get_by_role("button", name="Strength of each concept").click()
    page.get_by_role("button", name="Draw 0, 50, 100, 150 %").click()
    page.locator("#strength figcaption", has_text="150%").wait_for()
    assert page.locator("#strength img").count() == 4
    page.get_by_role("button", name="Regions").click()
    page.locator("#layout").get_by_label("foreground and background").check()
    page.locator("#region-2").wait_for()
    assert page.locator("#preview rect").count() == 2
    page.locator("#layout").get_by_label("none").check()
    page.locator("#region-2").wait_for(state="hidden")
    page.get_by_role("button", name="Variations").click()
    page.locator("#draw-table").click()
    page.locator("#table img").nth(7).wait_for()
    page.locator("#vary").get_by_label("how much of a picture").check()
    page.locator("#draw-table").click()
    toast(page, "There is no picture to start from")

    page.get_by_role("tab", name="Inspect Neurons").click()
    page.get_by_text("concept neurons, trained").wait_for()
    page.locator("#export").click()
    page.locator("#exported", has_text="cns-session.zip").wait_for()
    page.get_by_role("button", name="Or push it to a model repo").click()
    page.locator("#repo input, #repo textarea").first.wait_for()
    assert not page.locator("#push").is_visible()
    page.locator("#hub-token input").fill("hf_mine")
    page.locator("#push").click()
    toast(page, "names no model repo")
    page.locator("#hub-token input").fill("")
    page.locator("#push").wait_for(state="hidden")
    page.locator("#new-name input, #new-name textarea").fill("max")
    page.locator("#rename").click()
    page.locator("#knows", has_text="<max> dog face").wait_for()
    page.once("dialog", lambda d: d.accept())
    page.locator("#forget").click()
    page.locator("#knows", has_text=re.compile("Nothing taught yet")).wait_for()
