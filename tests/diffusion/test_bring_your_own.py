"""The adapters that docs/tutorials/your-dit.md shows, as it shows them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import diffusers
import pytest
import torch

from tests.diffusion import research_code
from tests.diffusion.miniature import autoencoder, t5, tokenizer
from tests.diffusion.small_runs import fit_and_test
from tide_lightning.diffusion import Denoiser, describe_denoiser, load_denoiser, sample
from tide_lightning.diffusion.trajectories import guided_prediction
from tide_lightning.errors import UserError

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
]

PAGE = Path(__file__).parents[2] / "docs" / "tutorials" / "your-dit.md"
ADAPTERS = {
    found[1]: code
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    if (found := re.search(r"class (\w+)\(", code))
}
THEIRS: dict[str, Callable[[], torch.nn.Module]] = {
    "OriginalDiT": lambda: research_code.Model(32, 1000),
    "OriginalSiT": lambda: research_code.Model(32, 1000),
    "LightningDiT": lambda: research_code.lightning_dit(input_size=16, num_classes=1000, in_channels=32, use_rope=True),
}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's folder: the research code as `models`, an adapter of each kind in `adapters`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("from tests.diffusion.research_code import *\n")
    (tmp_path / "models" / "lightningdit.py").write_text("from tests.diffusion.research_code import *\n")
    for name, code in ADAPTERS.items():
        (tmp_path / f"my_{name.lower()}.py").write_text(code)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith(("my_", "models"))]:
        del sys.modules[name]


def checkpoint(name: str, folder: Path) -> tuple[torch.nn.Module, str]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = THEIRS[name]().eval()
    state = module.state_dict()
    torch.save({"ema": state} if name == "LightningDiT" else state, folder / "weights.pt")
    return module, str(folder / "weights.pt")


def path_of(name: str) -> str:
    return f"my_{name.lower()}.{name}"


@pytest.mark.parametrize("name", THEIRS)
def test_an_adapter_is_short(name: str) -> None:
    lines = [line for line in ADAPTERS[name].splitlines() if line.strip()]
    assert len(lines) < 30


@pytest.mark.parametrize("name", THEIRS)
@torch.no_grad()
def test_it_predicts_what_the_module_does(name: str, work: Path) -> None:
    module, weights = checkpoint(name, work)
    denoiser = load_denoiser(weights, family=path_of(name))
    x_t = torch.randn(3, *denoiser.latent_shape, generator=torch.Generator().manual_seed(0))
    raw_t = denoiser.raw_t(torch.tensor([100.0, 500.0, 1000.0]))
    labels = torch.tensor([207, 0, 1000])
    found = denoiser.predict(x_t, raw_t, denoiser.encode_prompts(["207", "0", ""]))
    if name == "OriginalDiT":
        expected = module(x_t, raw_t, labels)[:, :4]
    else:  # from data to noise, where theirs runs from noise to data
        expected = -module(x_t, 1 - torch.tensor([0.1, 0.5, 1.0]), labels)[:, : denoiser.num_channels]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", THEIRS)
@torch.no_grad()
def test_its_trajectories_are_the_code_bases_own(name: str, work: Path) -> None:
    """By hand: DDIM over evenly spaced steps, or Euler's method from noise at 0 to data at 1."""
    module, weights = checkpoint(name, work)
    denoiser = load_denoiser(weights, family=path_of(name))
    noise = torch.randn(2, *denoiser.latent_shape, generator=torch.Generator().manual_seed(0))
    found = sample(denoiser, ["3", "7"], num_inference_steps=5, guidance_scale=2.0, initial_noise=noise)
    x, channels = noise, denoiser.num_channels

    def guided(x: torch.Tensor, t: float) -> torch.Tensor:
        times, labels = torch.full((4,), t), torch.tensor([1000, 1000, 3, 7])
        unconditional, conditional = module(torch.cat([x, x]), times, labels)[:, :channels].chunk(2)
        return torch.lerp(unconditional, conditional, 2.0)

    if name == "OriginalDiT":
        kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
        for t in (999, 799, 599, 399, 199):
            noise_part, now = guided(x, t), kept[t]
            x0 = (x - (1 - now).sqrt() * noise_part) / now.sqrt()
            # diffusers' DDIM ends at the first entry of its table unless told otherwise.
            then = kept[t - 200] if t > 200 else torch.tensor(1.0)
            x = then.sqrt() * x0 + (1 - then).sqrt() * noise_part
    else:
        times = [1 - float(sigma) for sigma in denoiser.new_scheduler(5).sigmas]
        for before, after in pairwise(times):
            x = x + (after - before) * guided(x, before)
    # Random weights blow up where DDIM divides by the little signal of the first steps: relative to the whole.
    assert float((found - x).norm() / x.norm()) < 1e-4


