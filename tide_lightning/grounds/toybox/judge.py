"""A judge of one factor value, for what asks for a classifier by its class path."""

from __future__ import annotations

from torch import Tensor

from tide_lightning.errors import UserError
from tide_lightning.grounds.toybox.factors import FACTORS
from tide_lightning.grounds.toybox.oracle import OracleName, load_oracle


class ToyboxJudge:
    """The chance that an image shows a value, as an oracle sees it.

    Args:
        target: such as "colour:red".
        oracle: which of the two.
    """

    def __init__(self, target: str, oracle: OracleName = "a") -> None:
        factor, _, value = target.partition(":")
        if value not in FACTORS.get(factor, ()):
            known = ", ".join(f"{name}:{one}" for name, values in FACTORS.items() for one in values)
            raise UserError(f"the toybox knows no {target!r}; choose of {known}")
        self._factor, self._value = factor, FACTORS[factor].index(value)
        self._oracle = load_oracle(oracle)

    def __call__(self, images: Tensor) -> Tensor:
        """The chance for each of images [N, 3, 64, 64] in [-1, 1]."""
        return self._oracle.to(images.device).read(images)[self._factor][:, self._value]
