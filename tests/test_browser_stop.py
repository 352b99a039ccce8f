"""Stop, in a real browser: whatever is being drawn or learned ends, the page says so, and the next one is drawn."""

import re

import pytest
from conftest import MINUTES, NO_BROWSER, few_steps, pick, teach_ready

pytestmark = NO_BROWSER
LEFT = re.compile(r"about \d+ s left")

STOP_AT_ONCE = r"""() => new Promise(done => {
    const said = () => document.querySelector('#live').innerText, choosing = /Finding its neurons: part \d+ of \d+, about \d+ s left/;
    const look = () => choosing.test(said()) ? done(document.querySelector('#stop-keep').click()) : setTimeout(look, 10);
    look();
})"""  # within the page: choosing takes two seconds, and a click from outside may come when it is over


def press(page, button):
    page.locator(button).click()


def slow(page):
    """Eight pictures of a hundred steps."""
    page.get_by_role("tab", name="Generate").click()
    page.locator("#prompt textarea").fill("a teapot")
    page.get_by_label("number input for Pictures").fill("8")
    page.get_by_role("button", name="Advanced").click()
    page.get_by_label("number input for Steps").fill("100")
    page.get_by_label("number input for Steps").press("Tab")


def test_a_drawing_says_how_long_it_takes_ends_at_a_stop_and_the_next_is_drawn(page):
    slow(page)
    press(page, "#generate")
    page.locator("#drawn").get_by_text(LEFT).wait_for()
    press(page, "#stop-drawing")
    page.locator("#drawn", has_text="Stopped: nothing new was drawn").wait_for(timeout=MINUTES / 6)
    assert page.locator("#drawn").get_by_text(LEFT).count() == 0 and page.locator("#pictures img").count() == 0
    page.get_by_label("number input for Steps").fill("2")
    page.get_by_label("number input for Pictures").fill("1")
    press(page, "#generate")
    page.locator("#pictures img").first.wait_for()
    assert "a teapot" in page.locator("#drawn").inner_text() and page.locator("#pictures img").count() == 1


def test_a_stop_while_the_neurons_are_chosen_learns_nothing_and_says_so(page):
    pick(page, 0)
    few_steps(page, 1000)
    press(page, "#teach")
    page.evaluate(STOP_AT_ONCE)
    page.get_by_text("nothing of it was kept").wait_for()
    assert page.locator("#knows .cns-knows").inner_text().startswith("Nothing taught yet")
    assert page.locator("#teach").is_enabled()


@pytest.mark.parametrize(("button", "place"), [("#probe", "#probed"), ("#forgetting", "#forgotten")])
def test_probes_and_the_forgetting_matrix_end_at_a_stop_and_keep_what_was_drawn(page, button, place):
    teach_ready(page, 5)
    if button == "#forgetting":
        pick(page, 7)
        page.wait_for_function("() => document.querySelector('#name :is(input, textarea)').value !== 'rex'")
        press(page, "#teach")
        page.locator("#result", has_text="What I still remember").wait_for()
    page.get_by_role("tab", name="Inspect Neurons").click()
    page.get_by_text("concept neurons, trained").wait_for()
    press(page, button)
    page.locator("#looking").get_by_text(LEFT).wait_for()
    drawn = page.locator(f"{place} img").count()
    press(page, "#stop-looking")
    page.locator("#looking", has_text="Stopped: nothing new was drawn").wait_for(timeout=MINUTES / 6)
    assert page.locator(f"{place} img").count() >= drawn > 0 and page.locator("#looking .cns-bar").count() == 0
    press(page, "#silence")
    page.locator("#probed img").nth(1).wait_for()
    page.locator("#looking .cns-bar").wait_for(state="detached")
    assert page.locator("#probed img").count() == 2
