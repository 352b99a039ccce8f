"""What a visitor does wrong, in a real browser: each time the page says what is the matter, and nothing is lost.

One visitor does all of it, after teaching one thing; the page's console must stay without an error.
"""

import pytest
from conftest import NO_BROWSER, pick, teach_ready, toast, visitor

pytestmark = NO_BROWSER
KNOWN = "<rex> dog face"


@pytest.fixture(scope="module")
def rex(browser, app):
    """The page of a visitor who has taught one thing and drawn it."""
    with visitor(browser, app) as page:
        teach_ready(page, 5)
        page.locator("#kept", has_text="Saved").wait_for()
        tab(page, "Generate")
        prompt(page, f"a {KNOWN}")
        page.locator("#pictures img").first.wait_for()
        tab(page, "Teach")
        yield page


@pytest.fixture
def page(rex):
    """The same page for each test; what was taught and drawn must still be there after it."""
    yield rex
    assert KNOWN in rex.locator("#knows .cns-knows").inner_text()
    assert rex.locator("#kept").inner_text().startswith("Saved")
    tab(rex, "Generate")
    assert rex.locator("#pictures img").first.is_visible()
    for close in rex.locator(".toast-close").all():
        close.click()
    tab(rex, "Teach")


def tab(page, name):
    page.get_by_role("tab", name=name).click()


def fill(page, where, text):
    """Type into a field and leave it."""
    field = page.locator(where).locator("textarea, input:not([type=range])").first
    field.fill(text)
    field.press("Tab")


def prompt(page, text):
    """Ask for pictures of `text`."""
    fill(page, "#prompt", text)
    page.locator("#generate").click()


def test_a_name_that_is_taught_is_said_with_two_ways_on(page):
    page.locator("#teach").click()
    toast(page, "`<rex>` was already taught")
    assert page.locator("#more").is_visible() and page.locator("#again").inner_text() == "Teach it as <rex2> instead"


@pytest.mark.parametrize(
    ("name", "said"),
    [("", "The name is empty"), ("<b>x</b>", "has characters that a token cannot have"), ("x" * 60, "has 60 characters: use at most")],
)
def test_a_bad_name_is_said_and_the_pictures_stay(page, name, said):
    fill(page, "#name", name)
    page.locator("#teach").click()
    toast(page, said)
    assert page.locator("#seen img").count() == 5


def test_a_class_word_that_the_base_cannot_read_is_said_with_words_that_it_can(page):
    fill(page, "#name", "hoot")
    fill(page, "#word", "qwertz")
    page.locator("#teach").click()
    toast(page, "Class word `qwertz` is not one word to this base.*use a plain word such as")
    assert page.locator("#name input, #name textarea").input_value() == "hoot"


def test_steps_out_of_range_are_said_and_put_back_into_it(page):
    pick(page, 2)
    fill(page, "#steps", "5000")
    toast(page, "Value 5000.* is greater than maximum value 1000")
    assert page.locator("#steps input[type=number]").input_value() == "1000"
    assert page.locator("#name input, #name textarea").input_value() == "hoot"
    fill(page, "#steps", "10")


def test_a_file_that_is_no_picture_is_named_and_then_there_is_no_image(page, tmp_path):
    (tmp_path / "fake.png").write_bytes(b"I am not a picture")
    page.locator("#images").get_by_role("button", name="Clear").click()
    page.locator("#images input[type=file]").first.set_input_files(str(tmp_path / "fake.png"))
    toast(page, "`fake.png` is not a picture that can be read: save it as PNG or JPEG")
    page.locator("#images").get_by_role("button", name="Clear").click()
    page.locator("#teach").click()
    toast(page, "There is no image: give 1 to 10")
    pick(page, 5)


def test_an_empty_prompt_is_said(page):
    tab(page, "Generate")
    prompt(page, "  ")
    toast(page, "The prompt is empty: say what to draw")


def test_a_token_that_was_never_taught_is_said_with_those_that_were(page):
    tab(page, "Generate")
    prompt(page, "a <max> dog face")
    toast(page, "Token `<max>` was never taught. Taught: `<rex>`")


def test_a_prompt_that_is_too_long_is_drawn_and_the_words_that_were_cut_are_named(page):
    tab(page, "Generate")
    prompt(page, f"a {KNOWN} " + "on a red background " * 8 + "with a teapot")
    page.locator("#drawn", has_text="Too long for this model, not read:").wait_for()
    assert page.locator("#drawn").inner_text().endswith("with a teapot")


def test_a_region_without_words_and_one_outside_the_canvas_are_said(page):
    tab(page, "Generate")
    page.get_by_role("button", name="Regions").click()
    page.locator("#layout").get_by_text("side by side").click()
    prompt(page, "a beach")
    toast(page, "The region at `.*` has no words: say what to draw there")
    fill(page, "#region-1", f"a {KNOWN}")
    fill(page, ".cns-region:has(#region-1) .block:not(#region-1)", "0, 0, 2, 1")
    page.locator("#generate").click()
    toast(page, "Box `.*` is outside the canvas: choose fractions from 0 to 1")
    page.locator("#layout").get_by_text("none").click()
    page.locator("#region-1").wait_for(state="hidden")
    page.get_by_role("button", name="Regions").click()


def test_a_strength_out_of_range_is_said_and_put_back_into_it(page):
    tab(page, "Generate")
    page.get_by_role("button", name="Strength of each concept").click()
    fill(page, "#strength-rex", "400")
    toast(page, "Value 400.* is greater than maximum value 150")
    assert page.locator("#strength-rex input[type=number]").input_value() == "150"
    fill(page, "#strength-rex", "100")
    page.get_by_role("button", name="Strength of each concept").click()


@pytest.mark.parametrize(("key", "said"), [("0" * 32, "No session was found under this key"), ("my key", "No session was found under this key: check it")])
def test_a_bad_resume_key_is_said(page, key, said):
    page.get_by_role("button", name="Your session").click()
    fill(page, "#other-key", key)
    page.locator("#open-key").click()
    toast(page, said)
    page.get_by_role("button", name="Your session").click()


def test_a_damaged_session_file_is_refused_here_and_where_it_would_be_added(page, tmp_path):
    page.get_by_role("button", name="Your session").click()
    with page.expect_download() as started:
        page.locator("#download").click()
    whole = started.value.path().read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-1])
    page.locator("#your-session input[type=file]").first.set_input_files(str(tmp_path / "cut.safetensors"))
    toast(page, "damaged or no session")
    page.locator("#bring-back").click()
    toast(page, "No version is chosen")
    page.get_by_role("button", name="Your session").click()


@pytest.mark.parametrize(
    ("field", "bad", "good", "button", "said"),
    [
        ("#order", "tom", "rex", "#reorder", "The order `tom` does not name every concept once: taught are `rex`"),
        ("#new-name", "Rex", "", "#rename", "`<rex>` was already taught"),
    ],
)
def test_an_order_that_leaves_one_out_and_a_name_that_is_taken_are_said(page, field, bad, good, button, said):
    tab(page, "Inspect Neurons")
    page.locator("#plot-updates").wait_for()  # the page below it moves until then, away from under a click
    fill(page, field, bad)
    page.locator(button).click()
    toast(page, said)
    fill(page, field, good)
