from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from tests.datamodules.conftest import MakeData
from tide_lightning.datamodules import ActivationDataModule, Shard
from tide_lightning.datamodules.loader import ActivationLoader, Ahead
from tide_lightning.errors import UserError
from tide_lightning.tokens import TokenBatch

SITE = "transformer_blocks.0"
Batch = dict[str, TokenBatch]


def equal(these: Sequence[Batch], those: Sequence[Batch]) -> bool:
    return len(these) == len(those) and all(
        torch.equal(mine, theirs.tensors()[name])
        for this, that in zip(these, those, strict=True)
        for tokens, theirs in zip(this.values(), that.values(), strict=True)
        for name, mine in tokens.tensors().items()
    )


def saved(state: dict[str, Any]) -> dict[str, Any]:
    """Through a checkpoint as Lightning reads it."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


@pytest.mark.parametrize("source", ["noise", "denoise", "both"])
def test_resumes_exactly_in_the_middle_of_an_epoch(make_data: MakeData, source: str) -> None:
    loader = make_data(source=source).train_loader(Shard())
    epoch = iter(loader)
    for _ in range(3):
        next(epoch)
    state = saved(loader.state_dict())
    expected = [*epoch, *loader]  # the rest of this epoch and the next
    resumed = make_data(source=source).train_loader(Shard())
    resumed.load_state_dict(state)
    assert equal([*resumed, *resumed][: len(expected)], expected)


@pytest.mark.parametrize("source", ["noise", "both"])
def test_epochs_differ_and_runs_do_not(make_data: MakeData, source: str) -> None:
    loader = make_data(source=source).train_loader(Shard())
    once, again = list(loader), list(loader)
    assert not equal(once, again)
    other = make_data(source=source).train_loader(Shard())
    assert equal([*other, *other], once + again)
    assert not equal(list(make_data(source=source, seed=1).train_loader(Shard())), once)


def test_iterating_is_lazy(make_data: MakeData) -> None:
    """Lightning calls iter() once more than it uses."""
    loader = make_data(source="both").train_loader(Shard())
    iter(loader)
    iter(loader)
    assert loader.state_dict()["batches"] == 0
    assert loader.state_dict()["trajectories"] == {}


def test_other_draws_disturb_nothing(make_data: MakeData) -> None:
    data = make_data(source="both")
    loader = data.train_loader(Shard())
    batches = []
    for batch in loader:
        batches.append(batch)
        list(data.calibration_batches())
        list(data.validation_loader(Shard()))
        next(iter(data.test_loader(Shard())))
        data.denoiser.encode_prompts(["a cube"])
    assert equal(batches, list(make_data(source="both").train_loader(Shard())))


def test_batches_made_ahead_are_those_made_in_turn(make_data: MakeData, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a batch is made in a thread, others may use the denoiser and ask for the state."""
    found = {}
    for cores in (1, 64):
        monkeypatch.setattr("tide_lightning.cores.usable_cores", lambda cores=cores: cores)
        data = make_data()
        loader = data.train_loader(Shard())
        states, batches = [], []
        for batch in loader:
            states.append(loader.state_dict()["batches"])
            batches.append([batch, *data.validation_loader(Shard())])
        found[cores] = states, [part for parts in batches for part in parts]
    assert found[64][0] == found[1][0] == [1, 2, 3, 4, 5]
    assert equal(found[64][1], found[1][1])


def test_things_made_ahead_are_counted_and_a_failure_is_told_to_who_asks() -> None:
    waiting = [1, 2, 3]
    ahead = Ahead(lambda: waiting.pop(0), 2)
    assert ahead.settle() == 0
    assert ahead.next() == 1
    assert ahead.settle() == 2
    assert ahead.next() == 2
    assert ahead.settle() == 1
    assert ahead.next() == 3
    with pytest.raises(IndexError):
        ahead.next()
    ahead.forget()
    waiting += [4, 5]
    assert ahead.next() == 4
    assert ahead.settle() == 1


