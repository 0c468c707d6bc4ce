"""What another library's SAE is in our words: a class, its arguments, its tensors.

Ours compute z from W_enc (x - b_dec) + b_enc and x_hat = W_dec^T z + b_dec, with both weights [d_sae, d_in]. An encoder
that reads x itself is the same with b_enc + W_enc b_dec in place of b_enc.

Shapes: D = d_in channels, F = d_sae latents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor


class RefusedError(Exception):
    """What an SAE has that no SAE of ours does, or what its files lack."""


class Described(NamedTuple):
    """An SAE as plain values and tensors.

    Fields:
        kind: the name of the class.
        d_in: its channels.
        arguments: of the constructor, besides the shape.
        tensors: by the names of its state; what is not among them stays as it is built.
    """

    kind: str
    d_in: int
    arguments: dict[str, object]
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class Weights:
    """What every SAE has, as ours store it.

    Args:
        W_enc: [F, D].
        b_enc: [F].
        W_dec: [F, D].
        b_dec: [D].
    """

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor

    def __post_init__(self) -> None:
        num_latents, d_in = self.W_enc.shape
        for name, shape in {"W_dec": (num_latents, d_in), "b_enc": (num_latents,), "b_dec": (d_in,)}.items():
            found = tuple(getattr(self, name).shape)
            if found != shape:
                raise RefusedError(f"{name} is {list(found)} where the encoder asks for {list(shape)}")

    def shift(self) -> Tensor:
        """By how much subtracting b_dec lowers the pre-activations [F]."""
        return self.W_enc @ self.b_dec

    def reading_x(self) -> Weights:
        """The same codes as an encoder of x itself has."""
        return replace(self, b_enc=self.b_enc + self.shift())

    def norms(self) -> Tensor:
        """The decoder rows' [F]."""
        norms: Tensor = self.W_dec.norm(dim=1).clamp(min=1e-8)
        return norms

    def with_unit_rows(self) -> Weights:
        """The same reconstruction, with decoder rows of norm 1 and latents that are larger instead."""
        norms = self.norms()
        return replace(
            self,
            W_enc=self.W_enc * norms.unsqueeze(1),
            b_enc=self.b_enc * norms,
            W_dec=self.W_dec / norms.unsqueeze(1),
        )

    def _described(self, kind: str, also: Mapping[str, Tensor], **arguments: object) -> Described:
        num_latents, d_in = self.W_enc.shape
        common = {"expansion_factor": num_latents / d_in, "known_part": "mean", "modulation": "none"}
        own = {name: getattr(self, name) for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
        tensors = {
            name: tensor.clone() for name, tensor in {**own, **also}.items()
        }  # parts of larger ones let these go
        return Described(kind, d_in, {**common, **arguments}, tensors)

    def topk(self, k: int) -> Described:
        """Each token's k largest."""
        return self._described("TideSAE", {}, k=k)

    def batch_topk(self, k: int, threshold: Tensor, group_sizes: Sequence[int] = ()) -> Described:
        """What exceeds one threshold, learned while a batch shared k a token; with nested dictionaries, if any."""
        learned = {"threshold.value": threshold.float().reshape(()), "threshold.num_updates": torch.tensor(1)}
        if not group_sizes:
            return self._described("TideSAE", learned, k=k, budget="batch")
        ends = torch.tensor(group_sizes).cumsum(0)[:-1].tolist()
        prefixes = [end / len(self.b_enc) for end in ends]
        return self._described("MatryoshkaSAE", learned, k=k, budget="batch", prefixes=prefixes)

    def relu(self) -> Described:
        """Whatever is positive."""
        return self._described("ReLUSAE", {}, k=self._some())

    def gated(self, r_mag: Tensor, b_mag: Tensor) -> Described:
        """Gates at b_enc, magnitudes exp(r_mag) W_enc (x - b_dec) + b_mag."""
        return self._described("GatedSAE", {"r_mag": r_mag, "b_mag": b_mag}, k=self._some())

    def jumprelu(self, threshold: Tensor) -> Described:
        """Whatever exceeds its own threshold [F]."""
        return self._described("JumpReLUSAE", {"threshold": threshold}, k=self._some())

    def film(self, modulation: Mapping[str, Tensor]) -> Described:
        """What is positive once time has scaled and shifted the channels; see `FilmSAE`."""
        d_time = modulation["time_mlp.0.weight"].shape[1]
        also = {f"modulation.{name}": tensor for name, tensor in modulation.items()}
        described = self._described("FilmSAE", also, k=self._some(), d_time=d_time)
        del described.arguments["modulation"]
        return described

    def _some(self) -> int:
        """How many active latents a further training would steer to: nobody says how many there are."""
        return min(16, len(self.b_enc))


def take(tensors: Mapping[str, Tensor], *names: str) -> list[Tensor]:
    """Tensors by name, as float32."""
    if missing := [name for name in names if name not in tensors]:
        raise RefusedError(f"it has no {', '.join(missing)}, but {', '.join(sorted(tensors)[:12]) or 'nothing'}")
    return [tensors[name].float() for name in names]


def weights(tensors: Mapping[str, Tensor], W_enc: str, b_enc: str, W_dec: str, b_dec: str) -> Weights:
    """Both weights and biases by their names, "a.T" for a transposed one."""
    names = [name.removesuffix(".T") for name in (W_enc, b_enc, W_dec, b_dec)]
    found = take(tensors, *names)
    for i, name in ((0, W_enc), (2, W_dec)):
        if found[i].ndim != 2:
            raise RefusedError(f"{names[i]} is no matrix")
        found[i] = found[i].T if name.endswith(".T") else found[i]
    return Weights(*found)


def whole_number(cfg: Mapping[str, object], name: str) -> int:
    """A size of a configuration."""
    found = cfg.get(name)
    if type(found) is not int or found < 1:
        raise RefusedError(f"its {name} is {str(found)[:40]}, which is no number of latents")
    return found
