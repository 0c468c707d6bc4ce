"""EleutherAI's sparsify: cfg.json and sae.safetensors, with the encoder as a linear layer.

z = TopK(ReLU(W (x - b_dec) + b), k)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tide_lightning.saes.exchange.described import Described, RefusedError, weights, whole_number
from tide_lightning.saes.exchange.folded import Folded
from tide_lightning.saes.untrusted import read_json, read_safetensors
from tide_lightning.saes.whole import write_pair

NAME = "sparsify"


def lies_in(place: Path) -> bool:
    """Whether both files are there; SAeUron's, which are called the same, are looked for before."""
    return (place / "cfg.json").is_file() and (place / "sae.safetensors").is_file()


def read(place: Path) -> Described:
    """A sparse coder that codes what it reads."""
    cfg, tensors = read_json(place / "cfg.json"), read_safetensors(place / "sae.safetensors")
    if "W_skip" in tensors or cfg.get("skip_connection"):
        raise RefusedError("W_skip, a linear path around the code, is in no SAE of ours")
    if cfg.get("transcode"):
        raise RefusedError("a transcoder maps one activation to another, and is no SAE of either")
    if cfg.get("signed"):
        raise RefusedError("latents with a sign (signed) are in no SAE of ours")
    if (activation := cfg.get("activation", "topk")) != "topk":
        raise RefusedError(f"the activation {str(activation)[:40]!r} is none of ours; topk is")
    own = weights(tensors, "encoder.weight", "encoder.bias", "W_dec", "b_dec")
    return own.topk(whole_number(cfg, "k"))


def write(folder: Path, sae: Folded, metadata: Mapping[str, object]) -> Path:
    """Write an SAE that keeps k latents a token: this layout knows no other."""
    if sae.k is None:
        raise RefusedError("sparsify keeps k latents of every token; this SAE has thresholds, which saelens can hold")
    own = sae.weights
    num_latents, d_in = own.W_enc.shape
    cfg: dict[str, object] = {"activation": "topk", "num_latents": num_latents, "k": sae.k, "d_in": d_in}
    cfg |= {"normalize_decoder": False, "expansion_factor": max(1, num_latents // d_in)}
    cfg |= {"multi_topk": False, "skip_connection": False, "transcode": False, "metadata": dict(metadata)}
    names = {"encoder.weight": own.W_enc, "encoder.bias": own.b_enc, "W_dec": own.W_dec, "b_dec": own.b_dec}
    return write_pair(folder, "cfg.json", cfg, "sae.safetensors", names)
