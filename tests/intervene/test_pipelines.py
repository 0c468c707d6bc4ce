"""Steering a diffusers pipeline's own call is steering our trajectories, in every family."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from tests.diffusion.pipelines import FAMILIES, pipeline_latents
from tide_lightning.diffusion import load_denoiser, sample
from tide_lightning.errors import UserError
from tide_lightning.intervene import Edit, steer
from tide_lightning.saes import TideSAE

STEPS = 2


@pytest.mark.parametrize("name", ["pixart-alpha", "flux-dev", "sd3", "sana", "wan", "sdxl"])
def test_a_pipelines_own_call_is_steered_as_our_trajectories(name: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # diffusers' schedulers under numpy 2
        denoiser = load_denoiser(str(family.save(tmp_path)), latent_size=family.latent_size)
        sites = denoiser.resolve_sites(list(family.sites)[:2])
        shapes = denoiser.site_shapes(sites)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            saes = {
                site: TideSAE(shape, 2, 4, known_part="input_token" if site.endswith(":text") else "previous_step")
                for site, shape in shapes.items()
            }
            for sae in saes.values():
                sae.eval().requires_grad_(False).known.weight.normal_()
            noise = torch.randn(len(family.prompts), *denoiser.latent_shape)
        edits = [Edit(site, 3, "add", 5.0, window=(0.2, 1.0)) for site in saes]
        edits += [Edit(site, 4, "clamp", 2.0) for site in saes]

        def ours() -> torch.Tensor:
            with steer(denoiser, saes, edits) as steered:
                return sample(
                    steered,
                    family.prompts,
                    num_inference_steps=STEPS,
                    guidance_scale=family.guidance_scale,
                    initial_noise=noise,
                )

        def theirs() -> torch.Tensor:
            return pipeline_latents(family, denoiser.pipeline, noise, STEPS, "latent")

        plain = theirs()
        with steer(denoiser.pipeline, saes, edits):
            steered = theirs()
        torch.testing.assert_close(steered, ours(), rtol=1e-4, atol=1e-4)
        assert (steered - plain).abs().max() > 1e-2
        assert torch.equal(theirs(), plain)


def test_what_is_no_supported_pipeline_is_told() -> None:
    with pytest.raises(UserError, match="a list is not supported; supported are DiTPipeline"), steer([], {}, []):
        pass
