"""What an `ActivationDataModule` can be told, checked before anything is loaded."""

from __future__ import annotations

from typing import Any

from tide_lightning.errors import UserError

_LEAST = {
    "samples_per_batch": 1,
    "num_inference_steps": 1,
    "batches_per_epoch": 1,
    "num_validation_samples": 1,
    "num_test_samples": 1,
    "num_calibration_samples": 1,
    "num_generated": 2,
    "latent_cache": 0,
    "seed": 0,
}

_CHOICES = {
    "source": ("noise", "denoise", "both"),
    "test_source": ("noise", "denoise"),
    "halves": ("conditional", "both"),
}


def check_arguments(data: Any, has_prompts_or_images: bool) -> None:
    """Raise a `UserError` for the first argument of a datamodule that is out of range."""
    if not has_prompts_or_images:
        raise UserError("the data needs prompts, images or both: set data.prompts or data.images")
    for name, least in _LEAST.items():
        if getattr(data, name) < least:
            raise UserError(f"{name} must be at least {least}, not {getattr(data, name)}")
    if data.forward_batch_size is not None and data.forward_batch_size < 1:
        raise UserError(f"forward_batch_size must be at least 1, not {data.forward_batch_size}")
    tokens = data.tokens_per_sample
    if not (0 < tokens <= 1 if isinstance(tokens, float) else tokens >= 1):
        raise UserError(f"tokens_per_sample must be a number of at least 1 or a fraction in (0, 1], not {tokens}")
    if not 0 <= data.prompt_dropout <= 1:
        raise UserError(f"prompt_dropout must be in [0, 1], not {data.prompt_dropout}")
    if data.cache is not None and (data.cache.max_gib <= 0 or data.cache.batches_per_shard < 1):
        raise UserError("cache: max_gib must be above 0 and batches_per_shard at least 1")
    for name, choices in _CHOICES.items():
        if getattr(data, name) not in choices:
            raise UserError(f"{name} must be one of {', '.join(choices)}, not {getattr(data, name)!r}")
    if data.dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise UserError(f"dtype must be auto, float32, bfloat16 or float16, not {data.dtype!r}")
    if data.source == "both" and data.samples_per_batch % 2:
        raise UserError(f"source both needs an even samples_per_batch, not {data.samples_per_batch}")
    if data.halves == "both" and data.guidance_scale <= 1 and data.source != "noise":
        raise UserError("halves both needs a guidance_scale above 1: without guidance there is only one half")
