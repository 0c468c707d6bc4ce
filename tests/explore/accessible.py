"""What every page has to fulfil, asked of the page as a browser shows it."""

from __future__ import annotations

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

_PHONE, _DESK = 390, 1280
_OPTIONS = {"resultTypes": ["violations"], "preload": False}  # a page of the file system may fetch nothing


def assert_accessible(page: Page) -> None:
    """No serious finding of axe-core in either scheme, and nothing wider than a phone's or a desk's window."""
    for width in (_PHONE, _DESK):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found = Axe().run(page, options=_OPTIONS).response["violations"]
        serious = [one for one in found if one["impact"] in ("serious", "critical")]
        assert not serious, [(one["id"], [node["html"][:200] for node in one["nodes"]][:3]) for one in serious]