@pytest.mark.parametrize("name", THEIRS)
def test_two_steps_of_fit_and_a_test(name: str, work: Path) -> None:
    _, weights = checkpoint(name, work)
    sites = ["blocks.0", "blocks.1:update", "blocks.1:mlp", "blocks.2:attention"]
    prompts = [str(label) for label in range(20)]
    fit_and_test("own", {"family": path_of(name), "pretrained": weights, "sites": sites, "prompts": prompts})


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
    with pytest.raises(UserError, match=r"Model fails for .* looks at values: .*bincount.*device `meta`") as caught:
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
    with pytest.raises(UserError, match=r"the weights of .*weights.pt' do not fit Model: .*pos_embed"):
        load_denoiser(weights, family=path_of("OriginalDiT"))


def test_a_prompt_that_is_no_class(work: Path) -> None:
    _, weights = checkpoint("OriginalDiT", work)
    denoiser = load_denoiser(weights, family=path_of("OriginalDiT"))
    with pytest.raises(UserError, match="prompt 'a red ball' is no class: give a name or 0 to 999"):
        denoiser.encode_prompts(["a red ball"])


@pytest.fixture
def auraflow(work: Path) -> Denoiser:
    """A pipeline that no family names, through the four lines of the page."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = diffusers.AuraFlowTransformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            num_mmdit_layers=1,
            num_single_dit_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            caption_projection_dim=32,
            pos_embed_max_size=16,
        )
        pipeline = diffusers.AuraFlowPipeline(
            tokenizer(256), t5("UMT5"), autoencoder(), transformer, diffusers.FlowMatchEulerDiscreteScheduler()
        )
    pipeline.save_pretrained(work / "pipeline")
    return load_denoiser(str(work / "pipeline"), family=path_of("AuraFlow"))


@torch.no_grad()
def test_another_pipeline_by_its_signature(auraflow: Denoiser, work: Path) -> None:
    noise = torch.randn(2, *auraflow.latent_shape, generator=torch.Generator().manual_seed(0))
    prompts = ["a red ball", "a blue cube"]
    ours = sample(auraflow, prompts, num_inference_steps=3, guidance_scale=3.0, initial_noise=noise)
    auraflow.pipeline.set_progress_bar_config(disable=True)
    call = {"num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "latent", "height": 16, "width": 16}
    (theirs,) = auraflow.pipeline(prompt=prompts, latents=noise, return_dict=False, **call)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)
    described = describe_denoiser(str(work / "pipeline"), family=path_of("AuraFlow"))
    patterns = ["joint_transformer_blocks.0", "single_transformer_blocks.*"]
    shapes = described.site_shapes(described.resolve_sites(patterns))
    assert [(shape.d_in, shape.grid) for shape in shapes.values()] == [(32, (4, 4))] * 3
    x_t, raw_t, conditioning = noise, torch.tensor([0.2, 0.9]), auraflow.encode_prompts(prompts)
    plain = guided_prediction(auraflow, x_t, raw_t, conditioning, 3.0)
    with auraflow.splice(dict.fromkeys(auraflow.resolve_sites(patterns), torch.clone)):
        assert torch.equal(guided_prediction(auraflow, x_t, raw_t, conditioning, 3.0), plain)


def test_an_unknown_pipeline_says_what_to_do(auraflow: Denoiser, work: Path) -> None:
    with pytest.raises(UserError, match=r"is a AuraFlowPipeline; supported are DiTPipeline.*set family"):
        load_denoiser(str(work / "pipeline"))
