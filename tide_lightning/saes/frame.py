"""How tokens are seen by an SAE: without their known part, scaled, and modulated by time."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Frame(NamedTuple):
    """u = (x - known) / s, and u_mod = u * gain + shift where there is a modulation.

    Fields:
        t: normalised times [B]; None where nothing depends on them and nobody told.
        known: what is not encoded [B, d] (or [1, d]).
        s: the scale of the rest [B, 1] or [1].
        gain: 1 + scale(t) [B, d], or None.
        shift: shift(t) [B, d], or None.
    """

    t: Tensor | None
    known: Tensor
    s: Tensor
    gain: Tensor | None = None
    shift: Tensor | None = None

    def normalised(self, x: Tensor) -> Tensor:
        """The residual u = (x - known) / s of activations x [B, d]."""
        return (x - self.known) / self.s

    def modulated(self, u: Tensor) -> Tensor:
        """What the encoder reads: u_mod."""
        return self.scaled(u) if self.shift is None else self.scaled(u) + self.shift

    def scaled(self, error: Tensor) -> Tensor:
        """The difference of two u_mod, given that of their u: the shift cancels."""
        return error if self.gain is None else error * self.gain

    def unmodulated(self, u_mod: Tensor) -> Tensor:
        """The u of a u_mod."""
        shifted = u_mod if self.shift is None else u_mod - self.shift
        return shifted if self.gain is None else shifted / self.gain
