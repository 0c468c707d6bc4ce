"""Adapters of pipelines that no family names, as docs/tutorials/your-dit.md shows them."""

from __future__ import annotations

from pathlib import Path

import diffusers
import pytest
import torch

from tests.diffusion.adapters import path_of
from tests.diffusion.miniature import autoencoder, t5, tokenizer
from tests.diffusion.pipelines import clip
from tide_lightning.diffusion import Denoiser, describe_denoiser, load_denoiser, sample
from tide_lightning.diffusion.trajectories import guided_prediction
from tide_lightning.errors import UserError

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
]


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


@torch.no_grad()
def test_a_unet_by_its_component(work: Path) -> None:
    """Stable Diffusion 1.5 in miniature: convolutions into its transformers, one CLIP."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = diffusers.UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            attention_head_dim=8,
            cross_attention_dim=16,
            norm_num_groups=8,
        )
        parts = {"vae": autoencoder(), "text_encoder": clip(False), "tokenizer": tokenizer(77), "unet": unet}
        scheduler = diffusers.DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, clip_sample=False
        )
        none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        diffusers.StableDiffusionPipeline(**parts, scheduler=scheduler, **none).save_pretrained(work / "pipeline")
    denoiser = load_denoiser(str(work / "pipeline"), family=path_of("StableDiffusion"))
    noise = torch.randn(2, *denoiser.latent_shape, generator=torch.Generator().manual_seed(0))
    prompts = ["a red ball", "a blue cube"]
    ours = sample(denoiser, prompts, num_inference_steps=3, guidance_scale=3.0, initial_noise=noise)
    denoiser.pipeline.set_progress_bar_config(disable=True)
    call = {"num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "latent", "height": 16, "width": 16}
    (theirs, _) = denoiser.pipeline(prompt=prompts, latents=noise, return_dict=False, **call)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)
    described = describe_denoiser(str(work / "pipeline"), family=path_of("StableDiffusion"))
    patterns = ["down_blocks.0.attentions.0.transformer_blocks.0", "mid_block.attentions.0.transformer_blocks.0"]
    shapes = described.site_shapes(described.resolve_sites(patterns))
    assert [(shape.d_in, shape.grid) for shape in shapes.values()] == [(16, (8, 8)), (32, (4, 4))]


def test_an_unknown_pipeline_says_what_to_do(auraflow: Denoiser, work: Path) -> None:
    with pytest.raises(UserError, match=r"is a AuraFlowPipeline; supported are DiTPipeline.*set family"):
        load_denoiser(str(work / "pipeline"))
