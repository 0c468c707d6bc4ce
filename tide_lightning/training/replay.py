"""An SAE's training step recorded once and replayed while nothing changes that it was recorded for.

At small sizes a GPU waits for its host, which launches some hundred kernels a step; replaying a recording launches them
all at once (`CudaGraphs`). A recording knows addresses and sizes only, so tokens are copied to where it reads them, and
whatever else could change it is compared at each step. The first replay is held to the step itself, bit for bit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from tide_lightning.tokens import TokenBatch
from tide_lightning.training.learning import LearningStep

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Recorder(Protocol):
    """What records functions of tensors."""

    def attempt(self, function: Callable[[], T]) -> T:
        """Call a function as it would be recorded; a RuntimeError where it cannot be, as the host waits in it."""

    def record(self, function: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """Record a function without running it: what it gives, and what fills that by running it, again and again."""


class _Results(NamedTuple):
    """What a step gives: the loss, the tokens counted, and the parameters' gradients."""

    loss: Tensor
    counted: Tensor
    gradients: list[Tensor | None]


class _Recording(NamedTuple):
    """A recorded step: what it was recorded for, what it reads, how it is run, and what that fills."""

    signature: Hashable
    tokens: TokenBatch
    dead: Tensor | None
    run: Callable[[], None]
    results: _Results


class Replay:
    """Runs an SAE's training steps, by a recording from the third step of the same kind on."""

    def __init__(self, step: LearningStep, recorder: Recorder) -> None:
        self.step, self.recorder = step, recorder
        self.parameters = [parameter for parameter in step.sae.parameters() if parameter.requires_grad]
        self.num_replayed = 0
        self._recording: _Recording | None = None
        self._before: Hashable = None  # the signature of the last step
        self._refused: Hashable = None  # one that could not be recorded
        self._has_said_so = False

    def __call__(self, tokens: TokenBatch, dead: Tensor | None) -> tuple[Tensor, Tensor]:
        """The loss, from which gradients follow, and the tokens that were counted."""
        signature = self._signature(tokens, dead)
        before, self._before = self._before, signature
        recording = self._recording
        if recording is not None and recording.signature == signature:
            return self._replayed(recording, tokens, dead)
        if signature != before or signature == self._refused:
            return self.step(tokens, dead)
        self._recording = recording = None  # its memory is the next one's
        cached = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)  # what is cast within a recording has its memory
        try:
            expected = self.recorder.attempt(lambda: self._expected(tokens, dead))
            if not bool(expected.loss.isfinite()):
                return self.step(tokens, dead)
            recording = self._record(signature, tokens, dead)
        except RuntimeError as error:
            self._refuse(signature, str(error).partition("\n")[0])
            return self.step(tokens, dead)
        finally:
            torch.set_autocast_cache_enabled(cached)
        self._run(recording, tokens, dead)
        if _are_equal(recording.results, expected):
            self._recording = recording
        else:
            self._refuse(signature, "replayed it gave other bits than by itself, which it should not: please report it")
        results = expected._replace(counted=recording.results.counted.clone())
        return _with_gradients(results, self.parameters), results.counted

    def _expected(self, tokens: TokenBatch, dead: Tensor | None) -> _Results:
        """Of the step by itself, without its account."""
        loss = self.step.lose(tokens, dead)[0].total
        return _Results(loss.detach(), loss.detach(), self._gradients(loss))

    def _record(self, signature: Hashable, tokens: TokenBatch, dead: Tensor | None) -> _Recording:
        read, read_dead = tokens.each(torch.clone), None if dead is None else dead.clone()

        def step() -> _Results:
            loss, output = self.step.lose(read, read_dead)
            counted = self.step.account(read, loss, output)
            return _Results(loss.total.detach(), counted, self._gradients(loss.total))

        results, run = self.recorder.record(step)
        return _Recording(signature, read, read_dead, run, results)

    def _gradients(self, loss: Tensor) -> list[Tensor | None]:
        with torch.autocast(loss.device.type, enabled=False):  # as Lightning's own backward
            return list(torch.autograd.grad(loss, self.parameters, allow_unused=True))

    def _run(self, recording: _Recording, tokens: TokenBatch, dead: Tensor | None) -> None:
        given = tokens.tensors()
        for name, tensor in recording.tokens.tensors().items():
            tensor.copy_(given[name])
        if recording.dead is not None and dead is not None:
            recording.dead.copy_(dead)
        recording.run()

    def _replayed(self, recording: _Recording, tokens: TokenBatch, dead: Tensor | None) -> tuple[Tensor, Tensor]:
        self._run(recording, tokens, dead)
        self.num_replayed += 1
        # At once, for other SAEs' recordings have the same memory.
        loss, counted, gradients = recording.results
        kept = [None if gradient is None else gradient.clone() for gradient in gradients]
        results = _Results(loss.clone(), counted.clone(), kept)
        return _with_gradients(results, self.parameters), results.counted

    def _signature(self, tokens: TokenBatch, dead: Tensor | None) -> Hashable:
        """Whatever a recording would not notice."""
        kind = tokens.x.device.type
        return (
            tuple((name, tensor.shape, tensor.dtype) for name, tensor in tokens.tensors().items()),
            None if dead is None else len(dead),
            torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind),
            self.step.settings(),
            tuple((tensor.data_ptr(), tensor.requires_grad) for tensor in self.step.held()),
        )

    def _refuse(self, signature: Hashable, reason: str) -> None:
        self._refused = signature
        if not self._has_said_so:
            self._has_said_so = True
            _log.warning("the training steps of %s are not replayed as a CUDA graph: %s", self.step.site, reason)


class _Known(torch.autograd.Function):
    """A loss whose parameters' gradients are known already."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor | None], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        return None, None, *(None if known is None else known.mul_(grad) for known in gradients)


def _with_gradients(results: _Results, parameters: Sequence[Tensor]) -> Tensor:
    loss: Tensor = _Known.apply(results.loss, results.gradients, *parameters)  # type: ignore[no-untyped-call]
    return loss


def _are_equal(found: _Results, expected: _Results) -> bool:
    """Loss and gradients, to the last bit."""
    pairs = zip([found.loss, *found.gradients], [expected.loss, *expected.gradients], strict=True)
    return all(
        (one is None and other is None) or (one is not None and other is not None and torch.equal(one, other))
        for one, other in pairs
    )