@pytest.mark.parametrize("source", ["noise", "denoise", "both"])
def test_batches_made_on_a_stream_are_those_made_in_turn(make_data: MakeData, source: str) -> None:
    """As on a GPU, by a stream of the CPU's; between batches, the training's stream uses the same caches."""
    streams = []

    def batches(data: ActivationDataModule, loader: ActivationLoader) -> Iterator[Any]:
        calls = data.noised_calls(8)
        for number, batch in enumerate(loader):
            yield batch
            yield {"state": loader.state_dict()["batches"], "x_t": calls(number).x_t}
            streams.append(torch.cpu.current_stream())

    data = make_data(source=source)
    beside = data.train_loader(Shard(), ahead=False)
    beside._stream = torch.cpu.Stream()
    found, data = list(batches(data, beside)), make_data(source=source)
    expected = list(batches(data, data.train_loader(Shard(), ahead=False)))
    assert equal(found[::2], expected[::2])
    assert [one["state"] for one in found[1::2]] == [one["state"] for one in expected[1::2]] == [1, 2, 3, 4, 5]
    assert all(torch.equal(one["x_t"], other["x_t"]) for one, other in zip(found[1::2], expected[1::2], strict=True))
    assert beside._stream not in streams  # the training goes on where it was


@pytest.mark.parametrize("source", ["noise", "denoise", "both"])
def test_calibration_made_ahead_is_that_made_in_turn(
    make_data: MakeData, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    found = {}
    for cores in (1, 64):
        monkeypatch.setattr("tide_lightning.cores.usable_cores", lambda cores=cores: cores)
        data = make_data(source=source)
        first = next(iter(data.calibration_batches()))  # who breaks off leaves nothing under way
        found[cores] = [first, *data.calibration_batches(), *data.train_loader(Shard())]
    assert equal(found[64][:1], found[64][1:2])
    assert equal(found[64], found[1])


def test_a_state_of_another_run_is_refused(make_data: MakeData) -> None:
    state = make_data(source="denoise").train_loader(Shard()).state_dict()
    with pytest.raises(UserError, match="made with samples_per_batch 8, not 4"):
        make_data(source="denoise", samples_per_batch=4).train_loader(Shard()).load_state_dict(state)
    with pytest.raises(UserError, match="made with num_inference_steps 4, not 6"):
        make_data(source="denoise", trajectories={"num_inference_steps": 6}).train_loader(Shard()).load_state_dict(
            state
        )
    with pytest.raises(UserError, match="made with source denoise, not noise"):
        make_data().train_loader(Shard()).load_state_dict(state)


def rows(batches: Sequence[Batch]) -> dict[tuple[int, float, int, int], torch.Tensor]:
    """Activations by what identifies a token: its sample, timestep and place."""
    found = {}
    for batch in batches:
        tokens = batch[SITE]
        for i in range(len(tokens)):
            row, col = tokens.position[i].tolist()
            found[int(tokens.sample[i]), float(tokens.raw_t[i]), row, col] = tokens.x[i]
    return found


@pytest.mark.parametrize("source", ["noise", "denoise", "both"])
def test_any_number_of_ranks_sees_the_same_tokens(make_data: MakeData, source: str) -> None:
    alone = rows(list(make_data(source=source).train_loader(Shard())))
    assert len(alone) == 5 * 8 * 4  # none twice
    for world in (2, 4):
        shares = [rows(list(make_data(source=source).train_loader(Shard(rank, world)))) for rank in range(world)]
        assert sum(len(share) for share in shares) == len(alone)
        together = {key: value for share in shares for key, value in share.items()}
        assert together.keys() == alone.keys()
        for key, x in alone.items():
            torch.testing.assert_close(together[key], x, atol=1e-4, rtol=1e-4)


def test_a_state_of_all_ranks_serves_another_number_of_them(make_data: MakeData) -> None:
    whole = make_data(source="denoise").train_loader(Shard())
    epoch = iter(whole)
    next(epoch)
    state = whole.state_dict()
    expected = rows([next(epoch)])
    halves = [make_data(source="denoise").train_loader(Shard(rank, 2)) for rank in range(2)]
    found: dict[tuple[int, float, int, int], torch.Tensor] = {}
    for half in halves:
        half.load_state_dict(state)
        found |= rows([next(iter(half))])
    assert found.keys() == expected.keys()
