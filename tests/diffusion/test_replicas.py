"""Replicas of a denoiser run side by side, each with its own hooks, and give what one after another gives."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from tide_lightning.diffusion import Denoiser, Forward, Replicas, Site, sensitivity
from tide_lightning.diffusion.replicas import replicate

SITE = Site.parse("transformer_blocks.1")


def with_cores(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    monkeypatch.setattr("tide_lightning.cores.usable_cores", lambda: cores)


def shifted(denoiser: Denoiser, shift: float, meet: Callable[[], object] = lambda: None) -> Tensor:
    """A prediction with a site's tokens shifted, while another one may be under way."""
    x_t = torch.ones(2, *denoiser.latent_shape)
    conditioning = denoiser.encode_prompts(["a red ball", "a cube"])

    def move(value: Tensor) -> Tensor:
        meet()
        return value + shift

    with denoiser.splice({SITE: move}), denoiser.record([SITE]) as values:
        prediction = denoiser.predict(x_t, torch.tensor([100.0, 700.0]), conditioning)
    return torch.cat([prediction.flatten(), values[str(SITE)].flatten()])


def test_threads_make_schedulers_without_a_warning(denoiser: Denoiser) -> None:
    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(denoiser.new_scheduler, [4, 5] * 100))
    assert [len(scheduler.timesteps) for scheduler in made] == [4, 5] * 100


def test_two_run_at_once_and_give_the_same(denoiser: Denoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    shifts = [0.0, 1.0, -2.0, 0.5]
    with_cores(monkeypatch, 1)
    expected = list(Replicas(denoiser).map(shifted, shifts))
    with_cores(monkeypatch, 64)
    barrier = threading.Barrier(2, timeout=60)  # nobody gets over it alone

    def run(denoiser: Denoiser, shift: float) -> Tensor:
        return shifted(denoiser, shift, barrier.wait)

    found = list(Replicas(denoiser).map(run, shifts))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_weights_are_shared_and_hooks_are_not(denoiser: Denoiser) -> None:
    twin = replicate(denoiser)
    assert twin is not None
    pairs = zip(denoiser.module.parameters(), twin.module.parameters(), strict=True)
    assert all(ours is theirs for ours, theirs in pairs)
    with denoiser.splice({SITE: torch.zeros_like}):
        assert not torch.equal(shifted(twin, 0.0), shifted(denoiser, 0.0))


@pytest.mark.parametrize("cores", [1, 64])
def test_what_fails_is_told_and_gradients_are_the_callers_matter(
    denoiser: Denoiser, monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    with_cores(monkeypatch, cores)

    def has_grad(_: Denoiser, item: int) -> bool:
        if item > 1:
            raise ValueError("no such item")
        return torch.is_grad_enabled()

    replicas = Replicas(denoiser)
    assert list(replicas.map(has_grad, [0, 1])) == [True, True]
    with torch.no_grad():
        assert list(replicas.map(has_grad, [0, 1])) == [False, False]
    with pytest.raises(ValueError, match="no such item"):
        list(replicas.map(has_grad, range(9)))
    assert list(replicas.map(has_grad, [])) == []


def test_a_module_of_anyones_is_not_copied(denoiser: Denoiser) -> None:
    other = copy.copy(denoiser)
    other.module = torch.nn.Linear(2, 2)
    assert replicate(other) is None


def test_a_module_that_cannot_be_copied_runs_by_itself(denoiser: Denoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    with_cores(monkeypatch, 64)
    monkeypatch.setattr(denoiser.module, "lock", threading.Lock(), raising=False)
    assert replicate(denoiser) is None
    assert [len(one) for one in Replicas(denoiser).map(shifted, [0.0])] == [len(shifted(denoiser, 0.0))]


@pytest.mark.parametrize("cores", [1, 64])
def test_sensitivities_of_several_sites_are_those_of_each(
    denoiser: Denoiser, monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    with_cores(monkeypatch, cores)
    sites = denoiser.resolve_sites(["transformer_blocks.1:update", "transformer_blocks.0", "transformer_blocks.2"])
    draw = torch.Generator().manual_seed(0)
    shape, conditioning = denoiser.latent_shape, denoiser.encode_prompts(["a red ball"] * 2)
    forwards = [
        Forward(
            *(torch.randn(2, *shape, generator=draw), raw_t, conditioning), *torch.randn(2, 2, *shape, generator=draw)
        )
        for raw_t in torch.tensor([[10.0, 500.0], [300.0, 900.0]])
    ]
    found = sensitivity(denoiser, sites, forwards, "relative")
    for site in sites:
        [alone] = sensitivity(denoiser, [site], forwards, "relative").values()
        torch.testing.assert_close(
            found[str(site)], alone, rtol=1e-4, atol=float(alone.matrix.diagonal().mean()) * 1e-5, equal_nan=True
        )
