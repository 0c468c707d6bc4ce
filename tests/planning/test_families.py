"""The plan of every supported family, with its streams and its kind of guidance."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.diffusion.conftest import family, folder, name
from tests.diffusion.pipelines import Family
from tide_lightning.datamodules import ActivationDataModule, LoadingOptions, TrajectoryOptions
from tide_lightning.planning.estimate import Assumed
from tide_lightning.planning.machines import GPUS
from tide_lightning.planning.plan import plan_run
from tide_lightning.planning.printing import print_plan
from tide_lightning.training import TideModule

__all__ = ["family", "folder", "name"]

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def test_work_is_what_torch_counts(family: Family, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sites = [site for site in family.sites if not site.endswith("resnets.0")]
    data = ActivationDataModule(
        str(folder),
        sites,
        prompts=family.prompts,
        source="both",
        samples_per_batch=8,
        tokens_per_sample=0.25,
        trajectories=TrajectoryOptions(guidance_scale=family.guidance_scale),
        loading=LoadingOptions(latent_size=None if family.latent_size is None else list(family.latent_size)),
    )
    shapes = data.site_shapes
    with torch.device("meta"):
        module = TideModule(shapes)
    plan = plan_run(data, module, steps=100, ranks=2, precision="bf16-mixed")
    denoiser = data.denoiser
    conditioning = denoiser.blank_conditioning(denoiser.zeros(1, *denoiser.prompt_shape))
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        denoiser.forward(denoiser.zeros(1, *denoiser.latent_shape), torch.zeros(1), conditioning)
    assert plan.denoiser.forward == counter.get_total_flops()
    assert plan.denoiser.parameters == sum(parameter.numel() for parameter in denoiser.module.parameters())
    guided = denoiser.guidance == "classifier_free" and family.guidance_scale > 1
    assert plan.halves == (2 if guided else 1)
    for site, (num_tokens, width) in family.sites.items():
        if site in plan.tokens:
            assert plan.tokens[site] == 8 * max(1, round(0.25 * num_tokens))
            assert plan.widths[site] == width
    print_plan(plan, [GPUS["L4"]], Assumed())
    assert "L4" in capsys.readouterr().out
