"""HTML pages that need no other file: sections of tables and plots, everything escaped and inlined."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

from tide_lightning.evaluation.sections import Plot, Table
from tide_lightning.pages import REPORT_STYLE, STYLESHEET


class Block(NamedTuple):
    """A titled part of a page; where its body, HTML, is empty, there is no block."""

    title: str
    body: str
    is_warning: bool = False


def html_page(title: str, subtitle: str, blocks: Sequence[Block]) -> str:
    """The whole page, with links to its blocks."""
    shown = [block for block in blocks if block.body]
    links = "".join(f'<a href="#{_anchor(block.title)}">{escape(block.title.split(":")[0])}</a>' for block in shown)
    body = "".join(
        f'<section id="{_anchor(block.title)}" class="sheet{" fault" * block.is_warning}">'
        f"<h2>{escape(block.title)}</h2>{block.body}</section>"
        for block in shown
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">
<title>{escape(title)}</title><style>{STYLESHEET}{REPORT_STYLE}</style></head>
<body><a class="skip" href="#top">Skip to the report</a>
<header><h1>{escape(title)}</h1>
<p>{escape(subtitle)}</p>
<nav aria-label="Parts of the page">{links}</nav></header>
<main id="top" tabindex="-1">{body}</main></body></html>
"""


def html_part(part: Table | Plot) -> str:
    """A table or a plot, which scrolls where the window is narrow; nothing of a table without rows."""
    if isinstance(part, Plot):
        caption = escape(part.caption)
        image = _scrolled(f'<img alt="{caption}" src="{data_uri(part.png)}">', part.name.replace("_", " "), "wide plot")
        title = f"<h3>{escape(part.title)}</h3>" if part.title else ""
        return f"<figure>{title}{image}<figcaption>{caption}</figcaption></figure>"
    if not part.rows:
        return ""
    columns = [name.replace("\n", " ") for name in part.head]
    names = "".join(f'<th scope="col" role="columnheader">{escape(cell)}</th>' for cell in part.head)
    lines = "".join(
        f'<tr role="row"><th scope="row" role="rowheader">{breakable(row[0])}</th>'
        + "".join(
            f'<td role="cell" data-column="{escape(name)}">{escape(cell)}</td>'
            for name, cell in zip(columns[1:], row[1:], strict=True)
        )
        + "</tr>"
        for row in part.rows
    )
    head = f'<thead role="rowgroup"><tr role="row">{names}</tr></thead>'
    table = f'<table role="table">{head}<tbody role="rowgroup">{lines}</tbody></table>'
    said = {name.replace("\n", " "): words for name, words in part.columns.items() if name in part.head[1:]}
    terms = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(words)}.</dd></div>" for name, words in said.items())
    return (
        _scrolled(table, columns[0])
        + (f'<p class="faint">{escape(part.note)}</p>' if part.note else "")
        + (f'<dl class="columns">{terms}</dl>' if terms else "")
    )


def _scrolled(content: str, name: str, kind: str = "wide") -> str:
    """What may be wider than the window, and is then scrolled by itself; by keyboard as well."""
    return f'<div class="{kind}" role="region" tabindex="0" aria-label="{escape(name)}">{content}</div>'


def html_lines(lines: Sequence[str]) -> str:
    """Plain sentences, a paragraph each, the first one larger."""
    return f'<div class="lead">{"".join(f"<p>{escape(line)}</p>" for line in lines)}</div>' if lines else ""


def html_commands(commands: Mapping[str, str]) -> str:
    """Commands to copy, each below what it does."""
    return "".join(
        f'<p class="hint">{escape(does)}</p><code class="command">{escape(command)}</code>'
        for command, does in commands.items()
    )


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
