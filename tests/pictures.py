"""`python tests/pictures.py` makes the README's pictures anew, from the running app: assets/app.png and assets/story.gif.

The story is the one that the browser tests play, with the starter's own number of steps: two things taught, the first drawn.
"""

import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from conftest import CHROMIUM, FLAGS, MINUTES, pick

from cns.bench import ROOT

PORT, WIDTH, HEIGHT = 7898, 1180, 860
ASSETS = ROOT / "assets"


class Story:
    """Frames of one page: each is kept with how long it is shown [ms]."""

    def __init__(self, page):
        self.page, self.frames = page, []

    def shoot(self, shown: int) -> None:
        self.page.wait_for_timeout(600)
        with tempfile.NamedTemporaryFile(suffix=".png") as file:
            self.page.screenshot(path=file.name)
            self.frames.append((Image.open(file.name).convert("RGB"), shown))

    def save(self, path: Path, width: int = 720) -> None:
        size = width, width * HEIGHT // WIDTH
        small = [f.resize(size, Image.Resampling.LANCZOS).quantize(96, dither=Image.Dither.NONE) for f, _ in self.frames]
        small[0].save(path, save_all=True, append_images=small[1:], duration=[d for _, d in self.frames], loop=0, optimize=True)


def teach(story: Story, number: int) -> None:
    """Teach the ready thing of that number at the app's own settings, with frames on the way."""
    page = story.page
    pick(page, number)
    story.shoot(1500)
    page.locator("#teach").click()
    page.get_by_text(re.compile("Learning: step")).wait_for()
    while not page.locator("#result h3").count():
        story.shoot(300)
        page.wait_for_timeout(9000)
    page.locator("#result h3").first.scroll_into_view_if_needed()
    story.shoot(2500)


def tell(page) -> None:
    """Play the story and write both pictures."""
    page.goto(f"http://127.0.0.1:{PORT}/")
    page.locator("#ready button.thumbnail-item").first.wait_for()
    story = Story(page)
    story.shoot(1500)
    teach(story, 5)
    page.evaluate("scrollTo(0, 0)")
    teach(story, 7)
    page.screenshot(path=ASSETS / "app.png", full_page=True)
    Image.open(ASSETS / "app.png").convert("RGB").quantize(128).save(ASSETS / "app.png", optimize=True)
    page.evaluate("scrollTo(0, 0)")
    page.get_by_role("tab", name="Generate").click()
    page.get_by_role("button", name="<rex> dog face", exact=True).click()
    story.shoot(1200)
    page.locator("#generate").click()
    page.locator("#pictures img").first.wait_for()
    story.shoot(3500)
    story.save(ASSETS / "story.gif")


def main() -> None:
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as store, sync_playwright() as p:
        argv = [sys.executable, "app.py", "--port", str(PORT), "--store", store]
        with subprocess.Popen(argv, cwd=ROOT) as app:
            try:
                for _ in range(600):
                    try:
                        urllib.request.urlopen(f"http://127.0.0.1:{PORT}/", timeout=5).read()
                        break
                    except OSError:
                        time.sleep(0.2)
                page = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS).new_page(viewport={"width": WIDTH, "height": HEIGHT})
                page.set_default_timeout(10 * MINUTES)
                tell(page)
            finally:
                app.terminate()


if __name__ == "__main__":
    main()
