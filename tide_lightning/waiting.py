"""What is shown while something takes longer than a second: a live line in a terminal, whole lines elsewhere.

A log file and a notebook get a line after a second, then one every ten, each with the time that is left; what is done
within a second says nothing. All but `counting` goes to standard error: standard output is for what was asked.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")

FIRST_SECONDS = 1.0
"""Until the first line."""

EVERY_SECONDS = 10.0
"""Between two lines."""


def track(items: Iterable[Item], what: str, total: int | None = None, is_shown: bool = True) -> Iterator[Item]:
    """The items, while it is shown how many are done and how long the rest will take.

    Args:
        items: what is worked through.
        what: is done with them.
        total: how many there are, where they do not say so.
        is_shown: whether anything is shown, as on the first of several ranks.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    if not is_shown:
        yield from items
    else:
        with stepping(what, total) as step:
            for item in items:
                yield item
                step()


@contextmanager
def stepping(what: str, total: int | None) -> Iterator[Callable[..., None]]:
    """Show how much of it is done; what this gives is to be called after each step, with whatever it is called."""
    if (console := Console(stderr=True)).is_terminal:
        columns = TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(
            *columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False
        ) as progress:
            task = progress.add_task(what, total=total)
            yield lambda *_: progress.advance(task)
    else:
        yield _in_lines(what, total)


def _in_lines(what: str, total: int | None) -> Callable[..., None]:
    begun = time.monotonic()
    due, done = begun + FIRST_SECONDS, 0

    def step(*_: object) -> None:
        nonlocal due, done
        done, now = done + 1, time.monotonic()
        if now >= due:
            due = now + EVERY_SECONDS
            _say(f"{what}  {_so_far(done, total, now - begun)}")

    return step


def _so_far(done: int, total: int | None, seconds: float) -> str:
    if not total:
        return f"{done} in {clock(seconds)}"
    if done >= total:
        return f"{done}/{total} (100%) in {clock(seconds)}"
    return f"{done}/{total} ({done / total:.0%})  {time_left(seconds, done, total)} left"


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Say what is being done while it is done, if that takes longer than a second."""
    console = Console(stderr=True)
    if console.is_terminal and threading.current_thread() is threading.main_thread():
        with console.status(f"{what} …"):
            yield
        return
    timer = threading.Timer(FIRST_SECONDS, _say, [f"{what} …"])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def counting(what: str, total: int, every_seconds: float = EVERY_SECONDS) -> Callable[[int], None]:
    """To call, by any thread, with how much was done since; prints a line now and then, and the last."""
    begun = said = time.monotonic()
    done = 0
    lock = threading.Lock()

    def step(number: int) -> None:
        nonlocal done, said
        with lock:
            done += number
            now = time.monotonic()
            if now - said > every_seconds or done == total:
                said = now
                print(f"{what}: {done} of {total}, {time_left(now - begun, done, total)} left", flush=True)

    return step


def time_left(seconds: float, done: int, total: int) -> str:
    """What the rest will take, after so many seconds."""
    return clock(seconds / max(done, 1) * max(total - done, 0))


def clock(seconds: float) -> str:
    """Minutes and seconds, and hours where there are any."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
