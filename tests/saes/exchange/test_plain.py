"""SAEs of ours written and read again, as plain matrices and as others' (whose classes read them in tests/peers)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.saes.synthetic import SHAPE, at_all_times, tokens
from tide_lightning.errors import UserError
from tide_lightning.saes import SAE, GatedSAE, JumpReLUSAE, KnownStatistics, PerBinSAE, TideSAE
from tide_lightning.saes.exchange.writing import Format, exportable, folded, write_as

SEEN, BATCH = (tokens(300, seed=seed, mean=2.0, rest=1.0) for seed in (3, 4))


def trained(cls: type[SAE], **arguments: Any) -> SAE:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"expansion_factor": 4, "k": 5, "modulation": "none", "known_part": "mean"}
    sae = cls(SHAPE, **{**settings, "fidelity_weight": 0.5, **arguments})
    statistics = KnownStatistics(sae.known)
    statistics.update(SEEN)
    statistics.fit()
    sae.fit_sensitivity(at_all_times(torch.diag(torch.linspace(0.1, 2, SHAPE.d_in))), SEEN)
    with torch.no_grad():
        sae.b_enc.add_(0.1 * torch.randn(sae.d_sae))
        sae.b_dec.add_(0.1 * torch.randn(sae.d_in))
        sae.follow(SEEN, sae.train()(SEEN))
    return sae.eval()


CASES: dict[str, tuple[type[SAE], dict[str, Any], tuple[Format, ...]]] = {
    "topk": (TideSAE, {}, ("plain", "saelens", "sparsify")),
    "batch": (TideSAE, {"budget": "batch"}, ("plain", "saelens")),
    "jumprelu": (JumpReLUSAE, {}, ("plain", "saelens")),
    "gated": (GatedSAE, {}, ("saelens",)),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_written_is_read_as_the_same(name: str, tmp_path: Path) -> None:
    cls, arguments, formats = CASES[name]
    sae = trained(cls, **arguments)
    with torch.no_grad():
        code = sae.encode(BATCH.x, BATCH.context)
        expected = sae.decode(code, BATCH.context)
        for format in formats:
            again = SAE.from_pretrained(write_as(format, tmp_path / format, folded(sae), {}))
            read = again.encode(BATCH.x)
            torch.testing.assert_close(read.to_dense(), code.to_dense(), rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(again.decode(read), expected, rtol=1e-5, atol=1e-5)


def test_plain_matrices_are_what_plain_json_says(tmp_path: Path) -> None:
    """A few lines without any library."""
    sae = trained(TideSAE)
    write_as("plain", tmp_path, folded(sae), {"site": "transformer_blocks.3"})
    cfg, own = json.loads((tmp_path / "plain.json").read_text()), load_file(tmp_path / "plain.safetensors")
    assert cfg["metadata"]["site"] == "transformer_blocks.3"
    pre = (BATCH.x @ own["W_enc"].T + own["b_enc"]).relu()
    kept = pre.topk(cfg["k"])
    z = torch.zeros_like(pre).scatter(1, kept.indices, kept.values)
    torch.testing.assert_close(z @ own["W_dec"] + own["b_dec"], sae(BATCH).x_hat, rtol=1e-5, atol=1e-5)


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a gated SAE has two encoders"):
        write_as("plain", tmp_path / "gated", folded(trained(GatedSAE)), {})
    with pytest.raises(UserError, match="a PerBinSAE has no counterpart"):
        exportable(PerBinSAE(SHAPE, num_saes=2, expansion_factor=4, k=5))
    with pytest.raises(UserError, match="threshold was never learned"):
        folded(TideSAE(SHAPE, 4, 5, budget="batch", known_part="mean", modulation="none"))
    with pytest.raises(UserError, match="format 'onnx': choose one of saelens, sparsify, plain"):
        write_as("onnx", tmp_path, folded(trained(TideSAE)), {})  # type: ignore[arg-type]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_as("plain", tmp_path / "file", folded(trained(TideSAE)), {})
    assert exportable(trained(TideSAE, refinements=1, pursuits=2)).without == ("refinements", "pursuits")
