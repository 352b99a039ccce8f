"""The whole story in a real browser, against the real app on the real starter.

Needs Debian's `chromium` (or any Chrome named by CHROMIUM); without one every test here is skipped and says so.
"""

import re
from pathlib import Path

import pytest
from conftest import MINUTES, NO_BROWSER, few_steps, pick, picture, teach_ready, toast, visitor
from PIL import Image, ImageColor

from cns.inspection import COLOURS
from cns.ui.inspect import LINK
from cns.ui.plots import WIDTH

pytestmark = NO_BROWSER


def test_the_whole_story_pick_teach_generate_inspect(page, browser, app):
    assert page.locator("#knows .cns-knows").inner_text().startswith("Nothing taught yet")
    teach_ready(page, 5)
    assert page.locator("#name textarea, #name input").input_value() == "rex"
    assert page.locator("#result img").count() == 2
    assert "<rex> dog face" in page.locator("#knows .cns-knows").inner_text()
    page.locator("#kept", has_text="Saved").wait_for()

    page.get_by_role("tab", name="Generate").click()
    page.get_by_role("button", name="<rex> dog face", exact=True).click()
    page.locator("#bare input").check()
    page.locator("#generate").click()
    page.locator("#plain img").first.wait_for()
    assert page.locator("#pictures img").count() == 4 == page.locator("#plain img").count()
    assert "a <rex> dog face on a teal background" in page.locator("#drawn").inner_text()

    page.get_by_role("tab", name="Inspect Neurons").click()
    page.get_by_text("concept neurons, trained").wait_for()
    page.locator("#rho input[type=number]").fill("0.4")
    page.locator("#rho input[type=number]").press("Enter")
    page.locator("#plot-funnel", has_text="if rho were 0.4").wait_for()
    page.locator("#as-taught").click()
    page.locator("#plot-funnel", has_text="if rho were").wait_for(state="detached")
    with page.expect_download() as png:
        page.locator("#plot-funnel button").click()
    with page.expect_download() as table:
        page.locator("#plot-funnel a").click()
    assert (png.value.suggested_filename, table.value.suggested_filename) == ("rex-funnel.png", "rex-funnel.csv")
    with Image.open(png.value.path()) as drawn:
        assert drawn.format == "PNG" and drawn.width == 2 * WIDTH and {ImageColor.getrgb(c) for c in COLOURS[:2]} <= {c for _, c in drawn.convert("RGB").getcolors(2**16)}
    page.locator("#silence").click()
    page.locator("#probed", has_text="unlearned").wait_for()
    page.locator("#forgetting").click()
    page.locator("#plot-forgetting").wait_for()
    assert page.locator("#forgotten img").count() == 1

    page.goto(f"{app}?concept=rex&__theme=dark")  # the session comes back by itself, and the link opens what it names
    page.locator("#knows", has_text="<rex> dog face").wait_for()
    page.get_by_text("concept neurons, trained").wait_for()
    assert page.get_by_role("tab", name="Inspect Neurons").get_attribute("aria-selected") == "true"
    assert page.locator("#permalink").get_attribute("href") == "?concept=rex"
    assert page.evaluate(f"() => {{ ({LINK})(null, 'tom'); return location.search; }}") == "?concept=tom&__theme=dark"
    with visitor(browser, f"{app}?concept=rex") as stranger:
        stranger.locator("#knows", has_text="This link opens <rex> only in the browser that was taught it").wait_for()
    page.get_by_role("tab", name="Teach").click()
    teach_ready(page, 7)
    assert "What I still remember" in page.locator("#result").inner_text()
    assert page.locator("#result img").count() == 4


def test_a_taken_name_is_offered_anew_and_starting_over_forgets(page):
    teach_ready(page, 5)
    page.locator("#teach").click()
    toast(page, "`<rex>` was already taught")
    page.get_by_role("button", name="Teach it as <rex2> instead").click()
    page.get_by_role("heading", name="<rex2> is learned").wait_for()
    page.locator("#teach").click()
    page.get_by_role("button", name="Teach it these pictures, too").click()
    page.locator("#start-over:disabled").wait_for()
    page.locator("#result h3", has_text="<rex2> is learned").wait_for()
    page.once("dialog", lambda d: d.accept())
    page.locator("#start-over").click()
    page.locator("#knows", has_text="Nothing taught yet").wait_for()
    page.locator("#result h3").first.wait_for(state="detached")


def test_stop_and_keep_keeps_what_was_learned_so_far(page):
    pick(page, 0)
    few_steps(page, 1000)
    page.locator("#teach").click()
    page.get_by_text(re.compile("Learning: step")).wait_for()
    page.locator("#stop-keep").click()
    page.get_by_role("heading", name="<candy> is learned").wait_for()
    assert "<candy>" in page.locator("#knows .cns-knows").inner_text()


