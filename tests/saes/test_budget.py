"""A budget shared over a batch, and codes corrected by what they left over."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.saes.synthetic import tokens
from tests.saes.test_tide import small_sae
from tide_lightning.errors import UserError
from tide_lightning.saes import TideSAE


def uneven(num_tokens: int, seed: int) -> tuple[TideSAE, torch.Tensor]:
    """An SAE that has seen batches whose second half says nothing, and the mean l0 of each half of another."""
    sae = small_sae(budget="batch", modulation="none", known_part="mean").train()
    for step in range(20):
        batch = tokens(num_tokens, seed=seed + step, mean=1.0, rest=1.0)
        batch.x[num_tokens // 2 :] = sae.known.intercept[0, 0]
        output = sae(batch)
        assert output.code.l0().double().mean() == pytest.approx(sae.k, rel=0.05)
        sae.follow(output)
    batch = tokens(num_tokens, seed=seed + 100, mean=1.0, rest=1.0)
    batch.x[num_tokens // 2 :] = sae.known.intercept[0, 0]
    l0 = sae.eval()(batch).code.l0().double()
    return sae, torch.stack([l0[: num_tokens // 2].mean(), l0[num_tokens // 2 :].mean()])


def test_a_shared_budget_goes_where_there_is_something_to_say() -> None:
    sae, (full, empty) = uneven(400, seed=7)
    assert empty == 0
    assert full == pytest.approx(2 * sae.k, rel=0.1)


def test_after_training_a_token_needs_no_batch() -> None:
    sae, _ = uneven(400, seed=7)
    batch = tokens(30, seed=9, mean=1.0, rest=1.0)
    whole = sae.encode(batch.x, **batch.context())
    alone = batch.select(slice(4, 5))
    torch.testing.assert_close(whole.to_dense()[4:5], sae.encode(alone.x, **alone.context()).to_dense())


def test_a_threshold_is_saved_with_the_sae(tmp_path: Path) -> None:
    sae, _ = uneven(400, seed=7)
    loaded = TideSAE.from_pretrained(sae.save_pretrained(tmp_path / "sae"))
    batch = tokens(30, seed=9, mean=1.0, rest=1.0)
    assert torch.equal(loaded(batch).x_hat, sae(batch).x_hat)
    assert loaded.config == sae.config


def test_what_never_fires_teaches_no_threshold() -> None:
    sae = small_sae(budget="batch")
    assert sae.threshold is not None
    sae.threshold.follow(torch.zeros(5))
    sae.threshold.follow(torch.zeros(0))
    assert not sae.threshold.is_known()
    sae.threshold.follow(torch.tensor([0.0, 3.0, 2.0]))
    assert sae.threshold.value == 2.0


def test_a_refined_code_leaves_less_over() -> None:
    batch = tokens(500, seed=8, mean=1.0, time=1.0, input=0.5, rest=1.0)
    errors = []
    for refinements in (0, 1, 2):
        output = small_sae(refinements=refinements, encoder_norm=0.5)(batch)
        assert (output.code.l0() <= 5).all()
        errors.append((output.u - output.u_hat).square().mean().item())
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("budget", ["token", "batch"])
def test_refined_codes_are_the_same_from_encode_and_forward(budget: str) -> None:
    sae = small_sae(refinements=1, budget=budget)
    batch = tokens(50, seed=8, mean=1.0, rest=1.0)
    code = sae.encode(batch.x, **batch.context())
    torch.testing.assert_close(sae.decode(code, **batch.context()), sae(batch).x_hat)
    assert len(sae(batch.select(slice(0, 0))).x_hat) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": "image"}, "there is no 'image'"),
        ({"budget": "batch", "k_noisy": 3}, "k_noisy needs budget: token"),
        ({"refinements": -1}, "refinements = -1"),
        ({"encoder_norm": 0.0}, "encoder_norm = 0.0"),
    ],
)
def test_mistakes_are_told(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        small_sae(**arguments)
