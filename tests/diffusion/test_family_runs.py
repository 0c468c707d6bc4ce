"""Every supported family from end to end: harvests, times, `tide fit` and `tide test`."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.diffusion.pipelines import Family
from tests.diffusion.small_runs import fit_and_test
from tide_lightning.datamodules.harvest import Call, Harvester
from tide_lightning.diffusion import Denoiser, Site, StaggeredTrajectories, load_denoiser, sample
from tide_lightning.diffusion.counters import normal, stream

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
]


@pytest.fixture(scope="module")
def denoiser(family: Family, folder: Path) -> Denoiser:
    return load_denoiser(str(folder), latent_size=family.latent_size)


CONFIGS = {"pixart-alpha": "pixart", "flux-schnell": "flux", "flux-dev": "flux"}
"""The packaged configs that are not called like their family."""


def some_sites(family: Family) -> list[str]:
    """The first and the last image site, and a text site where there is one."""
    image = [site for site in family.sites if not site.endswith(":text")]
    text = [site for site in family.sites if site.endswith(":text")]
    return [image[0], image[-1], *text[:1]]


@pytest.mark.parametrize("steps", [4, 50])
def test_every_timestep_gets_its_share(family: Family, denoiser: Denoiser, steps: int) -> None:
    """Along staggered trajectories each step of the schedule; among noised samples each tenth of [0, 1]."""

    def start(slot: int, trajectory: int) -> tuple[str, Tensor]:
        return family.prompts[0], normal(stream(0, slot, trajectory), denoiser.latent_shape)

    slots = list(range(steps))
    walked = StaggeredTrajectories(
        denoiser, start, slots=slots, num_slots=steps, num_inference_steps=steps, guidance_scale=1.0, stagger=False
    )
    total: Counter[float] = Counter()
    for _ in range(steps):
        step = walked.current()
        t = denoiser.schedule.t(step.raw_t)
        assert bool(((t >= 0) & (t <= 1)).all())
        total.update(step.raw_t.tolist())
        walked.advance(step.x_t)  # any prediction will do
    assert len(total) == steps
    assert set(total.values()) == {steps}
    assert sorted(total, reverse=True) == list(total)  # from noise to image
    t = denoiser.schedule.t(denoiser.schedule.raw_t((torch.arange(10 * steps) + 0.5) / (10 * steps)))
    assert (t * 9.999).long().bincount(minlength=10).tolist() == [steps] * 10


@torch.no_grad()
def test_staggered_harvests_hold_what_a_plain_hook_sees(family: Family, denoiser: Denoiser) -> None:
    """Two slots, half a schedule apart: every token is one that its prompt's own trajectory gives at that step."""
    steps = 4
    sites = [site for site in denoiser.resolve_sites(some_sites(family)) if site.part != "update"]
    noises = [normal(stream(0, slot), denoiser.latent_shape) for slot in range(2)]
    walked = StaggeredTrajectories(
        denoiser,
        lambda slot, _: (family.prompts[slot], noises[slot]),
        slots=[0, 1],
        num_slots=2,
        num_inference_steps=steps,
        guidance_scale=family.guidance_scale,
    )
    harvester = Harvester(denoiser, sites, forward_batch_size=None)
    batches = []
    for _ in range(2):
        step = walked.current()
        unguided = torch.zeros(2, dtype=torch.bool)
        call = Call(step.x_t, step.raw_t, denoiser.schedule.t(step.raw_t), step.conditioning, step.slot, unguided)
        batch, prediction = harvester.read_guided(call, harvester.everywhere(2), family.guidance_scale, False)
        batches.append(batch)
        walked.advance(prediction)
    for slot in range(2):
        seen = plain_outputs(denoiser, family, sites, slot, noises[slot], steps)
        for number, batch in enumerate(batches):
            for site in sites:
                tokens = batch[str(site)]
                mine = tokens.select(tokens.sample == slot).x
                # What the hook saw is one tensor or several, of one stream or two, and of both halves.
                held = seen[str(site)][number + slot * steps // 2]
                tensors = held if isinstance(held, tuple) else (held,)
                candidates = torch.cat([(x.flatten(2).mT if x.ndim > 3 else x).flatten(0, 1) for x in tensors])
                exactly = "donot_use_mm_for_euclid_dist"
                distance = torch.cdist(mine, candidates, compute_mode=exactly).min(1).values
                assert float(distance.max()) < 1e-4 * float(candidates.norm(dim=1).mean())


def plain_outputs(
    denoiser: Denoiser, family: Family, sites: list[Site], slot: int, noise: Tensor, steps: int
) -> dict[str, list[Any]]:
    """What each site's module returns at every step of one prompt's trajectory, whatever that is."""
    seen: dict[str, list[Any]] = {str(site): [] for site in sites}

    def watch(site: Site) -> torch.utils.hooks.RemovableHandle:
        outputs = seen[str(site)]
        return site.module(denoiser.module).register_forward_hook(lambda _, __, output: outputs.append(output))

    handles = [watch(site) for site in sites]
    sample(
        denoiser,
        [family.prompts[slot]],
        num_inference_steps=steps,
        guidance_scale=family.guidance_scale,
        initial_noise=noise[None],
    )
    for handle in handles:
        handle.remove()
    return seen


def test_two_steps_of_fit_and_a_test(
    family: Family, folder: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sites = some_sites(family)
    data = {
        "pretrained": str(folder),
        "loading": {
            "variant": None,
            "dtype": "bfloat16" if name == "sd3" else "float32",
            "latent_size": None if family.latent_size is None else list(family.latent_size),
        },
        "forward_batch_size": None,
        "sites": sites,
        "prompts": family.prompts * 5,
        "trajectories": {"guidance_scale": 3.0},
    }
    run = fit_and_test(name, data, CONFIGS.get(name, name))
    metrics = json.loads((run / "metrics.json").read_text())
    assert set(metrics["sites"]) == set(sites)
    assert all(metrics["sites"][site]["tokens"] == 4 * family.sites[site][0] for site in sites)
    assert set(metrics["fidelity"]["sites"]) == set(sites)
    assert metrics["fidelity"]["end_to_end"]["images"] == 1  # the held-out prompts, a tenth of all
