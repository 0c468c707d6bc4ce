"""Keys of `data` that older configs have elsewhere, so that their users are told the new ones."""

from __future__ import annotations

from collections.abc import Iterable

_MOVED = {
    "heldout_prompts": "heldout.prompts",
    "heldout_images": "heldout.images",
    "num_validation_samples": "heldout.num_validation_samples",
    "num_test_samples": "heldout.num_test_samples",
    "test_source": "heldout.test_source",
    "guidance_scale": "trajectories.guidance_scale",
    "num_inference_steps": "trajectories.num_inference_steps",
    "halves": "trajectories.halves",
    "prompt_dropout": "noised.prompt_dropout",
    "num_generated": "noised.num_generated",
    "latent_cache": "noised.latent_cache_gib (device memory)",
    "dtype": "loading.dtype",
    "latent_size": "loading.latent_size",
    "compile": "loading.compile",
    "prompt_cache": "loading.prompt_cache",
    "revision": "loading.revision",
    "variant": "loading.variant",
    "local_files_only": "loading.local_files_only",
}


def moved_keys(keys: Iterable[str]) -> str | None:
    """What to write instead of those keys of `data` that have moved; None where none has."""
    moved = [f"data.{key} is data.{_MOVED[key]} now" for key in keys if key in _MOVED]
    return ", ".join(moved) or None
