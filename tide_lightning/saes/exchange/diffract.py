"""DifFRACT (arXiv 2606.15796): one state dict a file, `sae_<stream>_<layer>.pt`, with FiLM by the timestep.

    x_mod = x * (1 + scale(t)) + shift(t)
    z     = ReLU(W_enc x_mod + b_enc),   x_hat = W_dec z + b_dec

Its SAEs read an MLP's output (`transformer_blocks.<layer>.ff` or `ff_context` of FLUX, `:mlp` here). Its transcoders
have the same tensors, but map an MLP's input to its output; only the name of the file tells them apart.
"""

from __future__ import annotations

from pathlib import Path

from tide_lightning.saes.exchange.described import Described, RefusedError, take, weights
from tide_lightning.saes.untrusted import read_pickled

NAME = "DifFRACT"
MODULATION = (
    "time_mlp.0.weight",
    "time_mlp.0.bias",
    "time_mlp.2.weight",
    "time_mlp.2.bias",
    "mod_linear.weight",
    "mod_linear.bias",
)


def lies_in(place: Path) -> bool:
    """Whether this is a file as DifFRACT names it."""
    return place.is_file() and place.suffix == ".pt" and place.stem.startswith(("sae_", "transcoder_"))


def read(place: Path) -> Described:
    """An SAE that knows the timestep."""
    if place.stem.startswith("transcoder_"):
        raise RefusedError("a transcoder maps an MLP's input to its output, and is no SAE of either")
    tensors = read_pickled(place)
    own = weights(tensors, "encoder.weight", "encoder.bias", "decoder.weight.T", "decoder.bias")
    return own.reading_x().film(dict(zip(MODULATION, take(tensors, *MODULATION), strict=True)))
