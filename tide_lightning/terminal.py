"""Tables for the terminal; in a log file, which has no width, they get one."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def console(width: int = 120) -> Console:
    """Of the terminal's width, or of this one."""
    found = Console()
    return found if found.is_terminal else Console(width=width)


def print_table(target: Console, head: Sequence[str], rows: Sequence[Sequence[str]], note: str = "") -> None:
    """Print a table of plain text, its first column at the left; nothing where it has no rows."""
    if not rows:
        return
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(escape(head[0]), overflow="fold")
    for name in head[1:]:
        table.add_column(escape(name), justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row))
    target.print(table)
    if note:
        say(target, note)


def say(target: Console, text: str, head: str = "") -> None:
    """Print a line of plain text, behind a heading."""
    target.print(f"[bold]{escape(head)}[/bold]  {escape(text)}" if head else escape(text), soft_wrap=True)
