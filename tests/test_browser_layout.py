"""Where things stand on the page, in light and dark, wide and on a phone: nothing sticks out or overlaps, and no control moves when a result comes.

Bounding boxes are compared, not pixels. One visitor teaches; the others open that session with its key.
"""

from itertools import combinations

import pytest
from conftest import NO_BROWSER, few_steps, pick, visitor

pytestmark = NO_BROWSER
ALWAYS = ("#start-over", "#your-session", "#guide-1", "#guide-2", "#guide-3", "#guide-hide", '[role="tab"]:has-text("Teach")', '[role="tab"]:has-text("Inspect")')
CONTROLS = {
    "Teach": ("#ready", "#images", "#name", "#word", "#guess", "#teach"),
    "Generate": ("#prompt", "#seed", "#new-seed", "#bare", "#generate", "#strength", "#regions", "#variations"),
    "Inspect Neurons": ("#concept", "#rho", "#gamma", "#as-taught", "#by", "#silence"),
}
BELOW = ("#swap", "#probe-seed", "#probe", "#forgetting", "#new-name", "#rename", "#forget", "#order", "#reorder", "#merge", "#merge-file", "#export-kind", "#export")


def boxes(page, controls) -> dict:
    """{control: (left, top, right, bottom)} on the whole page [pixels]."""
    page.evaluate("scrollTo(0, 0)")
    found = {}
    for where in controls:
        page.locator(where).first.wait_for()
        x, y, width, height = page.locator(where).first.evaluate("e => { const r = e.getBoundingClientRect(); return [r.x, r.y, r.width, r.height]; }")
        found[where] = x, y, x + width, y + height
    return found


def assert_tidy(page, found: dict) -> None:
    """Nothing is empty, beyond the page's sides, over another, or too small for its words."""
    width = page.viewport_size["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert [w for w, (left, top, right, bottom) in found.items() if left < 0 or right > width or right - left < 20 or bottom - top < 20] == []
    assert [w for w in found if page.locator(w).first.evaluate("e => e.scrollWidth > e.clientWidth + 1")] == []
    assert [(a, b) for (a, p), (b, q) in combinations(found.items(), 2) if min(p[2], q[2]) - max(p[0], q[0]) > 1 and min(p[3], q[3]) - max(p[1], q[1]) > 1] == []


def moved(page, before: dict) -> list:
    """The controls that no longer stand where they stood."""
    return [where for where, box in boxes(page, before).items() if max(abs(a - b) for a, b in zip(box, before[where])) > 1]


@pytest.fixture(scope="module")
def key(browser, app):
    """Opens the session of a visitor who taught one thing, during which nothing moved."""
    with visitor(browser, app) as page:
        page.locator("#knows", has_text="Nothing taught yet").wait_for()
        before = boxes(page, ALWAYS + CONTROLS["Teach"])
        assert_tidy(page, before)
        pick(page, 5)
        page.locator("#guess label").first.wait_for()
        assert moved(page, before) == []
        few_steps(page)
        before = boxes(page, ALWAYS + CONTROLS["Teach"])
        page.locator("#teach").click()
        page.locator("#live .cns-bar").wait_for()
        assert moved(page, before) == []
        page.locator("#result h3").wait_for()
        page.locator("#kept", has_text="Saved").wait_for()
        assert moved(page, {w: b for w, b in before.items() if not w.startswith("#guide")}) == []
        page.get_by_role("button", name="Your session").click()
        yield page.locator("#my-key input, #my-key textarea").input_value()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_every_tab_is_tidy_and_nothing_moves_when_results_come(browser, app, key, width, height, scheme):
    with visitor(browser, app, width, height, color_scheme=scheme) as page:
        before = boxes(page, ALWAYS[:2] + CONTROLS["Teach"])
        assert_tidy(page, before)
        pick(page, 3)
        page.locator("#guess label").first.wait_for()
        assert moved(page, before) == []
        page.get_by_role("button", name="Your session").click()
        page.locator("#other-key input").fill(key)
        page.locator("#open-key").click()
        page.locator("#kept", has_text="Saved").wait_for()
        page.get_by_role("button", name="Your session").click()
        page.locator("#other-key").wait_for(state="hidden")
        assert moved(page, before) == []

        page.get_by_role("tab", name="Generate").click()
        page.get_by_role("button", name="<rex> dog face", exact=True).click()
        page.get_by_label("number input for Pictures").fill("1")
        before = boxes(page, ALWAYS + CONTROLS["Generate"])
        assert_tidy(page, before)
        page.locator("#generate").click()
        page.locator("#pictures img").first.wait_for()
        assert moved(page, before) == []

        page.get_by_role("tab", name="Inspect Neurons").click()
        page.locator("#plot-updates").wait_for()
        before = boxes(page, ALWAYS + CONTROLS["Inspect Neurons"])
        assert_tidy(page, {**before, **boxes(page, BELOW)})
        page.locator("#silence").click()
        page.locator("#probed img").nth(1).wait_for()
        assert moved(page, before) == []
