"""Does a built page ask anything of another machine? `python -m tools.documentation.outside SITE` names what does."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "link": "href"}
HARMLESS = {"canonical", "next", "prev", "alternate"}


class _Loaded(HTMLParser):
    """Collects the addresses that a browser fetches by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in LOADED and not set((values.get("rel") or "").split()) & HARMLESS:
            self.addresses.append(values.get(LOADED[tag]) or "")


def outside_requests(site: Path) -> list[str]:
    """Pages and style sheets that fetch something from elsewhere, each with the address."""
    found = []
    for path in sorted([*site.rglob("*.html"), *site.rglob("*.css")]):
        text = path.read_text()
        if path.suffix == ".html":
            parser = _Loaded()
            parser.feed(text)
            addresses = parser.addresses
        else:
            addresses = re.findall(r"url\(['\"]?([^'\")]+)", text) + re.findall(r"@import\s+['\"]([^'\"]+)", text)
        found += [f"{path.relative_to(site)}: {address}" for address in addresses if re.match(r"(https?:)?//", address)]
    return found


if __name__ == "__main__":
    requests = outside_requests(Path(sys.argv[1]))
    print("\n".join(requests) or "no page asks anything of another machine")
    sys.exit(1 if requests else 0)
