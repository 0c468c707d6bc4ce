"""dictionary_learning (Marks, Karvonen et al.): config.json and a state dict ae.pt.

Which class of its own it is says `trainer.dict_class`. TopK takes each token's k largest; BatchTopK and Matryoshka take
what exceeds a threshold that training learned.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from tide_lightning.saes.exchange.described import Described, RefusedError, Weights, take, weights, whole_number
from tide_lightning.saes.untrusted import read_json, read_pickled

NAME = "dictionary_learning"


def lies_in(place: Path) -> bool:
    """Whether both files are there."""
    return (place / "config.json").is_file() and (place / "ae.pt").is_file()


def read(place: Path) -> Described:
    """One of its classes."""
    trainer = read_json(place / "config.json").get("trainer")
    if not isinstance(trainer, dict):
        raise RefusedError("config.json names no trainer")
    kind, tensors = trainer.get("dict_class"), read_pickled(place / "ae.pt")
    match kind:
        case "AutoEncoder":  # its own loader gives the rows unit norm
            return _linear(tensors, "bias").with_unit_rows().relu()
        case "AutoEncoderNew":
            return _linear(tensors, "decoder.bias").reading_x().relu()
        case "GatedAutoEncoder":
            own = weights(tensors, "encoder.weight", "gate_bias", "decoder.weight.T", "decoder_bias")
            return own.gated(*take(tensors, "r_mag", "mag_bias"))
        case "AutoEncoderTopK":
            return _linear(tensors, "b_dec").topk(whole_number(trainer, "k"))
        case "BatchTopKSAE":
            return _linear(tensors, "b_dec").batch_topk(whole_number(trainer, "k"), _threshold(tensors))
        case "MatryoshkaBatchTopKSAE":
            (sizes,) = take(tensors, "group_sizes")
            groups = [int(size) for size in sizes.tolist()]
            return _matrices(tensors).batch_topk(whole_number(trainer, "k"), _threshold(tensors), groups)
        case "JumpReluAutoEncoder":
            return _matrices(tensors).reading_x().jumprelu(*take(tensors, "threshold"))
    raise RefusedError(f"its dict_class {str(kind)[:40]!r} has no counterpart here")


def _linear(tensors: dict[str, Tensor], b_dec: str) -> Weights:
    return weights(tensors, "encoder.weight", "encoder.bias", "decoder.weight.T", b_dec)


def _matrices(tensors: dict[str, Tensor]) -> Weights:
    return weights(tensors, "W_enc.T", "b_enc", "W_dec", "b_dec")


def _threshold(tensors: dict[str, Tensor]) -> Tensor:
    (threshold,) = take(tensors, "threshold")
    if threshold.numel() != 1 or threshold < 0:
        raise RefusedError("its threshold was never learned (training begins to at threshold_start_step)")
    return threshold
