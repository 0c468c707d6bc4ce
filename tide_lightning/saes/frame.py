"""How tokens are seen by an SAE: without their known part, scaled, and modulated by time."""

from typing import NamedTuple

from torch import Tensor


class Frame(NamedTuple):
    """u = (x - known) / s, and u_mod = u * gain + shift where there is a modulation.

    Fields:
        known: what is not encoded [B, d] (or [1, d]).
        s: the scale of the rest [B, 1] or [1].
        gain: 1 + scale(t) [B, d], or None.
        shift: shift(t) [B, d], or None.
    """

    known: Tensor
    s: Tensor
    gain: Tensor | None
    shift: Tensor | None

    def normalised(self, x: Tensor) -> Tensor:
        """U."""
        return (x - self.known) / self.s

    def modulated(self, u: Tensor) -> Tensor:
        """What the encoder reads of u."""
        return self.scaled(u) if self.shift is None else self.scaled(u) + self.shift

    def scaled(self, error: Tensor) -> Tensor:
        """What the encoder reads of a difference of two u."""
        return error if self.gain is None else error * self.gain

    def unmodulated(self, u_mod: Tensor) -> Tensor:
        """The way back."""
        shifted = u_mod if self.shift is None else u_mod - self.shift
        return shifted if self.gain is None else shifted / self.gain
