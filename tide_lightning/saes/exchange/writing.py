"""SAEs of ours written for other tools; `folded` has the algebra, each layout's file its names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from tide_lightning.errors import UserError
from tide_lightning.saes.exchange import plain, saelens, sparsify
from tide_lightning.saes.exchange.described import RefusedError, Weights
from tide_lightning.saes.exchange.folded import Around, Folded, fold, no_change
from tide_lightning.saes.film import FilmSAE
from tide_lightning.saes.gated import GatedSAE
from tide_lightning.saes.jumprelu import JumpReLUSAE
from tide_lightning.saes.matryoshka import MatryoshkaSAE
from tide_lightning.saes.relu import ReLUSAE
from tide_lightning.saes.sae import SAE
from tide_lightning.saes.tide import TideSAE
from tide_lightning.sharding import class_of
from tide_lightning.tokens import TokenContext

Format = Literal["saelens", "sparsify", "plain"]
"""SAELens 6, EleutherAI's sparsify, or matrices by themselves."""

_WRITERS: dict[Format, Callable[[Path, Folded, Mapping[str, object]], Path]] = {
    "saelens": saelens.write,
    "sparsify": sparsify.write,
    "plain": plain.write,
}

_KINDS = (TideSAE, MatryoshkaSAE, JumpReLUSAE, ReLUSAE, FilmSAE, GatedSAE)
"""Whose encoders are known here; what is derived from them may encode in another way."""


@dataclass(frozen=True)
class Exportable:
    """How far an SAE can be an SAE of another library.

    Args:
        by_time: whether it is another one at each t.
        of_rest: whether it codes what is left when the known part is taken out, which depends on more than t.
        without: what of it is left out: refinements, pursuits.
    """

    by_time: bool
    of_rest: bool
    without: tuple[str, ...]


def exportable(sae: SAE) -> Exportable:
    """What has to be settled before an SAE is written; an error for classes that have no counterpart."""
    if class_of(sae) not in _KINDS:
        raise UserError(f"a {class_of(sae).__name__} has no counterpart in other libraries")
    of_rest = sae.known.rung not in ("mean", "mean_t")
    by_time = sae.modulation is not None or len(sae.known.scale) > 1 or sae.known.rung == "mean_t"
    without = tuple(name for name in ("refinements", "pursuits") if getattr(sae, name))
    if isinstance(sae, TideSAE):
        by_time |= sae.budget_over_time is not None
        if sae.threshold is not None and not sae.threshold.is_known():
            raise UserError("this SAE's threshold was never learned: train it for at least one step")
    return Exportable(by_time, of_rest, without)


@torch.no_grad()
def folded(sae: SAE, t: float | None = None) -> Folded:
    """An SAE of ours, at one time if it depends on t, as one of x (or of what is left of x); its encoder's own code."""
    can = exportable(sae)
    if can.by_time and t is None:
        raise UserError("this SAE is another one at each time: name the times")
    time = None if t is None else torch.full((1,), t, device=sae.W_dec.device)
    gate = (sae.r_mag, sae.b_mag) if isinstance(sae, GatedSAE) else None
    own = Weights(sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec)
    result = fold(own, _around(sae, time, can.of_rest), gate)
    if gate is not None:
        return result
    if isinstance(sae, TideSAE) and sae.threshold is None:
        return result._replace(k=sae.k)
    return result._replace(threshold=_threshold(sae, time).float().contiguous())


@torch.no_grad()
def encoder_alone(sae: SAE) -> SAE:
    """The same SAE without refinement and pursuit: what another library makes of its encoder."""
    config = sae.config | {name: 0 for name in ("refinements", "pursuits") if name in sae.config}
    alone: SAE = class_of(sae)(sae.shape, **config).to(sae.W_dec.device)
    own = alone.state_dict()
    alone.load_state_dict({name: tensor for name, tensor in sae.state_dict().items() if name in own})
    return alone.eval().requires_grad_(False)


def write_as(format: Format, folder: Path, sae: Folded, metadata: Mapping[str, object]) -> Path:
    """Write a folded SAE; an error where the format has no place for it."""
    if format not in get_args(Format):
        raise UserError(f"format {format!r}: choose one of {', '.join(get_args(Format))}")
    try:
        return _WRITERS[format](folder, sae, metadata)
    except RefusedError as error:
        raise UserError(f"{folder}: {error}") from error


def _around(sae: SAE, time: Tensor | None, of_rest: bool) -> Around:
    gain, shift = no_change(sae.b_dec)
    if sae.modulation is not None:
        assert time is not None
        gain, shift = (part[0].double() for part in sae.modulation(time))
    mean = torch.zeros_like(shift) if of_rest else sae.known(TokenContext.of(time))[0].double()
    into = back = None
    if sae.metric is not None:
        into, back = sae.metric.forward_map.double(), sae.metric.backward_map.double()
    scale = sae.known.scale_at(time).double().reshape(())
    return Around(mean, scale, into, back, gain, shift, sae.unmodulate and sae.modulation is not None)


def _threshold(sae: SAE, time: Tensor | None) -> Tensor:
    """What each latent has to exceed [F]."""
    if isinstance(sae, JumpReLUSAE):
        return sae.threshold
    everywhere = torch.zeros_like(sae.b_enc)
    if not isinstance(sae, TideSAE):
        return everywhere
    assert sae.threshold is not None
    weight = 1.0 if sae.budget_over_time is None or time is None else sae.budget_over_time(time)
    return everywhere + sae.threshold.value / weight
