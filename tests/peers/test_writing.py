"""SAEs of ours, written in other libraries' layouts, give the same codes and reconstructions in their own classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sae_lens
import torch
from sparsify import SparseCoder

from tests.saes.synthetic import SHAPE, at_all_times, knowing, tokens
from tide_lightning.errors import UserError
from tide_lightning.saes import SAE, GatedSAE, JumpReLUSAE, KnownStatistics, MatryoshkaSAE, ReLUSAE, TideSAE
from tide_lightning.saes.exchange.writing import exportable, folded, write_as
from tide_lightning.tokens import TokenBatch

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs

T = 0.3
SEEN, BATCH = (tokens(400, seed=seed, mean=2.0, time=1.5, input=0.5, rest=1.0) for seed in (3, 4))


def trained(cls: type[SAE], **arguments: Any) -> SAE:
    """With a known part, a metric and thresholds fitted to tokens, and everything else drawn."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {"expansion_factor": 4, "k": 5, "modulation": "none", "known_part": "mean"}
    sae = cls(SHAPE, **{**settings, **arguments})
    statistics = KnownStatistics(sae.known)
    statistics.update(SEEN)
    statistics.fit()
    if sae.asks_sensitivity:
        directions = torch.randn(9, SHAPE.d_in)
        sae.fit_sensitivity(at_all_times(directions.mT @ directions), SEEN)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            change = 0.1 * torch.randn_like(parameter)
            parameter.add_(change.abs() if name == "threshold" else change)
        for _ in range(3):
            sae.follow(SEEN, sae.train()(SEEN))
    return sae.eval()


@torch.no_grad()
def compare(theirs: Any, sae: SAE, batch: TokenBatch) -> None:
    code = sae.encode(batch.x, batch.context)
    expected = sae.decode(code, batch.context)
    found = theirs.encode(batch.x)
    torch.testing.assert_close(found, code.to_dense(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(theirs.decode(found), expected, rtol=1e-5, atol=1e-5)
    assert 0 < code.l0().float().mean() < sae.d_sae / 2


EXACT: dict[str, tuple[type[SAE], dict[str, Any]]] = {
    "TopK": (TideSAE, {}),
    "TopK in the metric": (TideSAE, {"fidelity_weight": 0.65}),
    "BatchTopK": (TideSAE, {"budget": "batch"}),
    "BatchTopK in the metric": (TideSAE, {"budget": "batch", "fidelity_weight": 0.65}),
    "Matryoshka": (MatryoshkaSAE, {"prefixes": [0.125, 0.5]}),
    "JumpReLU": (JumpReLUSAE, {"fidelity_weight": 0.3}),
    "ReLU": (ReLUSAE, {}),
    "Gated": (GatedSAE, {"fidelity_weight": 0.3}),
}


@pytest.mark.parametrize("name", EXACT)
def test_sae_lens_about_the_mean(name: str, tmp_path: Path) -> None:
    cls, arguments = EXACT[name]
    sae = trained(cls, **arguments)
    assert not exportable(sae).by_time
    write_as("saelens", tmp_path, folded(sae), {"hook_name": "transformer_blocks.3"})
    theirs = sae_lens.SAE.load_from_disk(tmp_path)
    assert theirs.cfg.metadata.hook_name == "transformer_blocks.3"
    compare(theirs, sae, BATCH)


BY_TIME: dict[str, tuple[type[SAE], dict[str, Any]]] = {
    "mean_t": (TideSAE, {"known_part": "mean_t"}),
    "scale": (TideSAE, {"scale_by_timestep": True, "fidelity_weight": 0.65, "known_part": "mean_t"}),
    "modulation": (TideSAE, {"modulation": "zero"}),
    "undone": (TideSAE, {"modulation": "zero", "unmodulate": True, "fidelity_weight": 0.65, "known_part": "mean_t"}),
    "budget": (TideSAE, {"budget": "batch", "budget_over_time": 0.75, "scale_by_timestep": True}),
    "gated": (GatedSAE, {"modulation": "zero", "unmodulate": True}),
    "jumprelu": (JumpReLUSAE, {"modulation": "zero", "scale_by_timestep": True}),
}


@pytest.mark.parametrize("name", BY_TIME)
def test_sae_lens_at_one_time(name: str, tmp_path: Path) -> None:
    cls, arguments = BY_TIME[name]
    sae = trained(cls, **arguments)
    assert exportable(sae).by_time
    with pytest.raises(UserError, match="another one at each time"):
        folded(sae)
    write_as("saelens", tmp_path, folded(sae, T), {})
    theirs = sae_lens.SAE.load_from_disk(tmp_path)
    then = knowing(BATCH, t=torch.full_like(BATCH.t, T))
    compare(theirs, sae, then)


def test_sae_lens_of_what_is_left(tmp_path: Path) -> None:
    """With a known part that depends on more than the time, x minus it is what others can code."""
    sae = trained(TideSAE, known_part="input_token", budget="batch")
    assert exportable(sae).of_rest
    write_as("saelens", tmp_path, folded(sae), {})
    theirs = sae_lens.SAE.load_from_disk(tmp_path)
    known = sae.known(BATCH.context)
    with torch.no_grad():
        codes = theirs.encode(BATCH.x - known)
        code = sae.encode(BATCH.x, BATCH.context)
        torch.testing.assert_close(codes, code.to_dense(), rtol=1e-5, atol=1e-5)
        expected = sae.decode(code, BATCH.context)
        torch.testing.assert_close(known + theirs.decode(codes), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["TopK", "TopK in the metric"])
def test_sparsify(name: str, tmp_path: Path) -> None:
    cls, arguments = EXACT[name]
    sae = trained(cls, **arguments)
    write_as("sparsify", tmp_path, folded(sae), {})
    theirs = SparseCoder.load_from_disk(tmp_path)
    with torch.no_grad():
        found = theirs.encode(BATCH.x)
        codes = torch.zeros(len(BATCH), sae.d_sae).scatter(1, found.top_indices, found.top_acts)
        code = sae.encode(BATCH.x, BATCH.context)
        torch.testing.assert_close(codes, code.to_dense(), rtol=1e-5, atol=1e-5)
        expected = sae.decode(code, BATCH.context)
        torch.testing.assert_close(theirs.decode(found.top_acts, found.top_indices), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["BatchTopK", "JumpReLU", "Gated"])
def test_sparsify_has_no_thresholds(name: str, tmp_path: Path) -> None:
    cls, arguments = EXACT[name]
    with pytest.raises(UserError, match="sparsify keeps k latents of every token"):
        write_as("sparsify", tmp_path, folded(trained(cls, **arguments)), {})
    assert not list(tmp_path.iterdir())
