"""Streams that share what is kept on a device, by those of the CPU: they queue nothing, but say who waits for whom."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tide_lightning.diffusion.conditioning import Conditioning, PromptCache
from tide_lightning.diffusion.streams import StreamOrder, sent

CPU = torch.device("cpu")


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """(who waited, what for) in order; an event is known by the stream that it was recorded on."""
    seen: list[tuple[Any, Any]] = []
    recorded: dict[int, Any] = {}
    monkeypatch.setattr(torch.cpu.Event, "record", lambda event, stream: recorded.update({id(event): stream}))
    monkeypatch.setattr(torch.cpu.Event, "wait", lambda event, stream: seen.append((stream, recorded[id(event)])))
    return seen


def on(stream: Any, use: Callable[[], Any]) -> None:
    with torch.cpu.stream(stream):
        use()


def test_another_stream_waits_for_the_last_user(waits: list[tuple[Any, Any]]) -> None:
    order, first, second = StreamOrder(), torch.cpu.Stream(), torch.cpu.Stream()

    def use() -> None:
        with order(CPU):
            pass

    for stream in (first, first, second, second, first):
        on(stream, use)
    assert waits == [(second, first), (first, second)]
    with order(torch.device("meta")):  # nothing is kept there
        pass


def test_prompts_are_read_after_whoever_embedded_them(waits: list[tuple[Any, Any]]) -> None:
    cache = PromptCache(lambda prompt: Conditioning(torch.full((1, 2, 3), float(len(prompt)))))
    harvest, training = torch.cpu.Stream(), torch.cpu.Stream()
    on(harvest, lambda: cache(["a ball", "a cube"], CPU))
    on(training, lambda: cache(["a cube"], CPU))
    on(training, lambda: cache(["a cone"], CPU))
    on(harvest, lambda: cache(["a cone"], CPU))
    assert waits == [(training, harvest), (harvest, training)]


def test_what_is_sent_is_the_same() -> None:
    value = torch.arange(6).view(2, 3).t()
    assert torch.equal(sent(value, CPU), value)
    assert sent(value, torch.device("meta")).shape == value.shape
