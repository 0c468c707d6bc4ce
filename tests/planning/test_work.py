from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.training.fitting import SITES, make_data, make_module
from tide_lightning.datamodules import Shard
from tide_lightning.diffusion import Denoiser
from tide_lightning.planning.plan import plan_run
from tide_lightning.planning.work import denoiser_work, sae_work
from tide_lightning.training.optimisation import IndependentAdam


def counted(denoiser: Denoiser, num_samples: int = 3) -> int:
    """Operations of a forward with weights; flash attention on a CPU is not counted by torch."""
    conditioning = denoiser.blank_conditioning(denoiser.zeros(num_samples, *denoiser.prompt_shape))
    x_t, raw_t = denoiser.zeros(num_samples, *denoiser.latent_shape), torch.zeros(num_samples)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        denoiser.forward(x_t, raw_t, conditioning)
    return int(counter.get_total_flops())


def test_the_denoisers_work_is_counted_without_its_weights(pretrained: Path) -> None:
    data = make_data(pretrained)
    denoiser = data.denoiser
    work = denoiser_work(data.describe(), denoiser.resolve_sites(SITES))
    assert work.parameters == sum(parameter.numel() for parameter in denoiser.module.parameters())
    assert 3 * work.forward == counted(denoiser)
    first = denoiser_work(data.describe(), denoiser.resolve_sites(SITES[:1]))
    assert first.stopped < work.stopped < work.forward == first.forward
    # Equal blocks: stopping after block 0 saves blocks 1 and 2, of which stopping after 2 saves none.
    blocks = denoiser_work(data.describe(), denoiser.resolve_sites(["transformer_blocks.1"]))
    assert blocks.stopped - first.stopped == work.stopped - blocks.stopped


@pytest.mark.parametrize(
    "changes",
    [
        {"modulation": "none", "known_part": "mean"},
        {"known_part": "input_token"},
        {"known_part": "previous_step", "fidelity_weight": 0.5},
        {"refinements": 2, "budget": "batch"},
        {"refinements": 1, "pursuits": 2},
    ],
)
def test_the_saes_products_are_those_that_torch_counts(pretrained: Path, changes: dict[str, object]) -> None:
    data = make_data(pretrained)
    sae = make_module(data, changes).sae(SITES[0])
    tokens = next(iter(data.train_loader(Shard())))[SITES[0]]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        sae(tokens)
    work = sae_work(sae)
    modulation = (
        sum(weight.numel() for weight in sae.modulation.parameters() if weight.ndim == 2) if sae.modulation else 0
    )
    passes = 1 + sae.refinements
    decoded = passes * 2 * sae.d_in * sae.d_sae if sae.decode_backend == "dense" else 0
    fits = 3 * 7 + 2 + 2 if sae.pursuits else 0  # three fits, two remainders, and the final code's decoding both ways
    assert counter.get_total_flops() == len(tokens) * (work.products + decoded - 2 * 2 * modulation)  # no backward
    assert work.gathers == (passes * 5 + fits) * 2 * sae.d_in * sae.k
    assert work.parameters == sum(parameter.numel() for parameter in sae.parameters())


def test_memory_is_what_training_holds(pretrained: Path) -> None:
    data = make_data(pretrained)
    module = make_module(data)
    plan = plan_run(data, module, steps=10, ranks=2, precision="bf16-mixed")
    assert plan.sae_dtype == "bfloat16"
    parts = plan.memory()
    parameters = list(module.saes.parameters())
    optimizer = IndependentAdam([parameters], 1e-3, (0.9, 0.999))
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moments = [value for state in optimizer.state.values() for value in state.values() if value.ndim]
    assert parts["SAEs' weights"] == parts["their gradients"] == sum(parameter.nbytes for parameter in parameters)
    assert parts["Adam's moments"] == sum(moment.nbytes for moment in moments)
    assert parts["known parts"] == sum(buffer.nbytes for buffer in module.saes.buffers())
    assert parts["denoiser's weights"] == sum(weight.nbytes for weight in data.denoiser.module.parameters())
    assert plan.gradient_bytes == sum(p.nbytes for p in parameters) + 8 * sum(module.sae(s).d_sae for s in module.sites)
