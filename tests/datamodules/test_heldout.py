from __future__ import annotations

import pytest
import torch

from tests.datamodules.conftest import PROMPTS, MakeData, Patches
from tide_lightning.datamodules import Shard
from tide_lightning.tokens import Source, TokenBatch

SITE = "transformer_blocks.0"


def test_validation_is_fixed(make_data: MakeData) -> None:
    loader = make_data(source="both").validation_loader(Shard())
    once, again = list(loader), list(loader)
    assert len(loader) == len(once) == 2 + 4  # 16 noised samples in two batches, four steps of four trajectories
    for this, that in zip(once, again, strict=True):
        assert all(torch.equal(value, that[SITE].tensors()[name]) for name, value in this[SITE].tensors().items())
    assert sum(len(batch[SITE]) for batch in once if batch[SITE].source[0] == Source.NOISE) == 16 * 4
    walked = [batch[SITE] for batch in once if batch[SITE].source[0] == Source.DENOISE]
    assert [len(tokens) for tokens in walked] == [4 * 4] * 4
    assert len({float(tokens.raw_t[0]) for tokens in walked}) == 4
    samples = torch.cat([batch[SITE].sample for batch in once]).unique()
    assert len(samples) == 16 + 4


def test_the_test_holds_everything_to_repeat_a_forward(make_data: MakeData) -> None:
    data = make_data()
    denoiser = data.denoiser
    times = []
    for batch in data.test_loader(Shard()):
        call, tokens = batch.call, batch.tokens[SITE]
        assert len(batch) == 8
        assert len(tokens) == 8 * 16
        assert torch.equal(tokens.position.view(8, 16, 2)[3], denoiser.positions())
        assert torch.equal(tokens.sample.view(8, 16)[:, 0], call.sample)
        assert call.x0 is not None
        assert call.noise is not None
        assert torch.equal(call.x_t, denoiser.schedule.add_noise(call.x0, call.noise, call.raw_t))
        (site,) = denoiser.resolve_sites([SITE])
        from tide_lightning.diffusion import record

        with record(denoiser.module, [site]) as values:
            denoiser.predict(call.x_t, call.raw_t, call.conditioning)
        torch.testing.assert_close(values[SITE].flatten(0, 1), tokens.x)
        times.append(call.t)
    t = torch.cat(times)
    assert (t * 16).clamp(max=15.99).floor().long().bincount(minlength=16).tolist() == [1] * 16


@pytest.mark.parametrize("halves", ["conditional", "both"])
def test_the_test_can_walk_trajectories(make_data: MakeData, halves: str) -> None:
    """Several after each other where they are more than fit into a batch, and split over ranks as they are alone."""
    data = make_data(
        source="denoise", heldout={"test_source": "denoise", "num_test_samples": 44}, trajectories={"halves": halves}
    )
    loader = data.test_loader(Shard())
    batches = list(loader)
    assert len(loader) == len(batches) == 8  # eleven trajectories of four steps, eight at once
    each = 2 if halves == "both" else 1
    for batch in batches:
        call, tokens = batch.call, batch.tokens[SITE]
        assert call.x0 is None
        assert len(call) == 8
        assert len(tokens) == each * 8 * 16
        assert len(call.raw_t.unique()) == 1
        assert call.conditioning.trajectory_noise is not None
        patches = data.denoiser.patches(call.conditioning.trajectory_noise).flatten(0, 1)
        assert tokens.context.trajectory_noise is not None
        assert torch.equal(tokens.context.trajectory_noise, patches.repeat(each, 1))
    times = torch.cat([batch.call.t for batch in batches]).view(2, 4, 8)
    assert (times[:, :-1] > times[:, 1:]).all()
    whole = [batch.call.sample.tolist() for batch in batches]
    assert whole == [list(range(8))] * 4 + [list(range(8, 16))] * 4
    shares = [list(make_data(heldout={"test_source": "denoise"}).test_loader(Shard(rank, 2))) for rank in range(2)]
    for part in shares:
        assert len(part) == 4
    alone = list(make_data(heldout={"test_source": "denoise"}).test_loader(Shard()))
    for step, batch in enumerate(alone):
        for rank in range(2):
            mine = batch.call.sample % 2 == rank
            torch.testing.assert_close(shares[rank][step].call.x_t, batch.call.x_t[mine])


def test_ranks_share_without_duplicates(make_data: MakeData) -> None:
    alone = torch.cat([batch.call.sample for batch in make_data().test_loader(Shard())])
    for world in (2, 4):
        loaders = [make_data().test_loader(Shard(rank, world)) for rank in range(world)]
        assert {len(loader) for loader in loaders} == {2}
        shares = torch.cat([batch.call.sample for loader in loaders for batch in loader])
        assert sorted(shares.tolist()) == sorted(alone.tolist()) == list(range(16))


def test_what_is_held_out_is_not_trained_on(make_data: MakeData) -> None:
    data = make_data()
    train, heldout = data.corpus.images("train"), data.corpus.images("heldout")
    assert train is not None
    assert heldout is not None
    assert (len(train), len(heldout)) == (18, 2)
    assert torch.equal(heldout.items([0])[0]["image"], Patches()[18]["image"])  # type: ignore[arg-type]
    assert data.corpus.prompts("train") == PROMPTS[:-1]
    assert data.corpus.prompts("heldout") == PROMPTS[-1:]
    named = make_data(heldout={"prompts": ["a black cone"], "images": Patches()})
    assert named.corpus.prompts("train") == PROMPTS
    assert named.corpus.prompts("heldout") == ["a black cone"]
    captions = make_data(prompts=None).corpus.prompts("heldout")
    assert list(captions) == [PROMPTS[18 % 8], PROMPTS[19 % 8]]


@pytest.mark.parametrize(("source", "parts"), [("noise", 2), ("denoise", 2), ("both", 4)])
def test_calibration_is_the_training_distribution(make_data: MakeData, source: str, parts: int) -> None:
    data = make_data(source=source)
    batches = list(data.calibration_batches())
    assert len(batches) == parts
    tokens = [batch[SITE] for batch in batches]
    assert sum(len(batch) for batch in tokens) == 16 * 4
    # Noise stays where the source has it, as sources come apart.
    assert [batch.context.noise is not None for batch in tokens] == [
        bool((batch.source == Source.NOISE).all()) for batch in tokens
    ]
    train = [batch[SITE] for batch in data.train_loader(Shard())]
    for field in ("t", "source"):
        values = [torch.cat([getattr(batch, field) for batch in part]).float() for part in (tokens, train)]
        torch.testing.assert_close(values[0].mean(), values[1].mean(), atol=0.05, rtol=0)
    assert not torch.isin(torch.cat([batch.x[:, 0] for batch in tokens]), torch.cat([x.x[:, 0] for x in train])).any()


def test_ranks_share_the_calibration(make_data: MakeData) -> None:
    def samples(shard: Shard) -> list[int]:
        return [n for batch in make_data().calibration_batches(shard) for n in batch[SITE].sample.tolist()]

    assert sorted(samples(Shard(0, 2)) + samples(Shard(1, 2))) == sorted(samples(Shard()))


def test_batches_know_their_length(make_data: MakeData) -> None:
    batch = next(iter(make_data().test_loader(Shard())))
    assert isinstance(batch.tokens[SITE], TokenBatch)
    assert len(batch.call.select(slice(2, 5))) == 3
