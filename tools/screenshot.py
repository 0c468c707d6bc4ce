"""A picture of a page as a browser shows it, for the documentation: `python tools/screenshot.py PAGE OUT`.

PAGE may end in `#site/latent`, for a feature of an atlas. Chromium is taken from the PATH.
"""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def take(page: str, out: Path, width: int, height: int, scheme: str, search: str, until: str, colours: int) -> Path:
    """Write a PNG of a page of the file system (or http://…)."""
    browser_path = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if browser_path is None:
        raise SystemExit(f"there is no browser in the PATH ({', '.join(_BROWSERS)})")
    path, mark, place = page.partition("#")
    address = path if "://" in path else Path(path).resolve().as_uri()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"])
        opened = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
        opened.goto(f"{address}{mark}{place}", wait_until="load" if until else "networkidle", timeout=300_000)
        if until:
            opened.get_by_text(until).first.wait_for(timeout=300_000)
        if search:
            opened.get_by_role("searchbox").first.fill(search)
            opened.wait_for_timeout(500)
            opened.evaluate("document.activeElement.blur()")
        picture = Image.open(io.BytesIO(opened.screenshot()))
        browser.close()
    out.parent.mkdir(parents=True, exist_ok=True)
    picture.convert("RGB").quantize(colours, dither=Image.Dither.NONE).save(out, optimize=True)
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page")
    parser.add_argument("out", type=Path)
    parser.add_argument("--width", type=int, default=1200)
    parser.add_argument("--height", type=int, default=900)
    parser.add_argument("--scheme", choices=["light", "dark"], default="light")
    parser.add_argument("--search", default="", help="words to put into the page's search field")
    parser.add_argument("--until", default="", help="words that the page has to show first")
    parser.add_argument("--colours", type=int, default=192)
    given = parser.parse_args()
    written = take(
        given.page, given.out, given.width, given.height, given.scheme, given.search, given.until, given.colours
    )
    print(f"{written}: {written.stat().st_size // 1024} KB")
