"""PixArt-alpha XL/2 at 512 pixels with random weights, built on the spot: full size, nothing downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

PROMPTS = [f"a {colour} {thing}" for colour in ("red", "green", "blue", "small") for thing in ("ball", "cube", "cone")]
_WORDS = ["<pad>", "</s>", "<unk>", *sorted({word for prompt in PROMPTS for word in prompt.split()})]


def build(folder: Path, device: torch.device, is_small: bool) -> Path:
    """Write the pipeline and prompts.txt beside it; the text encoder alone is a miniature."""
    sizes: dict[str, Any] = {"num_attention_heads": 16, "attention_head_dim": 72, "num_layers": 28, "sample_size": 64}
    if is_small:
        sizes = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 4, "sample_size": 8}
    width = sizes["num_attention_heads"] * sizes["attention_head_dim"]
    torch.manual_seed(0)
    with torch.device(device):
        transformer = diffusers.PixArtTransformer2DModel(
            **sizes, in_channels=4, out_channels=8, cross_attention_dim=width, caption_channels=64
        )
        torch.nn.init.normal_(transformer.scale_shift_table, std=0.5)  # small as diffusers starts it
        text_encoder = transformers.T5EncoderModel(
            transformers.T5Config(vocab_size=len(_WORDS), d_model=64, d_kv=16, d_ff=64, num_layers=1, num_heads=4)
        )
        vae = diffusers.AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4)
    pipeline = diffusers.PixArtAlphaPipeline(
        tokenizer=_tokenizer(),
        text_encoder=text_encoder,
        vae=vae,
        transformer=transformer.to(torch.float32 if is_small else torch.bfloat16),
        scheduler=diffusers.DPMSolverMultistepScheduler(),
    )
    folder.mkdir(parents=True, exist_ok=True)
    pipeline.save_pretrained(folder / "pipeline")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    return folder / "pipeline"


def _tokenizer() -> Any:
    """A word is a token."""
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(_WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=120
    )
