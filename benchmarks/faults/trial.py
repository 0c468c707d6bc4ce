"""One fault that was tried, and commands run in processes that may be killed."""

from __future__ import annotations

import os
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

Outcome = Literal["survived", "refused", "traceback", "wrong"]

OUTCOMES: dict[Outcome, str] = {
    "survived": "survived",
    "refused": "clean refusal",
    "traceback": "traceback",
    "wrong": "silently wrong",
}
"""What can come of a fault, as the table heads it; the last two must not be."""


class Trial(NamedTuple):
    """A fault that was tried: what came of it, what was done, and its sort for a count.

    Where the outcome is bad, `what` also says what is to be seen of it.
    """

    outcome: Outcome
    what: str
    sort: str = ""


class Ended(NamedTuple):
    """How a process ended: exit code (or minus the signal), what it wrote to standard error, how long it ran."""

    code: int
    errors: str
    seconds: float

    @property
    def lines(self) -> list[str]:
        """What `tide` itself had to say."""
        return [line for line in self.errors.splitlines() if line.startswith("tide: ")]

    @property
    def last_words(self) -> str:
        """The end of what it wrote."""
        lines = [line for line in self.errors.splitlines() if line.strip()]
        return " ".join(lines[-1].split())[:300] if lines else "nothing was said"


class Child:
    """`tide` in a process of its own: forked, so that libraries need not be imported again.

    Args:
        args: its command line.
        folder: where it works, which is made; what it says goes into files there.
        before: called in the process before the command.
        environment: variables added to this process's.
        command: what is called in place of `tide`.
    """

    def __init__(
        self,
        args: Sequence[str],
        folder: Path,
        before: Callable[[], None] | None = None,
        environment: Mapping[str, str] | None = None,
        command: Callable[[list[str]], int] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._errors = folder / f"errors-{len(list(folder.glob('errors-*')))}"
        self._errors.touch()
        self.began = time.monotonic()
        self._ended: Ended | None = None
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.chdir(folder)
                with self._errors.open("wb") as errors, Path("out").open("ab") as out:
                    os.dup2(out.fileno(), 1)
                    os.dup2(errors.fileno(), 2)
                os.environ.update(environment or {})
                if before is not None:
                    before()
                code = (command or tide)(list(args))
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)

    def wait(self, seconds: float = 300.0) -> Ended:
        """How it ended; what takes longer is killed, and that is an error."""
        until = time.monotonic() + seconds
        while self._ended is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._end(status)
            elif time.monotonic() > until:
                self.signal(signal.SIGKILL)
                self._end(os.waitpid(self.pid, 0)[1], f"Traceback: it did not end within {seconds:.0f} s")
            else:
                time.sleep(0.005)
        return self._ended

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self._ended is None:
            os.kill(self.pid, number)

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        if self._ended is None and (found := os.waitpid(self.pid, os.WNOHANG))[0]:
            self._end(found[1])
        return self._ended is None

    def _end(self, status: int, more: str = "") -> None:
        errors = self._errors.read_text("utf-8", "replace") + more
        self._ended = Ended(os.waitstatus_to_exitcode(status), errors, time.monotonic() - self.began)


def run(args: Sequence[str], folder: Path, before: Callable[[], None] | None = None) -> Ended:
    """A command from its beginning to its end."""
    return Child(args, folder, before).wait()


def judged(ended: Ended, what: str) -> Trial:
    """What came of a command: success, one clear line, or something that nobody should see."""
    if "Traceback" in ended.errors or ended.code not in (0, 2, 128 + signal.SIGTERM):
        return Trial("traceback", f"{what}: exit code {ended.code}, {ended.last_words}")
    if ended.code == 0:
        return Trial("survived", what)
    if sum(line.startswith(("tide: error:", "tide: stopped")) for line in ended.lines) != 1:
        return Trial("traceback", f"{what}: exit code {ended.code} without one line, but {ended.last_words}")
    return Trial("refused", what)


def limit_memory() -> None:
    """No more than 8 GB, of this process, which tries one kind of fault and no more."""
    resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))


def in_a_line(error: BaseException) -> str:
    """An error for the table's notes."""
    return re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")[:300]


def tide(args: list[str]) -> int:
    """The command, as its console script calls it."""
    import torch

    from tide_lightning.cli import main

    code = main(args)
    if code == 0 and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return code
