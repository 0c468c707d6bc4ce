"""Adapters of research code, as docs/tutorials/your-dit.md shows them."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from tests.diffusion.adapters import ADAPTERS, path_of
from tests.diffusion.research_code import dit, edm, lightningdit, rae, repa, vdt
from tests.diffusion.small_runs import fit_and_test
from tide_lightning.diffusion import describe_denoiser, load_denoiser, sample
from tide_lightning.diffusion.own import run_eagerly
from tide_lightning.errors import UserError

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
]

Forward = Callable[[torch.nn.Module, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Code(NamedTuple):
    """A code base's released model.

    Fields:
        make: it, as the stand-in for the code base builds it in the released configuration.
        forward: of module, x_t, timesteps t in [0, 1000] and labels: what ours has to give, in the code base's words.
        imported_as: where its adapter imports it from.
        sites: that are read of it.
    """

    make: Callable[[], torch.nn.Module]
    forward: Forward
    imported_as: str
    sites: list[str]

    @property
    def is_flow(self) -> bool:
        return self.forward in (from_noise_at_zero, from_noise_at_one)


def as_dit(module: torch.nn.Module, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    noise: torch.Tensor = module(x, t, labels)
    return noise[:, :4]


def from_noise_at_zero(module: torch.nn.Module, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Data minus noise in theirs, noise minus data in ours."""
    velocity: torch.Tensor = module(x, 1 - t / 1000, y)
    return -velocity


