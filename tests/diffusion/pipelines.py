"""A miniature pipeline of every supported family, and how its own call is asked for the same as ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import Tensor

from tests.diffusion.miniature import autoencoder, pixart_transformer, t5, tokenizer

HEADS = {"num_attention_heads": 2, "attention_head_dim": 16}


def clip(projection: bool) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=16,
        hidden_size=16,
        intermediate_size=32,
        projection_dim=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
    )
    return (transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel)(config)


def dit() -> Any:
    transformer = diffusers.DiTTransformer2DModel(
        **HEADS, in_channels=4, out_channels=8, num_layers=2, sample_size=8, norm_num_groups=4
    )
    return diffusers.DiTPipeline(transformer, autoencoder(), diffusers.DDIMScheduler())


def pixart_alpha() -> Any:
    scheduler = diffusers.DPMSolverMultistepScheduler()
    return diffusers.PixArtAlphaPipeline(tokenizer(), t5(), autoencoder(), pixart_transformer(), scheduler)


def pixart_sigma() -> Any:
    scheduler = diffusers.EulerDiscreteScheduler()
    transformer = pixart_transformer(use_additional_conditions=False)
    return diffusers.PixArtSigmaPipeline(tokenizer(300), t5(), autoencoder(), transformer, scheduler)


def sd3() -> Any:
    transformer = diffusers.SD3Transformer2DModel(
        **HEADS,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=32,
        pos_embed_max_size=8,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    t5_32 = transformers.T5EncoderModel(
        transformers.T5Config(vocab_size=16, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    )
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=autoencoder(shift_factor=0.1),
        text_encoder=clip(True),
        tokenizer=tokenizer(77),
        text_encoder_2=clip(True),
        tokenizer_2=tokenizer(77),
        text_encoder_3=t5_32,
        tokenizer_3=tokenizer(256),
    )


def flux(dev: bool) -> Any:
    transformer = diffusers.FluxTransformer2DModel(
        **HEADS,
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        guidance_embeds=dev,
        axes_dims_rope=(4, 4, 8),
    )
    return diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=dev),
        vae=autoencoder(shift_factor=0.1),
        text_encoder=clip(False),
        tokenizer=tokenizer(77),
        text_encoder_2=t5(),
        tokenizer_2=tokenizer(512),
        transformer=transformer,
    )


def sana() -> Any:
    transformer = diffusers.SanaTransformer2DModel(
        **HEADS,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=16,
        cross_attention_dim=32,
        caption_channels=16,
        sample_size=8,
    )
    gemma = transformers.Gemma2Model(
        transformers.Gemma2Config(
            vocab_size=16,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=8,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=2,
        )
    )
    blocks: dict[str, Any] = {}
    for side in ("encoder", "decoder"):
        blocks |= {
            f"{side}_block_types": "ResBlock",
            f"{side}_block_out_channels": (8, 8, 8),
            f"{side}_layers_per_block": (1, 1, 1),
            f"{side}_qkv_multiscales": ((), (), ()),
        }
    vae = diffusers.AutoencoderDC(latent_channels=4, attention_head_dim=4, scaling_factor=0.5, **blocks)
    scheduler = diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    return diffusers.SanaPipeline(tokenizer(512), gemma, vae, transformer, scheduler)


def wan() -> Any:
    transformer = diffusers.WanTransformer3DModel(
        **HEADS,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
    )
    vae = diffusers.AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[True],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.5, 0.5, 1.0, 2.0],
        scale_factor_temporal=2,
        scale_factor_spatial=2,
    )
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    return diffusers.WanPipeline(tokenizer(512), t5("UMT5"), vae, scheduler, transformer)


def sdxl() -> Any:
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=6 * 8 + 16,
        cross_attention_dim=32,
        norm_num_groups=8,
    )
    return diffusers.StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=clip(False),
        text_encoder_2=clip(True),
        tokenizer=tokenizer(77),
        tokenizer_2=tokenizer(77),
        unet=unet,
        scheduler=diffusers.EulerDiscreteScheduler(timestep_spacing="leading", steps_offset=1),
    )


PROMPTS = ["a red ball", "a blue cube on white floor"]
PIXELS = {"height": 16, "width": 16}


@dataclass(frozen=True)
class Family:
    """One family in miniature.

    Args:
        build: makes its pipeline.
        sites: some of every kind, whose shapes tokens x width follow.
        shapes: tokens and width of each.
        call: arguments of the pipeline's own call.
        prompts: what it is asked for.
        latent_size: where the model does not say.
        guidance_scale: of both calls.
        labels: names of the first classes.
    """

    build: Callable[[], Any]
    sites: dict[str, tuple[int, int]]
    call: dict[str, Any] = field(default_factory=dict)
    prompts: list[str] = field(default_factory=lambda: list(PROMPTS))
    latent_size: tuple[int, ...] | None = None
    guidance_scale: float = 3.0
    labels: dict[str, str] = field(default_factory=dict)

    def save(self, folder: Path) -> Path:
        """Write the pipeline, of the same random weights each time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            pipeline = self.build()
        pipeline.save_pretrained(folder)
        if self.labels:  # published DiTs have them here; diffusers reads but does not write them
            index = json.loads((folder / "model_index.json").read_text())
            (folder / "model_index.json").write_text(json.dumps({**index, "id2label": self.labels}))
        return folder


