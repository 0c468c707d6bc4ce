"""What a scheduler remembers along a trajectory, taken apart by sample to be saved and regrouped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class _Table:
    """Stands for a value that `set_timesteps` makes anew."""


def split_state(scheduler: Any, num_rows: int, num_axes: int) -> list[dict[str, Any]]:
    """One dictionary per sample: its rows of the multistep history, and the counters that all share.

    Args:
        scheduler: in the middle of a trajectory of `num_rows` samples.
        num_rows: N.
        num_axes: axes of the batch of latents [N, C, H, W]; that is how a history is told from a table.
    """
    states = []
    for row in range(num_rows):
        named = {
            name: _row(value, row, num_axes) for name, value in vars(scheduler).items() if name != "_internal_dict"
        }
        states.append({name: value for name, value in named.items() if not isinstance(value, _Table)})
    return states


def join_states(scheduler: Any, states: Sequence[dict[str, Any]], device: torch.device) -> None:
    """Give a fresh scheduler, after `set_timesteps`, the memory of the samples in `states`."""
    for name in states[0]:
        setattr(scheduler, name, _joined([state[name] for state in states], device))


def _row(value: Any, row: int, num_axes: int) -> Any:
    if isinstance(value, Tensor):
        if value.ndim == num_axes:
            return value[row].cpu().clone()
        return value.cpu() if value.ndim == 0 else _Table()
    if isinstance(value, list):
        items = [_row(item, row, num_axes) for item in value]
        return _Table() if any(isinstance(item, _Table) for item in items) else items
    return value if value is None or isinstance(value, bool | int | float | str) else _Table()


def _joined(values: list[Any], device: torch.device) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        return torch.stack(values).to(device) if first.ndim > 0 else first
    if isinstance(first, list):
        return [_joined([value[place] for value in values], device) for place in range(len(first))]
    return first
