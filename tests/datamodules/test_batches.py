from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn

from tests.datamodules.conftest import PROMPTS, MakeData, Patches
from tide_lightning.datamodules import Shard
from tide_lightning.tokens import Half, Source, TokenBatch

SITE, MLP = "transformer_blocks.0", "transformer_blocks.1:mlp"


def first(make_data: MakeData, **changes: object) -> dict[str, TokenBatch]:
    return next(iter(make_data(**changes).train_loader(Shard())))


def test_site_shapes_are_known_at_once(make_data: MakeData) -> None:
    data = make_data()
    shape = {"d_in": 32, "grid": [4, 4], "d_input": 16}
    assert data.site_shapes == {SITE: shape, MLP: shape}
    tokens = next(iter(data.train_loader(Shard())))[MLP]
    assert tokens.x.shape[1] == shape["d_in"]
    assert tokens.context.input is not None
    assert tokens.context.input.shape[1] == shape["d_input"]


@pytest.mark.parametrize("source", ["noise", "denoise", "both"])
def test_a_batch_is_what_it_says(make_data: MakeData, source: str) -> None:
    data = make_data(source=source)
    loader = data.train_loader(Shard())
    assert len(loader) == 5
    for batch in loader:
        assert list(batch) == [SITE, MLP]
        for tokens in batch.values():
            assert len(tokens) == 8 * 4
            assert tokens.t.min() >= 0
            assert tokens.t.max() <= 1
            assert (tokens.context.noise is not None) == (source == "noise")
        assert all(
            torch.equal(batch[SITE].tensors()[name], value)
            for name, value in batch[MLP].tensors().items()
            if name != "x"
        )
        # No place twice in a sample, every sample the same number of tokens.
        places = batch[SITE].position[:, 0] * 4 + batch[SITE].position[:, 1]
        assert all(len(set(of.tolist())) == 4 for of in places.view(8, 4))
        assert (batch[SITE].sample.view(8, 4) == batch[SITE].sample.view(8, 4)[:, :1]).all()
        expected = {"noise": {Source.NOISE}, "denoise": {Source.DENOISE}}.get(source, {Source.NOISE, Source.DENOISE})
        assert set(batch[SITE].source.tolist()) == expected


@pytest.mark.parametrize("tokens_per_sample", [3, 0.25, 1.0, 0.001])
def test_tokens_per_sample(make_data: MakeData, tokens_per_sample: float) -> None:
    expected = {3: 3, 0.25: 4, 1.0: 16, 0.001: 1}[tokens_per_sample]
    tokens = first(make_data, tokens_per_sample=tokens_per_sample)[SITE]
    assert len(tokens) == 8 * expected


def test_noised_tokens_equal_a_plain_hook(make_data: MakeData) -> None:
    """The batch's activations, inputs and noise against a forward of the unmodified transformer."""
    data = make_data(noised={"prompt_dropout": 0.0}, tokens_per_sample=1.0)
    loader = data.train_loader(Shard())
    batch = next(iter(loader))
    loader.state_dict()  # no further batch is under way when it returns
    tokens, denoiser = batch[SITE], data.denoiser
    t = tokens.raw_t.view(8, 16)[:, 0]
    noise, x_t = (unpatch(tokens.tensors()[name].view(8, 16, 16)) for name in ("noise", "input"))
    alpha, sigma = denoiser.schedule.alpha_sigma(t)
    x0 = (x_t - sigma.view(-1, 1, 1, 1) * noise) / alpha.view(-1, 1, 1, 1)
    images = torch.stack([Patches()[i]["image"] for i in range(20)])  # type: ignore[misc]
    latents = denoiser.encode_images(images)
    clear = t < 900  # at the end of the schedule x0 is lost in rounding
    distance = torch.cdist(x0.flatten(1), latents.flatten(1))
    assert (distance.min(1).values[clear] < 1e-3).all()

    seen: list[Tensor] = []
    block = denoiser.module.get_submodule(SITE)
    handle = block.register_forward_hook(lambda _module, _args, output: seen.append(output))
    prompts = [PROMPTS[int(i) % len(PROMPTS)] for i in distance.argmin(1)]
    denoiser.predict(x_t, t, denoiser.encode_prompts(prompts))
    handle.remove()
    torch.testing.assert_close(tokens.x.view(8, 16, -1)[clear], seen[0][clear])


def unpatch(patches: Tensor) -> Tensor:
    return nn.functional.fold(patches.transpose(1, 2), (8, 8), kernel_size=2, stride=2)


