"""Every timestep bin gets its share, on long schedules and short ones, whatever the number of ranks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.datamodules.conftest import MakeData
from tide_lightning.datamodules import Shard

SITE = "transformer_blocks.0"


@pytest.mark.parametrize(("num_steps", "world"), [(4, 1), (4, 4), (50, 1), (50, 2)])
def test_every_timestep_of_a_schedule_comes_equally_often(make_data: MakeData, num_steps: int, world: int) -> None:
    """Over as many batches as the schedule has steps, and as evenly as the slots allow in each single batch."""
    seen: list[list[float]] = [[] for _ in range(num_steps)]
    for rank in range(world):
        data = make_data(source="denoise", trajectories={"num_inference_steps": num_steps}, batches_per_epoch=num_steps)
        loader = data.train_loader(Shard(rank, world))
        for times, batch in zip(seen, loader, strict=True):
            times += batch[SITE].raw_t.view(-1, 4)[:, 0].tolist()
    schedule = data.denoiser.new_scheduler(num_steps).timesteps.float()
    assert len(schedule) == num_steps
    for times in seen:
        counts = torch.tensor([[t == step for step in schedule.tolist()] for t in times]).sum(0)
        shares = torch.stack([part.sum() for part in counts.tensor_split(min(num_steps, 8))])
        # Eight slots over four steps: two each. Over fifty: six or seven steps apart, so none to two in an eighth.
        assert (shares == 2).all() if num_steps == 4 else (shares <= 2).all()
        assert counts.sum() == 8
    together = torch.tensor([t for times in seen for t in times])
    assert [int((together == step).sum()) for step in schedule] == [8] * num_steps


@pytest.mark.parametrize("num_steps", [4, 50])
def test_bins_of_both_sources(make_data: MakeData, num_steps: int) -> None:
    """Ten bins of t over a run: the noise source fills each equally, trajectories as their schedule does."""
    data = make_data(source="both", trajectories={"num_inference_steps": num_steps}, batches_per_epoch=50)
    t, source = (
        torch.cat([getattr(batch[SITE], name) for batch in data.train_loader(Shard())]) for name in ("t", "source")
    )
    bins = (t * 10).clamp(max=9.99).floor().long()
    noised = bins[source == 0].bincount(minlength=10) / (source == 0).sum()
    assert (noised - 0.1).abs().max() < 0.03
    schedule = data.denoiser.schedule.t(data.denoiser.new_scheduler(num_steps).timesteps.float())
    expected = (schedule * 10).clamp(max=9.99).floor().long().bincount(minlength=10) / num_steps
    walked = bins[source == 1].bincount(minlength=10) / (source == 1).sum()
    torch.testing.assert_close(walked, expected, atol=0.02, rtol=0)


def test_the_numbers_behind_the_sensitivity_belong_to_samples(make_data: MakeData) -> None:
    """However many ranks, a sample meets the same random direction of the prediction."""
    whole: dict[int, Tensor] = {}
    split: dict[int, Tensor] = {}
    for found, shards in ((whole, [Shard()]), (split, [Shard(rank, 2) for rank in range(2)])):
        for shard in shards:
            for call, v in make_data()._feed(shard).calibration_calls(20):
                assert not found.keys() & set(call.sample.tolist())
                found.update(zip(call.sample.tolist(), v, strict=True))
    assert len(whole) == 24
    assert whole.keys() == split.keys()
    assert all(torch.equal(whole[sample], split[sample]) for sample in whole)
    assert len({float(v.sum()) for v in whole.values()}) == 24
