"""What people write about an edit: latents, amounts, windows; and what can be told about it before an image is made."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from tide_lightning.diffusion import Denoiser
from tide_lightning.errors import UserError
from tide_lightning.intervene.edits import Edit, Halves, Operation
from tide_lightning.intervene.region import Region

_MOST_TIMES = 20  # of steps that a complaint lists
_LATENT = re.compile(r"(?P<site>.+)/(?P<latent>\d+)(?::(?P<operation>[a-z]+))?(?::(?P<amount>[-+.\de]+))?")


class Amount(NamedTuple):
    """How much, as it was written: "2", in the unit of edits' amounts, or "1.5x", in times of something."""

    value: float
    is_relative: bool

    def of(self, unit: float) -> float:
        """The amount, once it is known what is counted."""
        return self.value * unit if self.is_relative else self.value

    def __str__(self) -> str:
        return f"{self.value:.3g}{'x' * self.is_relative}"


def parse_amounts(name: str, text: str) -> list[Amount]:
    """Read "2,4" or "0.5x,1x"."""
    parts = [part.strip() for part in text.split(",")]
    is_relative = [part.endswith("x") for part in parts]
    numbers = parse_numbers(name, ",".join(part.removesuffix("x") for part in parts))
    return [Amount(*pair) for pair in zip(numbers, is_relative, strict=True)]


def parse_latents(
    text: str,
    operation: Operation,
    window: tuple[float, float],
    region: Region | Tensor | None,
    half: Halves,
) -> tuple[list[Edit], list[bool]]:
    """Read "SITE/LATENT[:OPERATION[:AMOUNT]]", several separated by commas; what is left out is as given besides.

    Also tells which of them bring an amount of their own; that of the others is 0, still to be set.
    """
    edits, brings_amount = [], []
    for part in parse_names(text):
        match = _LATENT.fullmatch(part)
        if match is None:
            raise UserError(
                f"latent {part!r}: write SITE/NUMBER, as in transformer_blocks.3/17, or with what is done to it,"
                " transformer_blocks.3/17:scale:2"
            )
        site, latent, does = match["site"], int(match["latent"]), match["operation"] or operation
        brings_amount.append(match["amount"] is not None)
        size = parse_numbers("amount", match["amount"])[0] if brings_amount[-1] else 0.0
        edits.append(Edit(site, latent, does, size, window, region, half))  # type: ignore[arg-type]
    if not edits:
        raise UserError("latent: name at least one, as in transformer_blocks.3/17")
    return edits, brings_amount


def parse_names(text: str) -> list[str]:
    """Names separated by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def parse_numbers(name: str, text: str, count: int | None = None) -> list[float]:
    """Finite numbers separated by commas."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(map(math.isfinite, numbers)) or (count is not None and len(numbers) != count):
        wanted = "numbers" if count is None else f"{count} numbers"
        raise UserError(f"{name} {text!r}: give {wanted} separated by commas")
    return numbers


def parse_window(text: str) -> tuple[float, float]:
    """Read "low,high"."""
    low, high = parse_numbers("window", text, 2)
    return low, high


def step_times(denoiser: Denoiser, num_inference_steps: int) -> Tensor:
    """The normalised time of each step of a schedule [S], falling from noise."""
    timesteps = denoiser.new_scheduler(num_inference_steps).timesteps.cpu()
    return denoiser.schedule.t(denoiser.raw_t(timesteps))


def check_windows(denoiser: Denoiser, edits: Sequence[Edit], num_inference_steps: int) -> None:
    """Refuse a window between two steps, and say where steps are."""
    times = step_times(denoiser, num_inference_steps)
    for edit in edits:
        low, high = edit.window
        if not bool(((times >= low) & (times <= high)).any()):
            near = (times - (low + high) / 2).abs().argsort()[:_MOST_TIMES].sort().values
            steps = ", ".join(f"{t:.4g}" for t in times[near].tolist())
            which = "which" if len(near) == len(times) else "whose nearest"
            raise UserError(f"window {low:g},{high:g} holds none of the {len(times)} steps, {which} are at t = {steps}")