def test_stop_and_discard_keeps_nothing(page):
    pick(page, 0)
    few_steps(page, 1000)
    page.locator("#teach").click()
    page.get_by_text(re.compile("Learning: step")).wait_for()
    page.locator("#stop-drop").click()
    page.get_by_text("nothing of it was kept").wait_for()
    assert page.locator("#knows .cns-knows").inner_text().startswith("Nothing taught yet")


def test_a_file_that_is_no_picture_is_refused_and_a_picture_is_seen(page, tmp_path):
    (tmp_path / "fake.png").write_bytes(b"I am not a picture")
    page.locator("#images input[type=file]").first.set_input_files(str(tmp_path / "fake.png"))
    toast(page, "`fake.png` is not a picture that can be read")
    page.reload()
    page.locator("#ready button.thumbnail-item").first.wait_for()
    picture("red", 200).save(tmp_path / "mine.png")
    page.locator("#images input[type=file]").first.set_input_files(str(tmp_path / "mine.png"))
    page.locator("#seen img").first.wait_for()
    page.locator("#guess label").first.wait_for()


def test_bad_keys_files_regions_and_pictures_are_refused_and_nothing_is_lost(page, tmp_path):
    page.get_by_role("button", name="Your session").click()
    page.locator("#other-key textarea, #other-key input").fill("0" * 32)
    page.locator("#open-key").click()
    toast(page, "No session was found under this key")
    bad = tmp_path / "session.safetensors"
    bad.write_bytes(b"\0" * 100)
    with page.expect_file_chooser() as chooser:
        page.locator("#upload").click()
    chooser.value.set_files(bad)
    toast(page, "session file is damaged or no session")
    page.locator("#download").click()
    toast(page, "nothing to download yet")
    page.locator("#undo").click()
    toast(page, "There is nothing to undo")
    page.get_by_role("tab", name="Generate").click()
    page.locator("#prompt textarea").fill("a beach")
    page.get_by_role("button", name="Regions").click()
    page.get_by_role("radio", name="side by side").check()
    page.locator("#region-1").wait_for()
    page.locator("#generate").click()
    toast(page, "has no words: say what to draw there")
    assert page.locator("#prompt textarea").input_value() == "a beach"
    assert "Nothing taught yet" in page.locator("#knows").inner_text()


def test_boxes_are_drawn_moved_and_taken_away_on_the_canvas(page):
    page.get_by_role("tab", name="Generate").click()
    page.get_by_role("button", name="Regions").click()
    canvas = page.locator("#preview svg")
    canvas.scroll_into_view_if_needed()
    page.wait_for_function("() => { const y = document.querySelector('#preview svg').getBoundingClientRect().y, still = y === window.y; window.y = y; return still; }", polling=500)

    def drag(*points):
        side = canvas.bounding_box()
        at = [(side["x"] + x * side["width"], side["y"] + y * side["height"]) for x, y in points]
        page.mouse.move(*at[0])
        page.mouse.down()
        page.mouse.move(*at[1])
        page.mouse.up()

    drag((0.1, 0.1), (0.5, 0.9))
    page.locator('#preview rect[data-at="0.1,0.1,0.5,0.9"]').wait_for()
    assert page.locator("#region-1").is_visible() and not page.locator("#region-2").is_visible()
    drag((0.3, 0.3), (0.5, 0.3))
    page.locator('#preview rect[data-at="0.3,0.1,0.7,0.9"]').wait_for()
    page.locator("#preview rect").dblclick()
    page.locator("#preview rect").wait_for(state="detached")


def test_three_steps_lead_a_first_visitor_through_the_tabs_by_keyboard_on_a_phone_in_the_dark(browser, app):
    def step(number):
        page.locator(f"#guide-{number}").press("Enter")
        page.locator(f"#guide-{number}", has_text="\N{CHECK MARK}").wait_for()
        assert page.locator("#guide").bounding_box()["y"] >= 0 and page.evaluate("document.documentElement.scrollWidth") <= 390

    with visitor(browser, app, 390, 844, color_scheme="dark") as page:
        few_steps(page)
        assert page.locator("#guide-2").is_disabled() and page.locator("#guide-3").is_disabled()
        step(1)
        page.locator("#result h3", has_text="<rex> is learned").wait_for()
        assert page.locator("#guide-1").is_disabled()
        step(2)
        assert "<rex>" in page.locator("#drawn").inner_text() and page.locator("#pictures img").count() == 4
        step(3)
        page.get_by_text("concept neurons, trained").wait_for()
        again = page.context.new_page()
        again.goto(app)
        again.locator("#knows", has_text="<rex> dog face").wait_for(timeout=2 * MINUTES)
        assert again.locator("#guide").is_hidden()


def test_the_first_visits_strip_can_be_hidden_for_good(page, app):
    page.locator("#guide-hide").press("Enter")
    page.locator("#guide").wait_for(state="hidden")
    assert page.evaluate("document.activeElement.getAttribute('role')") == "tab"
    again = page.context.new_page()
    again.goto(app)
    again.locator("#ready button.thumbnail-item").first.wait_for(timeout=2 * MINUTES)
    assert again.locator("#guide").is_hidden()


