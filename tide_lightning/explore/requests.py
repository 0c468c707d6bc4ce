"""What people write about an edit: latents, amounts, windows; and what can be told about it before an image is made."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from torch import Tensor

from tide_lightning.diffusion import Denoiser
from tide_lightning.errors import UserError
from tide_lightning.intervene.edits import Edit, Halves, Operation
from tide_lightning.intervene.region import Region

_LATENT = re.compile(r"(?P<site>.+)/(?P<latent>\d+)(?::(?P<operation>[a-z]+))?(?::(?P<amount>[-+.\de]+))?")


def parse_latents(
    text: str,
    operation: Operation,
    amount: float,
    window: tuple[float, float],
    region: Region | Tensor | None,
    half: Halves,
) -> list[Edit]:
    """Read "SITE/LATENT[:OPERATION[:AMOUNT]]", several separated by commas; what is left out is as given besides."""
    edits = []
    for part in filter(None, map(str.strip, text.split(","))):
        match = _LATENT.fullmatch(part)
        if match is None:
            raise UserError(
                f"latent {part!r}: write SITE/NUMBER, as in transformer_blocks.3/17, or with what is done to it,"
                " transformer_blocks.3/17:scale:2"
            )
        own = match["operation"] or operation, operation_amount(match["amount"], amount)
        edits.append(Edit(match["site"], int(match["latent"]), *own, window, region, half))  # type: ignore[arg-type]
    if not edits:
        raise UserError("latent: name at least one, as in transformer_blocks.3/17")
    return edits


def operation_amount(text: str | None, default: float) -> float:
    """An edit's own amount, or the common one."""
    return default if text is None else parse_numbers("amount", text)[0]


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
            steps = ", ".join(f"{t:.3g}" for t in times.tolist())
            raise UserError(f"window {low:g},{high:g} holds none of the {len(times)} steps, which are at t = {steps}")