def test_staggered_tokens_equal_a_plain_hook(make_data: MakeData) -> None:
    data = make_data(source="denoise", tokens_per_sample=1.0, trajectories={"halves": "both"})
    seen: list[Tensor] = []
    loader = iter(data.train_loader(Shard()))
    next(loader)
    block = data.denoiser.module.get_submodule(SITE)
    handle = block.register_forward_hook(lambda _module, _args, output: seen.append(output))
    tokens = next(loader)[SITE]
    handle.remove()
    assert torch.equal(tokens.x.view(16, 16, -1), seen[0])
    assert tokens.half.view(2, -1)[0].unique().tolist() == [Half.UNCONDITIONAL]
    assert tokens.half.view(2, -1)[1].unique().tolist() == [Half.CONDITIONAL]
    kept = next(iter(make_data(source="denoise", tokens_per_sample=1.0).train_loader(Shard())))[SITE]
    assert len(kept) == 8 * 16
    assert kept.half.unique().tolist() == [Half.CONDITIONAL]


def test_micro_batches_change_nothing(make_data: MakeData) -> None:
    for source in ("noise", "denoise"):
        whole, parts = (first(make_data, source=source, forward_batch_size=size)[SITE] for size in (None, 3))
        for name, value in whole.tensors().items():
            torch.testing.assert_close(parts.tensors()[name], value, atol=1e-5, rtol=1e-5)


def test_times_are_stratified(make_data: MakeData) -> None:
    for batch in make_data().train_loader(Shard()):
        t = batch[SITE].t.view(8, 4)[:, 0]
        assert (t * 8).clamp(max=7.99).floor().long().bincount(minlength=8).tolist() == [1] * 8


def test_prompts_are_dropped(make_data: MakeData) -> None:
    assert first(make_data, noised={"prompt_dropout": 0.0})[SITE].half.unique().tolist() == [Half.CONDITIONAL]
    assert first(make_data, noised={"prompt_dropout": 1.0})[SITE].half.unique().tolist() == [Half.UNCONDITIONAL]


def test_cached_latents_equal_fresh_ones(make_data: MakeData, caplog: pytest.LogCaptureFixture) -> None:
    """Batches past the first pass over the images are the same with and without a cache, bit for bit."""
    size = 4 * 4 * 8 * 8 / 2**30  # of one latent
    caches = [{"latent_cache_gib": count * size} for count in (100, 5.5, 0)]
    with caplog.at_level(logging.WARNING):
        cached, partly, fresh = (list(make_data(noised=cache).train_loader(Shard())) for cache in caches)
    told = [message for message in caplog.messages if "latent_cache_gib" in message]
    assert len(told) == 2
    assert told[0].startswith("latents of 18 images take 0.0 GiB;")
    assert "keeps 5, the others are encoded each time" in told[0]
    for batches in zip(cached, partly, fresh, strict=True):
        for name, value in batches[0][SITE].tensors().items():
            assert all(torch.equal(batch[SITE].tensors()[name], value) for batch in batches)


def test_precision_is_the_denoisers_own(make_data: MakeData) -> None:
    tokens = first(make_data, loading={"dtype": "bfloat16"})[SITE]
    assert tokens.x.dtype == torch.bfloat16
    assert tokens.tensors()["input"].dtype == tokens.t.dtype == torch.float32


def test_no_images_are_needed(
    make_data: MakeData, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tide_lightning.waiting.FIRST_SECONDS", 0.0)
    before = torch.random.get_rng_state()
    data = make_data(images=None)
    first_batch, *_ = data.train_loader(Shard())
    assert first_batch[SITE].context.noise is not None
    assert len(list(data.test_loader(Shard()))) == 2
    assert "Generating 6 train latents  1/" in capsys.readouterr().err
    assert torch.equal(before, torch.random.get_rng_state())


def test_batches_move(make_data: MakeData) -> None:
    data = make_data()
    meta = torch.device("meta")
    moved = data.transfer_batch_to_device(next(iter(data.train_loader(Shard()))), meta, 0)
    assert all(value.device == meta for tokens in moved.values() for value in tokens.tensors().values())
    heldout = data.transfer_batch_to_device(next(iter(data.test_loader(Shard()))), meta, 0)
    assert heldout.call.x0.device == heldout.call.conditioning.tokens.device == heldout.tokens[SITE].x.device == meta


def test_the_memory_of_latents_is_known_before(make_data: MakeData) -> None:
    data = make_data()
    for part in ("train", "heldout"):
        latents = data.latents(part)
        latents.fetch(range(len(latents)))
    held = [latent for part in ("train", "heldout") for latent, _ in data.latents(part)._cache.values()]  # type: ignore[attr-defined]
    assert len(held) == len(Patches())
    assert sum(latent.untyped_storage().nbytes() for latent in held) == data.latent_bytes(data.describe())
    assert make_data(source="denoise").latent_bytes(data.denoiser) == 2 * held[0].nbytes
    assert make_data(noised={"latent_cache_gib": 0}).latent_bytes(data.denoiser) == 0
    assert make_data(images=None).latent_bytes(data.denoiser) == 2 * 6 * held[0].nbytes
