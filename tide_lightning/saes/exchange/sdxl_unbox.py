"""sdxl-unbox (arXiv 2410.22366): config.json and state_dict.pth, TopK in the manner of OpenAI's sparse_autoencoder.

    z = ReLU(TopK(W (x - pre_bias) + latent_bias, k))
    x_hat = W_dec z + pre_bias

Its activations are what a transformer block adds (output minus input, `:update` here). mean.pt and std.pt, which lie
beside the published ones, are of the latents and not of the activations: its demonstration steers by them.
"""

from __future__ import annotations

from pathlib import Path

from tide_lightning.saes.exchange.described import Described, RefusedError, weights, whole_number
from tide_lightning.saes.untrusted import read_json, read_pickled

NAME = "sdxl-unbox"


def lies_in(place: Path) -> bool:
    """Whether both files are there."""
    return (place / "config.json").is_file() and (place / "state_dict.pth").is_file()


def read(place: Path) -> Described:
    """A TopK SAE."""
    cfg, tensors = read_json(place / "config.json"), read_pickled(place / "state_dict.pth")
    own = weights(tensors, "encoder.weight", "latent_bias", "decoder.weight.T", "pre_bias")
    for name in ("mean.pt", "std.pt"):
        if (place / name).is_file():
            _check_statistics(place / name, len(own.b_enc))
    return own.topk(whole_number(cfg, "k"))


def _check_statistics(path: Path, num_latents: int) -> None:
    """Statistics of the activations instead would be a normalisation, which this layout does not have."""
    (statistics,) = read_pickled(path).values()
    if statistics.numel() != num_latents:
        raise RefusedError(f"{path.name} has {statistics.numel()} numbers, not one for each of {num_latents} latents")