def from_noise_at_one(module: torch.nn.Module, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    answer = module(x, t / 1000, y)
    velocity: torch.Tensor = answer[0] if isinstance(answer, tuple) else answer
    return velocity


def edm_sigma(t: torch.Tensor) -> torch.Tensor:
    """EDM's spacing, computed backwards: its step i of 1000 is our timestep 999 - i."""
    step = 999 - t.double()
    sigma: torch.Tensor = (80 ** (1 / 7) + step / 999 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    return sigma


def as_edm(module: torch.nn.Module, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Its x is larger by sqrt(1 + sigma^2) than one whose variance is preserved."""
    sigma = edm_sigma(t).float()
    one_hot = torch.zeros(len(y), 10)
    one_hot[y < 10] = torch.eye(10)[y[y < 10]]
    image: torch.Tensor = module(x * (1 + sigma**2).sqrt().view(-1, 1, 1, 1), sigma, one_hot)
    return image


def as_vdt(module: torch.nn.Module, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    frames = torch.stack(list(x.unbind(2)), 1)
    noise = module(frames, t, torch.zeros_like(y))[:, :, :4]
    return torch.stack(list(noise.unbind(1)), 2)


def released_lightning_dit() -> torch.nn.Module:
    """The arguments of its configs/reproductions."""
    config = {"use_swiglu": True, "use_rope": True, "use_rmsnorm": True, "learn_sigma": False}
    return lightningdit.lightning_dit_xl_1(input_size=16, num_classes=1000, in_channels=32, **config)


def released_repa() -> torch.nn.Module:
    """As its generate.py makes it for the published checkpoint (projector_embed_dims 768)."""
    kwargs: dict[str, Any] = {"fused_attn": True, "qk_norm": False}
    return repa.SiT(input_size=32, num_classes=1000, use_cfg=True, z_dims=[768], encoder_depth=8, **kwargs)


def released_rae() -> torch.nn.Module:
    """configs/training/ImageNet256/DiTDH-XL_DINOv2-B.yaml."""
    return rae.DiTwDDTHead(input_size=16, patch_size=1, in_channels=768)


def released_edm() -> torch.nn.Module:
    """edm-cifar10-32x32-cond-vp.pkl."""
    sizes: dict[str, Any] = {"augment_dim": 9, "model_channels": 128, "channel_mult": [2, 2, 2]}
    return edm.EDMPrecond(32, 3, label_dim=10, model_type="SongUNet", **sizes)


_DIT_SITES = ["blocks.0", "blocks.1:update", "blocks.1:mlp", "blocks.2:attention"]
THEIRS = {
    "OriginalDiT": Code(lambda: dit.DiT(), as_dit, "models", _DIT_SITES),
    "OriginalSiT": Code(lambda: dit.SiT(), from_noise_at_zero, "models", _DIT_SITES),
    "LightningDiT": Code(released_lightning_dit, from_noise_at_zero, "models.lightningdit", _DIT_SITES),
    "REPA": Code(released_repa, from_noise_at_one, "models.sit", ["blocks.1", "blocks.1:mlp"]),
    "RAE": Code(released_rae, from_noise_at_one, "stage2.models.DDT", ["blocks.1", "blocks.2"]),
    "EDM": Code(released_edm, as_edm, "training.networks", ["model.enc.16x16_block0", "model.dec.32x32_block0"]),
    "OriginalVDT": Code(
        lambda: vdt.VDT(input_size=16, num_classes=1, num_frames=16),
        as_vdt,
        "models",
        ["blocks.1", "blocks.1:update", "blocks.2:mlp"],
    ),
}


def checkpoint(name: str, folder: Path) -> tuple[torch.nn.Module, str]:
    """A module with random weights, and a file that holds them as the code base publishes them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = THEIRS[name].make().eval()
    run_eagerly(module)
    state = module.state_dict()
    path = folder / ("weights.pkl" if name == "EDM" else "weights.pt")
    if name == "EDM":
        path.write_bytes(pickle.dumps({"ema": module}))
    else:
        torch.save({"ema": state} if name in ("LightningDiT", "REPA") else state, path)
    return module, str(path)


@pytest.mark.parametrize("name", THEIRS)
def test_an_adapter_is_short(name: str) -> None:
    lines = [line for line in ADAPTERS[name].splitlines() if line.strip()]
    assert len(lines) < 32


@pytest.mark.parametrize("name", THEIRS)
@torch.no_grad()
def test_it_predicts_what_the_module_does(name: str, work: Path) -> None:
    module, weights = checkpoint(name, work)
    denoiser = load_denoiser(weights, family=path_of(name))
    x_t = torch.randn(3, *denoiser.latent_shape, generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([100.0, 500.0, 999.0])
    labels = torch.tensor([7, 0, denoiser.num_classes])  # type: ignore[attr-defined]
    prompts = ["7", "0", ""]
    found = denoiser.predict(x_t, denoiser.raw_t(timesteps), denoiser.encode_prompts(prompts))
    expected = THEIRS[name].forward(module, x_t, timesteps, labels)
    torch.testing.assert_close(found, expected, atol=1e-3 if name == "EDM" else 1e-5, rtol=1e-3)


@pytest.mark.parametrize("name", ["OriginalDiT", "OriginalSiT", "LightningDiT", "REPA", "RAE", "EDM"])
@torch.no_grad()
def test_its_trajectories_are_the_code_bases_own(name: str, work: Path) -> None:
    """By hand: DDIM over evenly spaced steps, Euler's method from noise to data, Euler's method on sigma."""
    module, weights = checkpoint(name, work)
    denoiser = load_denoiser(weights, family=path_of(name))
    noise = torch.randn(2, *denoiser.latent_shape, generator=torch.Generator().manual_seed(0))
    found = sample(denoiser, ["3", "7"], num_inference_steps=5, guidance_scale=2.0, initial_noise=noise)
    x, forward = noise, THEIRS[name].forward

    def guided(x: torch.Tensor, t: float) -> torch.Tensor:
        times, labels = torch.full((4,), t), torch.tensor([1000, 1000, 3, 7])
        unconditional, conditional = forward(module, torch.cat([x, x]), times, labels).chunk(2)
        return torch.lerp(unconditional, conditional, 2.0)

    if name == "OriginalDiT":
        kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
        for t in (999, 799, 599, 399, 199):
            noise_part, now = guided(x, t), kept[t]
            x0 = (x - (1 - now).sqrt() * noise_part) / now.sqrt()
            # diffusers' DDIM ends at the first entry of its table unless told otherwise.
            then = kept[t - 200] if t > 200 else torch.tensor(1.0)
            x = then.sqrt() * x0 + (1 - then).sqrt() * noise_part
    elif name == "EDM":
        sigmas = [float(edm_sigma(torch.tensor(t))) for t in (999, 799, 599, 399, 199)]
        x = x * (1 + sigmas[0] ** 2) ** 0.5
        for t, sigma, lower in zip((999, 799, 599, 399, 199), sigmas, [*sigmas[1:], 0.0], strict=True):
            image = forward(module, x / (1 + sigma**2) ** 0.5, torch.full((2,), float(t)), torch.tensor([3, 7]))
            x = x + (lower - sigma) * (x - image) / sigma
    else:
        shift = {"LightningDiT": 1 / 0.3, "RAE": (16 * 16 * 768 / 4096) ** 0.5}.get(name, 1.0)
        for sigma, following in pairwise([float(sigma) for sigma in denoiser.new_scheduler(5).sigmas]):
            x = x + (following - sigma) * guided(x, 1000 * sigma)
        last = shift * 1e-3 / (1 + (shift - 1) * 1e-3)
        even = torch.linspace(1, last, 5)  # as diffusers spaces them, before they are shifted (the last one again)
        expected = shift * even / (1 + (shift - 1) * even)
        torch.testing.assert_close(
            torch.as_tensor(denoiser.new_scheduler(5).sigmas[:-2]), expected[:-1], atol=2e-3, rtol=0
        )
    # Random weights blow up where DDIM divides by the little signal of the first steps: relative to the whole.
    assert float((found - x).norm() / x.norm()) < (1e-3 if name == "EDM" else 1e-4)


@pytest.mark.parametrize("name", THEIRS)
def test_two_steps_of_fit_and_a_test(name: str, work: Path) -> None:
    _, weights = checkpoint(name, work)
    prompts = [str(label) for label in range(10)]
    fit_and_test(
        "own", {"family": path_of(name), "pretrained": weights, "sites": THEIRS[name].sites, "prompts": prompts}
    )


def test_what_is_off_by_default_cannot_hold_the_released_weights(work: Path) -> None:
    _, weights = checkpoint("LightningDiT", work)
    adapter = work / "my_lightningdit.py"
    adapter.write_text(adapter.read_text().replace('"use_swiglu": True', '"use_swiglu": False'))
    with pytest.raises(UserError, match=r"do not fit LightningDiT: .*mlp"):
        load_denoiser(weights, family=path_of("LightningDiT"))


def test_shapes_without_weights(work: Path) -> None:
    described = describe_denoiser("no such file", family=path_of("LightningDiT"))
    assert described.device.type == "meta"
    (shape,) = described.site_shapes(described.resolve_sites(["blocks.1"])).values()
    assert (shape.d_in, shape.grid, shape.d_input) == (32, (16, 16), 32)


def test_a_forward_that_looks_at_values_says_what_to_do(work: Path) -> None:
    """As a mixture of experts does, which counts the tokens of each."""
    (work / "my_experts.py").write_text(
        "import torch\n"
        "from my_originaldit import OriginalDiT\n"
        "class Experts(OriginalDiT):\n"
        "    def forward(self, x_t, raw_t, conditioning):\n"
        "        counts = torch.bincount((x_t.flatten() > 0).long())\n"
        "        return super().forward(x_t[:, :, : int(counts.sum())], raw_t, conditioning)\n"
    )
    described = describe_denoiser("no such file", family="my_experts.Experts")
    with pytest.raises(UserError, match=r"fails for .* looks at values: .*bincount.*device `meta`") as caught:
        described.site_shapes(described.resolve_sites(["blocks.1"]))
    assert "\n" not in str(caught.value)


def test_a_pixel_denoiser_needs_no_autoencoder(work: Path) -> None:
    _, weights = checkpoint("OriginalDiT", work)
    denoiser = load_denoiser(weights, family=path_of("OriginalDiT"))
    image = torch.rand(2, 4, 32, 32) * 2 - 1
    assert torch.equal(denoiser.encode_images(image), image)
    assert torch.equal(denoiser.decode_latents(image), image[:, :3])


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("my_nothing.Here", "cannot be imported: No module named 'my_nothing'"),
        ("my_auraflow.Nothing", "cannot be imported: module 'my_auraflow' has no attribute 'Nothing'"),
        ("pathlib.Path", "is no subclass of tide_lightning.diffusion.Denoiser"),
        ("nodots", "cannot be imported"),
    ],
)
def test_a_family_that_is_none(work: Path, family: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        describe_denoiser("anything", family=family)


def test_weights_that_do_not_fit(work: Path) -> None:
    _, weights = checkpoint("OriginalDiT", work)
    state = torch.load(weights, weights_only=True)
    del state["pos_embed"]
    torch.save(state, weights)
    with pytest.raises(UserError, match=r"the weights of .*weights.pt' do not fit DiT: .*pos_embed"):
        load_denoiser(weights, family=path_of("OriginalDiT"))


def test_a_prompt_that_is_no_class(work: Path) -> None:
    _, weights = checkpoint("OriginalDiT", work)
    denoiser = load_denoiser(weights, family=path_of("OriginalDiT"))
    with pytest.raises(UserError, match="prompt 'a red ball' is no class: give a name or 0 to 999"):
        denoiser.encode_prompts(["a red ball"])
