"""The clock that says which latents are dead."""

from __future__ import annotations

import torch

from tide_lightning.saes import SparseCode
from tide_lightning.training import FiringClock


def fired(*counts: int) -> torch.Tensor:
    return torch.tensor(counts)


def test_counts_tokens_since_the_last_firing() -> None:
    clock = FiringClock(3, dead_after_tokens=10)
    clock.tick(fired(1, 0, 4), num_tokens=6)
    clock.look(step=0)
    assert clock.since_fired.tolist() == [0, 6, 0]
    clock.tick(fired(0, 0, 1), num_tokens=4)
    clock.look(step=1)
    assert clock.since_fired.tolist() == [4, 10, 0]
    assert clock.dead().tolist() == [False, True, False]


def test_a_latent_selected_at_value_zero_has_not_fired() -> None:
    code = SparseCode(torch.tensor([[0.5, 0.0]]), torch.tensor([[1, 2]]), num_latents=3)
    clock = FiringClock(3, dead_after_tokens=1)
    clock.tick(code.fired(), num_tokens=1)
    clock.look(step=0)
    assert clock.dead().tolist() == [True, False, True]


def test_counters_do_not_stick_where_a_float_would() -> None:
    clock = FiringClock(1, dead_after_tokens=2**40)
    clock.since_fired.fill_(2**24)
    clock.tick(fired(0), num_tokens=1)
    clock.look(step=0)
    assert clock.since_fired.tolist() == [2**24 + 1]
    assert clock.bfloat16().since_fired.dtype == torch.int64


def test_looks_for_dead_latents_every_so_often_only() -> None:
    clock = FiringClock(2, dead_after_tokens=5, check_every=2)
    clock.tick(fired(1, 0), num_tokens=3)
    clock.look(step=0)
    assert clock.dead_latents() is None
    clock.tick(fired(1, 0), num_tokens=3)
    clock.look(step=1)
    assert clock.dead_latents() is None  # dead by now, but not looked at
    clock.tick(fired(1, 0), num_tokens=3)
    clock.look(step=2)
    dead = clock.dead_latents()
    assert dead is not None
    assert dead.tolist() == [1]


def test_a_copy_from_a_checkpoint_gives_the_same_answer() -> None:
    clock = FiringClock(2, dead_after_tokens=5, check_every=10)
    clock.tick(fired(1, 0), num_tokens=6)
    clock.look(step=0)
    copy = FiringClock(2, dead_after_tokens=5, check_every=10)
    copy.load_state_dict(clock.state_dict())
    dead = copy.dead_latents()
    assert dead is not None
    assert dead.tolist() == [1]


def test_reviving_starts_the_clock_anew() -> None:
    clock = FiringClock(3, dead_after_tokens=5)
    clock.tick(fired(0, 0, 0), num_tokens=7)
    clock.look(step=0)
    clock.revive(torch.tensor([0, 2]))
    assert clock.since_fired.tolist() == [0, 7, 0]
    assert clock.dead().tolist() == [False, True, False]
    dead = clock.dead_latents()
    assert dead is not None
    assert dead.tolist() == [1]