_PARTS = ["0", "1:update", "1:mlp", "0:attention"]
_PIXART = {f"transformer_blocks.{part}": (16, 32) for part in _PARTS}
_UNBINNED = {**PIXELS, "use_resolution_binning": False, "clean_caption": False}


def _streams(num_text: int) -> dict[str, tuple[int, int]]:
    return {
        "transformer_blocks.0": (16, 32),
        "transformer_blocks.0:text": (num_text, 32),
        "transformer_blocks.1:update": (16, 32),
        "transformer_blocks.1:update:text": (num_text, 32),
        "transformer_blocks.1:mlp": (16, 32),
        "transformer_blocks.1:mlp:text": (num_text, 32),
        "transformer_blocks.1:attention": (16, 32),
        "transformer_blocks.1:attention:text": (num_text, 32),
    }


def _singles(num_text: int) -> dict[str, tuple[int, int]]:
    return {
        **_streams(num_text),
        "single_transformer_blocks.1": (16, 32),
        "single_transformer_blocks.1:update": (16, 32),
        "single_transformer_blocks.0:update:text": (num_text, 32),
        "single_transformer_blocks.0:attention": (16, 32),
        "single_transformer_blocks.0:attention:text": (num_text, 32),
    }


FAMILIES = {
    "dit": Family(dit, _PIXART, prompts=["goldfish", "2"], labels={"0": "tench, Tinca tinca", "1": "goldfish"}),
    "pixart-alpha": Family(pixart_alpha, _PIXART, _UNBINNED),
    "pixart-sigma": Family(pixart_sigma, _PIXART, _UNBINNED),
    "sd3": Family(sd3, _streams(77 + 256), PIXELS),
    "flux-schnell": Family(
        lambda: flux(False), _singles(256), {**PIXELS, "max_sequence_length": 256}, latent_size=(8, 8)
    ),
    "flux-dev": Family(lambda: flux(True), _singles(512), PIXELS, latent_size=(8, 8)),
    "sana": Family(
        sana,
        {site: (64, width) for site, (_, width) in _PIXART.items()},
        {**_UNBINNED, "height": 32, "width": 32},
    ),
    "wan": Family(
        wan,
        {"blocks.0": (32, 32), "blocks.1:update": (32, 32), "blocks.1:mlp": (32, 32), "blocks.0:attention": (32, 32)},
        {**PIXELS, "num_frames": 3},
        latent_size=(2, 8, 8),
    ),
    "sdxl": Family(
        sdxl,
        {
            "down_blocks.1.attentions.0.transformer_blocks.1": (16, 32),
            "down_blocks.1.attentions.0.transformer_blocks.0:attention": (16, 32),
            "mid_block.attentions.0.transformer_blocks.0:mlp": (16, 32),
            "up_blocks.0.attentions.1.transformer_blocks.0:update": (16, 32),
            "down_blocks.0.resnets.0": (64, 16),
            "down_blocks.1.attentions.0:update": (16, 32),
        },
        PIXELS,
    ),
}


def pipeline_latents(family: Family, pipeline: Any, noise: Tensor, steps: int, output_type: str) -> Tensor:
    """What the pipeline's own call makes of the noise."""
    pipeline.set_progress_bar_config(disable=True)
    arguments = {"num_inference_steps": steps, "guidance_scale": family.guidance_scale, "output_type": output_type}
    if isinstance(pipeline, diffusers.FluxPipeline):
        noise = pipeline._pack_latents(noise, *noise.shape)
    found: Tensor = pipeline(prompt=family.prompts, latents=noise, **arguments, **family.call)[0]
    if isinstance(pipeline, diffusers.FluxPipeline) and output_type == "latent":
        found = pipeline._unpack_latents(found, 16, 16, pipeline.vae_scale_factor)
    return found
