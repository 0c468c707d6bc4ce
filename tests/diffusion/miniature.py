"""A PixArt-alpha pipeline of random weights in miniature, saved and loaded by diffusers' own code."""

from __future__ import annotations

from pathlib import Path

import torch

WORDS = ["a", "red", "green", "blue", "small", "large", "ball", "cube", "cone", "on", "white", "black", "floor"]


def save_miniature(folder: Path, scheduler: str = "DPMSolverMultistepScheduler") -> Path:
    """Write a pipeline with 4x8x8 latents (16 tokens), 3 blocks of width 32, 16-pixel images."""
    import diffusers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    vocabulary = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=120
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text_encoder = T5EncoderModel(
            T5Config(
                vocab_size=len(vocabulary),
                d_model=16,
                d_kv=8,
                d_ff=32,
                num_layers=1,
                num_heads=2,
                feed_forward_proj="gated-gelu",
            )
        )
        vae = diffusers.AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4,
            latent_channels=4,
            sample_size=16,
        )
        transformer = diffusers.PixArtTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=4,
            out_channels=8,
            num_layers=3,
            cross_attention_dim=32,
            sample_size=8,
            caption_channels=16,
        )
        # diffusers starts adaLN's tables small; a trained model uses them.
        torch.nn.init.normal_(transformer.scale_shift_table, std=0.5)
    pipeline = diffusers.PixArtAlphaPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=vae,
        transformer=transformer,
        scheduler=getattr(diffusers, scheduler)(),
    )
    pipeline.save_pretrained(folder)
    return folder
