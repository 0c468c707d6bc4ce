"""Things done side by side: at once where a core is to spare, with the caller's settings and the same results."""

from __future__ import annotations

import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tide_lightning.threads import filtering_warnings, side_by_side

CPU = torch.device("cpu")


def with_cores(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    monkeypatch.setattr("tide_lightning.cores.usable_cores", lambda: cores)


def test_two_run_at_once_and_results_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    with_cores(monkeypatch, 64)
    barrier = threading.Barrier(2, timeout=60)  # nobody gets over it alone
    here = threading.current_thread()

    def run(number: int) -> int:
        barrier.wait()
        assert threading.current_thread() is not here
        return 2 * number

    assert side_by_side(run, range(4), CPU) == [0, 2, 4, 6]


@pytest.mark.parametrize(("cores", "ranks", "items"), [(1, 1, 2), (64, 2, 2), (64, 1, 1)])
def test_one_core_several_ranks_or_one_thing_need_no_thread(
    cores: int, ranks: int, items: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_cores(monkeypatch, cores)
    monkeypatch.setattr("tide_lightning.threads.is_distributed", lambda: ranks > 1)
    assert side_by_side(lambda _: threading.current_thread(), range(items), CPU) == [threading.current_thread()] * items
    assert side_by_side(str, [], CPU) == []


@pytest.mark.parametrize("cores", [1, 64])
def test_settings_are_the_callers(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with_cores(monkeypatch, cores)
    ones = torch.ones(2, 2)

    def settings(_: int) -> tuple[bool, bool, torch.dtype]:
        return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), (ones @ ones).dtype

    assert side_by_side(settings, range(2), CPU) == [(True, False, torch.float32)] * 2
    with torch.no_grad():
        assert side_by_side(settings, range(2), CPU) == [(False, False, torch.float32)] * 2
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert side_by_side(settings, range(2), CPU) == [(False, True, torch.bfloat16)] * 2


@pytest.mark.parametrize("cores", [1, 64])
def test_what_fails_is_told_when_nothing_runs_any_more(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with_cores(monkeypatch, cores)
    before = threading.active_count()

    def run(number: int) -> int:
        if number == 1:
            raise ValueError("no such item")
        return number

    with pytest.raises(ValueError, match="no such item"):
        side_by_side(run, range(5), CPU)
    assert threading.active_count() == before


def test_filters_of_warnings_are_as_before_whichever_thread_leaves_first() -> None:
    before = list(warnings.filters)

    def filter_some(_: int) -> None:
        for _ in range(200):
            with filtering_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                time.sleep(1e-5)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(filter_some, range(4)))
    assert list(warnings.filters) == before
