"""SAELens, version 6: cfg.json and sae_weights.safetensors, W_enc as [d_in, d_sae].

BatchTopK and Matryoshka are saved as JumpReLU with one threshold. Options that ours do not have are refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tide_lightning.saes.exchange.described import Described, RefusedError, Weights, take, weights, whole_number
from tide_lightning.saes.exchange.folded import Folded
from tide_lightning.saes.untrusted import read_json, read_safetensors
from tide_lightning.saes.whole import write_pair

NAME = "SAELens"
VERSION = "6.54.12"
"""The one whose files these are; its loader takes what names no version for older than 6."""

_REFUSED = {
    "expected_average_only_in": "whose factor is in no file: fold it in (fold_activation_norm_scaling_factor) and save",
    "constant_norm_rescale": "which scales each token by its own norm, as no SAE of ours does",
    "layer_norm": "which scales each token by its own spread, as no SAE of ours does",
    "covariance_whitening": "whose map is in no file: fold it in (fold_activation_whitening) and save",
}


def lies_in(place: Path) -> bool:
    """Whether both files are there."""
    return (place / "cfg.json").is_file() and (place / "sae_weights.safetensors").is_file()


def read(place: Path) -> Described:
    """One of its architectures."""
    cfg, tensors = read_json(place / "cfg.json"), read_safetensors(place / "sae_weights.safetensors")
    _check_options(cfg, tensors)
    architecture = cfg.get("architecture")
    subtracts = cfg.get("apply_b_dec_to_input", True)
    own = weights(tensors, "W_enc.T", "b_gate" if architecture == "gated" else "b_enc", "W_dec", "b_dec")
    match architecture:
        case "standard":
            return _reading(own, subtracts).relu()
        case "topk":
            own = _reading(own, subtracts)
            own = own.with_unit_rows() if cfg.get("rescale_acts_by_decoder_norm", False) else own
            return own.topk(whole_number(cfg, "k"))
        case "jumprelu":
            return _reading(own, subtracts).jumprelu(*take(tensors, "threshold"))
        case "gated":
            r_mag, b_mag = take(tensors, "r_mag", "b_mag")
            b_mag = b_mag if subtracts else b_mag + r_mag.exp() * own.shift()
            return _reading(own, subtracts).gated(r_mag, b_mag)
        case "batchtopk" | "matryoshka_batchtopk" if "topk_threshold" in tensors:
            raise RefusedError("a BatchTopK SAE from within its training: save it for use (save_inference_model)")
    if "metadata" not in cfg:
        raise RefusedError("it was saved before version 6: load it there and save it anew")
    raise RefusedError(f"its architecture {str(architecture)[:40]!r} has no counterpart here")


def _reading(own: Weights, subtracts: bool) -> Weights:
    return own if subtracts else own.reading_x()


def _check_options(cfg: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    normalisation = cfg.get("normalize_activations", "none")
    if normalisation != "none":
        reason = _REFUSED.get(str(normalisation), "which is not known here")
        raise RefusedError(f"normalize_activations is {str(normalisation)[:40]!r}, {reason}")
    if (reshaped := cfg.get("reshape_activations", "none")) != "none":
        raise RefusedError(
            f"reshape_activations is {str(reshaped)[:40]!r}: activations by attention head are no tokens"
        )
    for name in ("apply_b_dec_to_input", "rescale_acts_by_decoder_norm"):
        if not isinstance(cfg.get(name, False), bool):
            raise RefusedError(f"{name} is {str(cfg[name])[:40]!r}, neither true nor false")
    ones = tensors.get("scaling_factor")  # a relic, which is dropped where it does nothing
    if cfg.get("finetuning_scaling_factor") or not (ones is None or ones.allclose(torch.ones_like(ones))):
        raise RefusedError("finetuning_scaling_factor multiplies latents when decoding, as no SAE of ours does")


def write(folder: Path, sae: Folded, metadata: Mapping[str, object]) -> Path:
    """Write an SAE."""
    own = sae.weights
    tensors = {"W_enc": own.W_enc.mT, "b_enc": own.b_enc, "W_dec": own.W_dec, "b_dec": own.b_dec}
    options: dict[str, object] = {}
    if sae.gate is not None:
        architecture = "gated"
        tensors |= {"b_gate": tensors.pop("b_enc"), "r_mag": sae.gate[0], "b_mag": sae.gate[1]}
    elif sae.k is not None:
        architecture, options = "topk", {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    elif sae.threshold is not None and sae.threshold.any():
        architecture, tensors["threshold"] = "jumprelu", sae.threshold
    else:
        architecture = "standard"
    d_in, d_sae = tensors["W_enc"].shape
    cfg = {"architecture": architecture, "d_in": d_in, "d_sae": d_sae, "dtype": "float32", "device": "cpu", **options}
    cfg |= {"apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none"}
    cfg["metadata"] = {"sae_lens_version": VERSION, "sae_lens_training_version": None, **metadata}
    return write_pair(folder, "cfg.json", cfg, "sae_weights.safetensors", tensors)
