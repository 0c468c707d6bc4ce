"""The simplest layout, for code without any SAE library: plain.json and plain.safetensors.

pre = W_enc x + b_enc                                   both weights [d_sae, d_in]
z   = the k largest of ReLU(pre), or pre where it exceeds `threshold` (one for each latent, at least 0)
x_hat = W_dec^T z + b_dec
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tide_lightning.saes.exchange.described import Described, RefusedError, take, weights, whole_number
from tide_lightning.saes.exchange.folded import Folded
from tide_lightning.saes.untrusted import read_json, read_safetensors
from tide_lightning.saes.whole import write_pair

NAME = "plain"
CFG, WEIGHTS = "plain.json", "plain.safetensors"


def lies_in(place: Path) -> bool:
    """Whether both files are there."""
    return (place / CFG).is_file() and (place / WEIGHTS).is_file()


def read(place: Path) -> Described:
    """Both activations."""
    cfg, tensors = read_json(place / CFG), read_safetensors(place / WEIGHTS)
    own = weights(tensors, "W_enc", "b_enc", "W_dec", "b_dec").reading_x()
    match activation := cfg.get("activation"):
        case "topk":
            return own.topk(whole_number(cfg, "k"))
        case "threshold":
            return own.jumprelu(*take(tensors, "threshold"))
    raise RefusedError(f"its activation {str(activation)[:40]!r} is neither topk nor threshold")


def write(folder: Path, sae: Folded, metadata: Mapping[str, object]) -> Path:
    """Write an SAE."""
    own = sae.weights
    tensors = {"W_enc": own.W_enc, "b_enc": own.b_enc - own.shift(), "W_dec": own.W_dec, "b_dec": own.b_dec}
    cfg: dict[str, object] = {"z": "W_enc x + b_enc, then the activation", "x_hat": "W_dec^T z + b_dec"}
    if sae.k is not None:
        cfg |= {"activation": "topk", "k": sae.k}
    elif sae.threshold is not None:
        cfg |= {"activation": "threshold"}
        tensors["threshold"] = sae.threshold
    else:
        raise RefusedError("a gated SAE has two encoders, for which this layout has no place; saelens has")
    return write_pair(folder, CFG, {**cfg, "metadata": dict(metadata)}, WEIGHTS, tensors)
