"""How far a run is, in a terminal and in a log file."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from tide_lightning.training import steps_of_fit
from tide_lightning.waiting import clock

_WINDOW_SECONDS = 30.0  # speed and time left are those of the last half minute


class ShowProgress(ProgressBar):
    """Shows step, tokens a second, loss, explained variance, dead latents and the time left; Lightning's bar goes.

    In a terminal this is one live line. Elsewhere, as in a log file, a line is printed every so often.

    Args:
        every_seconds: between two lines where output is not a terminal.
    """

    def __init__(self, every_seconds: float = 10.0) -> None:
        super().__init__()
        self.every_seconds = every_seconds
        self._is_enabled = True
        self._console = Console()
        self._live: Progress | None = None
        self._task: TaskID | None = None
        self._printed_at = 0.0
        self._total: int | None = None
        self._tokens = 0
        self._seen: deque[tuple[float, int, int]] = deque()  # time, step, tokens

    def __getstate__(self) -> dict[str, Any]:
        """A console holds locks that cannot travel to spawned processes; theirs is made anew."""
        return {**self.__dict__, "_console": None, "_live": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _console=Console())

    def disable(self) -> None:
        """Show nothing, as on all ranks but the first."""
        self._is_enabled = False

    def enable(self) -> None:
        """Show again."""
        self._is_enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the live line."""
        if self._is_enabled:
            print(*args, **kwargs)  # rich redirects stdout while the line is live

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin, or go on where a resumed run is."""
        self._tokens = 0
        self._seen.clear()
        self._seen.append((time.monotonic(), trainer.global_step, 0))
        self._begin(steps_of_fit(trainer), trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """One step further."""
        self._tokens += len(next(iter(batch.values()))) * trainer.world_size
        self._remember(trainer.global_step)
        self._advance("fit", trainer.global_step, lambda: self._figures(trainer))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last line of a fit is always printed."""
        self._end("fit", trainer.global_step, self._figures(trainer))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What the held-out tokens say."""
        figure = trainer.callback_metrics.get("val/explained_variance")
        if self._is_enabled and not trainer.sanity_checking and figure is not None:
            step = f"step {trainer.global_step}  " if trainer.state.fn == TrainerFn.FITTING else ""
            self.print(f"validate  {step}explained variance {float(figure):.4f}", flush=True)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin counting batches."""
        self._begin_batches(sum(trainer.num_test_batches))

    def on_test_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """One batch further."""
        self._advance_batches("test", trainer.test_loop.batch_progress.total.ready)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Done."""
        self._end("test", trainer.test_loop.batch_progress.total.ready, "")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin counting batches."""
        self._begin_batches(sum(trainer.num_predict_batches))

    def on_predict_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """One batch further."""
        self._advance_batches("predict", trainer.predict_loop.batch_progress.total.ready)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Done."""
        self._end("predict", trainer.predict_loop.batch_progress.total.ready, "")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the terminal back."""
        self._stop_live()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the terminal back."""
        self._stop_live()

    def _begin_batches(self, total: int | float) -> None:
        self._seen.clear()
        self._begin(total, 0)

    def _advance_batches(self, what: str, done: int) -> None:
        self._remember(done)
        self._advance(what, done, self._time_left)

    def _remember(self, done: int) -> None:
        now = time.monotonic()
        self._seen.append((now, done, self._tokens))
        while now - self._seen[0][0] > _WINDOW_SECONDS and len(self._seen) > 2:
            self._seen.popleft()

    def _time_left(self) -> str:
        """At the speed of late; nothing before there is one."""
        (then, done_then, _), (now, done, _) = self._seen[0], self._seen[-1]
        if not self._total or done <= done_then:
            return ""
        return f"{clock((self._total - done) * (now - then) / (done - done_then))} left"

    def _figures(self, trainer: Trainer) -> str:
        """Speed, losses and time left in one line; what is not known yet is left out."""
        (then, step_then, tokens_then), (now, step, tokens) = self._seen[0], self._seen[-1]
        parts = []
        if step > step_then:
            parts.append(f"{_thousands((tokens - tokens_then) / (now - then))} tokens/s")
        logged = {name: float(value) for name, value in trainer.logged_metrics.items()}
        if "train/loss" in logged:
            parts.append(f"loss {logged['train/loss']:.4f}")
        for label, name, form in (("EV", "explained_variance", ".4f"), ("dead", "dead_fraction", ".1%")):
            values = [v for key, v in logged.items() if key.startswith("train/") and key.endswith(f"/{name}")]
            if values:
                parts.append(f"{label} {sum(values) / len(values):{form}}")
        return "  ".join([*parts, self._time_left()]).rstrip()

    def _begin(self, total: int | float, done: int) -> None:
        self._total = int(total) if 0 < total < float("inf") else None
        self._printed_at = time.monotonic()
        if not self._is_enabled or not self._console.is_terminal:
            return
        self._stop_live()
        what, figures = TextColumn("{task.description}"), TextColumn("{task.fields[figures]}")
        columns = (what, BarColumn(24), MofNCompleteColumn(), figures)
        self._live = Progress(*columns, console=self._console, refresh_per_second=4)
        self._task = self._live.add_task("", total=self._total, completed=done, figures="")
        self._live.start()

    def _advance(self, what: str, done: int, figures: Callable[[], str]) -> None:
        if not self._is_enabled:
            return
        now = time.monotonic()
        if self._live is not None and self._task is not None:
            if now - self._printed_at >= 0.25:
                self._printed_at = now
                self._live.update(self._task, description=what, completed=done, figures=figures())
        elif now - self._printed_at >= self.every_seconds:
            self._printed_at = now
            self._print_line(what, done, figures())

    def _end(self, what: str, done: int, figures: str) -> None:
        if self._live is not None and self._task is not None:
            self._live.update(self._task, description=what, completed=done, figures=figures)
            self._stop_live()
        elif self._is_enabled:
            self._print_line(what, done, figures)

    def _print_line(self, what: str, done: int, figures: str) -> None:
        of = f"/{self._total} ({done / self._total:.0%})" if self._total else ""
        unit = "step" if what == "fit" else "batch"
        print(f"{what}  {unit} {done}{of}  {figures}".rstrip(), file=sys.stdout, flush=True)

    def _stop_live(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = self._task = None


def _thousands(number: float) -> str:
    return f"{number:.0f}" if number < 1000 else f"{number / 1000:.1f}k" if number < 1e6 else f"{number / 1e6:.2f}M"
