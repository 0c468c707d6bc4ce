"""HTML pages that need no other file: sections of tables and plots, everything escaped and inlined."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from tide_lightning.evaluation.sections import Plot, Table

_CSS = """
:root { --ink: #1f2933; --soft: #616e7c; --line: #d9dee4; --paper: #ffffff; --back: #f3f5f7; --accent: #c2255c; }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body { margin: 0; background: var(--back); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; margin: .5rem 0 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 0 0 .5rem; }
p { margin: .3rem 0; } .soft { color: var(--soft); font-size: .9rem; } ul { margin: .3rem 0; }
nav { display: flex; flex-wrap: wrap; gap: .3rem .9rem; margin: .6rem 0; font-size: .9rem; }
nav a { color: var(--accent); text-decoration: none; } nav a:hover { text-decoration: underline; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 8px; padding: 1rem; margin: 1rem 0; }
.wide { overflow-x: auto; margin: .4rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--paper); }
thead th { color: var(--soft); font-weight: 600; vertical-align: bottom; white-space: normal; max-width: 9rem; }
td b { color: var(--accent); }
.wide > img { min-width: 36rem; }
figure { margin: 0 0 1.2rem; } figcaption { color: var(--soft); font-size: .9rem; }
img { max-width: 100%; height: auto; display: block; }
.fault { border-left: 5px solid var(--accent); }
.strip { min-width: var(--width); max-width: calc(2 * var(--width)); }
.strip img { width: 100%; image-rendering: pixelated; }
.names { display: grid; grid-auto-columns: 1fr; grid-auto-flow: column; font-size: .75rem; color: var(--soft); }
.names span { overflow-wrap: anywhere; padding-right: .3rem; }
pre { overflow-x: auto; font-size: .8rem; background: var(--back); padding: .8rem; border-radius: 6px; }
summary { cursor: pointer; }
@media (max-width: 40rem) {
  main { padding: .5rem; } section { padding: .7rem; }
  th:first-child, td:first-child { max-width: 9.5rem; overflow-wrap: break-word; white-space: normal; }
}
"""


class Block(NamedTuple):
    """A titled part of a page.

    Fields:
        title: plain text.
        body: HTML; where it is empty, there is no block.
        is_warning: whether it is marked.
    """

    title: str
    body: str
    is_warning: bool = False


def html_page(title: str, subtitle: str, blocks: Sequence[Block]) -> str:
    """The whole page, with links to its blocks."""
    shown = [block for block in blocks if block.body]
    links = "".join(f'<a href="#{_anchor(block.title)}">{escape(block.title.split(":")[0])}</a>' for block in shown)
    body = "".join(
        f'<section id="{_anchor(block.title)}"{" class=fault" * block.is_warning}>'
        f"<h2>{escape(block.title)}</h2>{block.body}</section>"
        for block in shown
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{_CSS}</style></head>
<body><main><h1>{escape(title)}</h1>
<p class="soft">{escape(subtitle)}</p>
<nav>{links}</nav>
{body}
</main></body></html>
"""


def html_part(part: Table | Plot) -> str:
    """A table or a plot, which scrolls where the window is narrow; nothing of a table without rows."""
    if isinstance(part, Plot):
        caption = escape(part.caption)
        image = f'<div class="wide"><img alt="{caption}" src="{data_uri(part.png)}"></div>'
        return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
    if not part.rows:
        return ""
    names = "".join(f"<th>{escape(cell)}</th>" for cell in part.head)
    lines = "".join(
        f"<tr><td>{breakable(row[0])}</td>" + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in part.rows
    )
    table = f'<div class="wide"><table><thead><tr>{names}</tr></thead><tbody>{lines}</tbody></table></div>'
    return table + (f'<p class="soft">{escape(part.note)}</p>' if part.note else "")


def html_list(lines: Sequence[str]) -> str:
    """Plain sentences below each other; nothing where there are none."""
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""


def breakable(name: str) -> str:
    """A dotted name, which may be broken after its dots and underscores."""
    return re.sub(r"([._])(?=\w)", r"\1<wbr>", escape(name))


def data_uri(png: bytes) -> str:
    """An image as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.split(":")[0].lower()).strip("-")
