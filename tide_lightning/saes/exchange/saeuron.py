"""SAeUron (arXiv 2501.18052): the file names of an early sparsify, with options of its own.

Whatever it was trained with (`batch_topk`, `sample_topk`), its own loader takes each token's k largest, and so do we.
Its activations are outputs of a U-Net's attention blocks.
"""

from __future__ import annotations

from pathlib import Path

from tide_lightning.saes.exchange.described import Described, RefusedError, weights, whole_number
from tide_lightning.saes.untrusted import read_json, read_safetensors

NAME = "SAeUron"


def lies_in(place: Path) -> bool:
    """Whether sparsify's files are there with an option that only SAeUron has."""
    if not ((place / "cfg.json").is_file() and (place / "sae.safetensors").is_file()):
        return False
    cfg = read_json(place / "cfg.json")
    return "sample_topk" in cfg or "input_unit_norm" in cfg


def read(place: Path) -> Described:
    """An SAE of single tokens."""
    cfg, tensors = read_json(place / "cfg.json"), read_safetensors(place / "sae.safetensors")
    if cfg.get("input_unit_norm"):
        raise RefusedError("input_unit_norm scales each token by its own spread, as no SAE of ours does")
    own = weights(tensors, "encoder.weight", "encoder.bias", "W_dec", "b_dec")
    return own.topk(whole_number(cfg, "k"))
