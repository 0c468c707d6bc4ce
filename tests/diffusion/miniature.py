"""Parts of random weights in miniature, and a PixArt-alpha pipeline made of them: saved and loaded by diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = ["a", "red", "green", "blue", "small", "large", "ball", "cube", "cone", "on", "white", "black", "floor"]
_VOCABULARY = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}


def tokenizer(max_length: int = 120) -> Any:
    """A word is a token; `</s>` ends a prompt."""
    words = Tokenizer(models.WordLevel(_VOCABULARY, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=max_length
    )


def t5(kind: str = "T5") -> Any:
    """A T5 (or UMT5) encoder of width 16."""
    sizes = {"vocab_size": len(_VOCABULARY), "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    config = getattr(transformers, f"{kind}Config")(**sizes, feed_forward_proj="gated-gelu")
    return getattr(transformers, f"{kind}EncoderModel")(config)


def autoencoder(**changes: Any) -> Any:
    """A VAE of 4 channels that halves an image's sides."""
    sizes: dict[str, Any] = {
        "block_out_channels": (8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "norm_num_groups": 4,
        "latent_channels": 4,
        "sample_size": 16,
    }
    return diffusers.AutoencoderKL(**(sizes | changes))


def pixart_transformer(**changes: Any) -> Any:
    """4x8x8 latents (16 tokens), 3 blocks of width 32."""
    sizes = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": 4,
        "out_channels": 8,
        "num_layers": 3,
        "cross_attention_dim": 32,
        "sample_size": 8,
        "caption_channels": 16,
    }
    transformer = diffusers.PixArtTransformer2DModel(**(sizes | changes))
    # diffusers starts adaLN's tables small; a trained model uses them.
    torch.nn.init.normal_(transformer.scale_shift_table, std=0.5)
    return transformer


def save_miniature(folder: Path, scheduler: str = "DPMSolverMultistepScheduler") -> Path:
    """Write a PixArt-alpha pipeline with 16-pixel images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = diffusers.PixArtAlphaPipeline(
            tokenizer=tokenizer(),
            text_encoder=t5(),
            vae=autoencoder(),
            transformer=pixart_transformer(),
            scheduler=getattr(diffusers, scheduler)(),
        )
    pipeline.save_pretrained(folder)
    return folder
