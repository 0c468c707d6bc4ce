"""Put the trained parts together as a diffusers pipeline that loads without our code."""

import json
from pathlib import Path

from diffusers import AutoencoderKL, PixArtAlphaPipeline, PixArtTransformer2DModel
from diffusers.models.attention_processor import AttnProcessor2_0
from transformers import PreTrainedTokenizerFast, T5EncoderModel

from tide_lightning.diffusion.loading import LOSS_WEIGHTS
from tools.toybox.denoiser import GAMMA, build_scheduler


def assemble(
    vae: AutoencoderKL,
    text_encoder: T5EncoderModel,
    transformer: PixArtTransformer2DModel,
    tokenizer: PreTrainedTokenizerFast,
    scale: float,
) -> PixArtAlphaPipeline:
    """The pipeline in memory, on the CPU, with the fused attention that diffusers uses by default."""
    vae.register_to_config(scaling_factor=scale)
    transformer.set_attn_processor(AttnProcessor2_0())
    parts = [part.float().cpu().eval() for part in (vae, text_encoder, transformer)]
    return PixArtAlphaPipeline(
        tokenizer=tokenizer,
        text_encoder=parts[1],
        vae=parts[0],
        transformer=parts[2],
        scheduler=build_scheduler(),
    )


def export(pipeline: PixArtAlphaPipeline, folder: Path) -> None:
    """Write the pipeline as safetensors."""
    pipeline.save_pretrained(folder, safe_serialization=True)
    # Every version of transformers knows this name; newer ones save a new name for the same class.
    _set(folder / "model_index.json", "tokenizer", ["transformers", "PreTrainedTokenizerFast"])
    _set(folder / "model_index.json", LOSS_WEIGHTS, f"min_snr:{GAMMA}")
    _set(folder / "tokenizer" / "tokenizer_config.json", "tokenizer_class", "PreTrainedTokenizerFast")


def _set(path: Path, key: str, value: object) -> None:
    config = json.loads(path.read_text())
    config[key] = value
    path.write_text(json.dumps(config, indent=2) + "\n")