def test_a_session_survives_a_reload_is_undone_carried_and_deleted(page, browser, app, tmp_path):
    """Save, reload, history, undo, bring back, download, upload, resume on another device, delete."""
    teach_ready(page, 5)
    page.locator("#kept", has_text="Saved").wait_for()
    page.get_by_role("tab", name="Inspect Neurons").click()
    page.get_by_text("concept neurons, trained").wait_for()  # a reload in the middle of an answer is an error in the console
    page.reload()
    page.locator("#knows", has_text="<rex> dog face").wait_for()
    page.locator("#kept", has_text="Saved").wait_for()
    page.get_by_role("button", name="Your session").click()

    with page.expect_download() as started:
        page.locator("#download").click()
    started.value.save_as(tmp_path / "rex.safetensors")
    page.locator("#undo").click()
    page.locator("#knows", has_text="Nothing taught yet").wait_for()
    page.locator("#history input").click()
    page.get_by_role("option", name="teach rex").click()
    page.locator("#bring-back").click()
    page.locator("#knows", has_text="<rex> dog face").wait_for()

    key = page.locator("#my-key input, #my-key textarea").input_value()
    assert re.fullmatch("[0-9a-f]{32}", key)
    other = browser.new_context().new_page()
    other.set_default_timeout(2 * MINUTES)
    other.goto(app)
    other.get_by_role("button", name="Your session").click()
    other.locator("#other-key input").fill("0" * 32)
    other.locator("#open-key").click()
    toast(other, "No session was found under this key")
    other.locator("#other-key input").fill(key)
    other.locator("#open-key").click()
    other.locator("#knows", has_text="<rex> dog face").wait_for()
    other.context.close()

    page.once("dialog", lambda d: d.accept())
    page.locator("#delete").click()
    page.locator("#what-remains", has_text="Nothing of it remains").wait_for()
    page.locator("#knows", has_text="Nothing taught yet").wait_for()
    (tmp_path / "bad.safetensors").write_bytes((tmp_path / "rex.safetensors").read_bytes()[:-1])
    page.locator("#upload input[type=file], input#upload, #your-session input[type=file]").first.set_input_files(str(tmp_path / "bad.safetensors"))
    toast(page, "damaged or no session")
    page.locator("#upload input[type=file], input#upload, #your-session input[type=file]").first.set_input_files(str(tmp_path / "rex.safetensors"))
    page.locator("#knows", has_text="<rex> dog face").wait_for()
    page.locator("#kept", has_text="Saved").wait_for()


def test_what_was_about_to_be_taught_is_offered_after_a_reload(browser, app):
    page = browser.new_context().new_page()
    page.set_default_timeout(2 * MINUTES)
    page.goto(app)
    page.locator("#ready button.thumbnail-item").first.wait_for()
    pick(page, 0)
    few_steps(page, 1000)
    page.locator("#teach").click()
    page.get_by_text(re.compile("Learning: step")).wait_for()
    page.reload()
    page.locator("#draft", has_text="You were about to teach candy").wait_for()
    page.locator("#draft-back").click()
    page.locator("#seen img").first.wait_for()
    assert page.locator("#name textarea, #name input").input_value() == "candy"
    page.locator("#draft").wait_for(state="hidden")
    page.context.close()


KNOWN = "nested-interactive: ['button[aria-label=\"Click to Upload\"]']"  # a button that Gradio's gallery puts within a button of its own


def violations(page):
    """What axe finds against WCAG 2.1 AA on the page as it stands, one line for each element."""
    axe = pytest.importorskip("axe_playwright_python", reason="no accessibility checker: pip install -r tests/requirements.txt")
    page.wait_for_timeout(500)  # fading elements have no contrast yet
    page.evaluate(next(Path(axe.__file__).parent.glob("axe*.js")).read_text())
    found = page.evaluate("axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa'], resultTypes: ['violations']})")["violations"]
    lines = [f"{v['id']}: {n['target']} {n['html'][:120]}" for v in found for n in v["nodes"]]
    return [line for line in lines if not line.startswith(KNOWN)]


def test_every_tab_is_accessible_in_light_and_dark_and_fits_a_phone(page):
    teach_ready(page, 5)
    page.locator("#kept", has_text="Saved").wait_for()
    found = {"taught": violations(page)}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.reload()
        page.locator("#knows", has_text="<rex> dog face").wait_for()
        page.get_by_role("button", name="Your session").click()
        for tab in ("Teach", "Generate", "Inspect Neurons"):
            page.get_by_role("tab", name=tab).click()
            if tab == "Inspect Neurons":
                page.locator("#plot-updates").wait_for()
                page.locator("#plot-funnel summary").click()
            found[f"{scheme}, {tab}"] = violations(page)
    assert {where: what for where, what in found.items() if what} == {}
    page.set_viewport_size({"width": 390, "height": 844})
    for tab in ("Teach", "Generate", "Inspect Neurons"):
        page.get_by_role("tab", name=tab).click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
