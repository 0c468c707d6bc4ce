"""CUDA graphs of training steps: how they are recorded, and where they are not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from tide_lightning.kernels import triton_kernels
from tide_lightning.saes import SAE
from tide_lightning.sharding import is_sharded

T = TypeVar("T")
_log = logging.getLogger(__name__)

MOST_WEIGHTS = 2**24
"""Of an SAE that is replayed: larger ones hardly wait for launches, and a recording holds their gradients once more."""

_BACKENDS = ("auto", "triton", "dense")  # none of them asks the device how large something is


class CudaGraphs:
    """Records what is done on one GPU.

    All recordings have the memory of one pool, for they run in turn; what they give is to be taken at once.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: Any = torch.cuda.Stream(device)
        self._pool: Any = torch.cuda.graph_pool_handle()
        self._first = self.record(lambda: torch.zeros(1, device=device))  # as long as one is kept, so is the pool

    def attempt(self, function: Callable[[], T]) -> T:
        """Call a function on the stream of the recordings; a RuntimeError where the host would wait in it."""
        before = torch.cuda.get_sync_debug_mode()
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        torch.cuda.set_sync_debug_mode("error")
        try:
            with torch.cuda.stream(self._stream):
                made = function()
        finally:
            torch.cuda.set_sync_debug_mode(before)
            current.wait_stream(self._stream)
        return made

    def record(self, function: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """Record a function.

        Not by `torch.cuda.graph`, which gives all unused memory back to the system each time. Errors are those of this
        thread: others may go on, as the one that autograd has.
        """
        graph = torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                made = function()
            finally:
                graph.capture_end()
        current.wait_stream(self._stream)
        return made, graph.replay


def graphs_of_fit(trainer: Trainer, device: torch.device) -> CudaGraphs | None:
    """What records the steps of a fit on a GPU; None, and a line about it, where something forbids that."""
    if reason := why_not_in_fit(trainer, device):
        rank_zero_only(_log.warning)("training steps are not replayed as CUDA graphs: %s", reason)
        return None
    return CudaGraphs(device)


def able_saes(saes: Mapping[str, SAE]) -> list[str]:
    """The keys of those whose steps can be replayed; a line says why others cannot."""
    why_not = {site: reason for site, sae in saes.items() if (reason := why_not_of_sae(sae))}
    if why_not:
        reasons = "; ".join(f"{site}: {reason}" for site, reason in why_not.items())
        _log.warning("training steps are not replayed as CUDA graphs where something forbids it: %s", reasons)
    return [site for site in saes if site not in why_not]


def why_not_in_fit(trainer: Trainer, device: torch.device) -> str | None:
    """What forbids to replay the steps of a fit on a GPU, as the end of a sentence; None where nothing does."""
    if trainer.world_size > 1:
        return "several processes add up their counts within a step"
    if trainer.accumulate_grad_batches != 1:
        return "gradients of several batches are accumulated"
    if getattr(trainer.precision_plugin, "scaler", None) is not None:
        return f"precision {trainer.precision} scales the loss; bf16-mixed does not"
    if torch.is_anomaly_enabled():
        return "the trainer's detect_anomaly looks at each gradient"
    if not triton_kernels.work_on(device):
        return "without Triton's kernels (a GPU from Ampere on, triton installed) the host has to wait within a step"
    return None


def is_small(sae: SAE) -> bool:
    """Whether launches are what its steps wait for."""
    return sum(parameter.numel() for parameter in sae.parameters()) <= MOST_WEIGHTS


def why_not_of_sae(sae: SAE) -> str | None:
    """What forbids it for an SAE of such a fit."""
    if not sae.has_fixed_sizes:
        return f"{type(sae).__name__}: how many latents are active is known by the GPU alone"
    if is_sharded(sae):
        return "its weights are spread over ranks"
    if sae.decode_backend not in _BACKENDS:
        return f"decode_backend {sae.decode_backend}: take one of {', '.join(_BACKENDS)}"
    if any(_is_watched(module) for module in sae.modules()):
        return "it has hooks, or is compiled"
    return None


def _is_watched(module: nn.Module) -> bool:
    """Whether calling it does more than its forward."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_compiled_call_impl")
    return any(getattr(module, name, None) for name in hooks)
