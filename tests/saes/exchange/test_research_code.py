"""SAEs of research code without a package: files laid out as theirs are, read and compared with their formulas."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import silu

from tide_lightning.errors import UserError
from tide_lightning.saes import SAE, FilmSAE, ReLUSAE, TideSAE
from tide_lightning.tokens import SiteShape

D, F, K = 24, 60, 5


def drawn(*shape: int, seed: int = 0, size: float = 0.4) -> Tensor:
    return size * torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


X = drawn(150, D, seed=9, size=3.0) + 1


def largest(pre: Tensor) -> Tensor:
    kept = pre.topk(K)
    return torch.zeros_like(pre).scatter(1, kept.indices, kept.values.relu())


def compare(sae: SAE, z: Tensor, x_hat: Tensor, timestep: Tensor | None = None) -> None:
    with torch.no_grad():
        code = sae.encode(X, timestep)
        torch.testing.assert_close(code.to_dense().double(), z, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(sae.decode(code, timestep).double(), x_hat, rtol=1e-5, atol=1e-5)


def write_saeuron(folder: Path, d_in: int = D, **options: Any) -> dict[str, Tensor]:
    """Its `save_to_disk`: the configuration's fields and d_in."""
    tensors = {
        "encoder.weight": drawn(F, d_in),
        "encoder.bias": drawn(F),
        "W_dec": drawn(F, d_in, seed=1),
        "b_dec": drawn(d_in),
    }
    cfg = {
        "expansion_factor": 16,
        "normalize_decoder": True,
        "num_latents": F,
        "k": K,
        "batch_topk": True,
        "sample_topk": False,
        "input_unit_norm": False,
        "multi_topk": False,
        "d_in": d_in,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(cfg | options))
    save_file(tensors, folder / "sae.safetensors")
    return tensors


@pytest.mark.parametrize("trained_with", [{}, {"batch_topk": False, "sample_topk": True}])
def test_saeuron(trained_with: dict[str, bool], tmp_path: Path) -> None:
    """Whatever shared a budget in training: its loader takes each token's k largest."""
    folder = tmp_path / "unet.up_blocks.1.attentions.1"
    own = {name: tensor.double() for name, tensor in write_saeuron(folder, **trained_with).items()}
    sae = SAE.from_pretrained(tmp_path, site=folder.name)
    assert isinstance(sae, TideSAE)
    z = largest(((X - own["b_dec"]) @ own["encoder.weight"].T + own["encoder.bias"]).relu())
    compare(sae, z, z @ own["W_dec"] + own["b_dec"])


def test_saeurons_scaling_by_token_is_named(tmp_path: Path) -> None:
    write_saeuron(tmp_path, input_unit_norm=True)
    with pytest.raises(UserError, match="is SAeUron's: input_unit_norm scales each token"):
        SAE.from_pretrained(tmp_path)


def write_sdxl_unbox(folder: Path) -> dict[str, Tensor]:
    """Its `save_to_disk`, and the statistics of latents that lie beside the published ones."""
    tensors = {
        "pre_bias": drawn(D),
        "latent_bias": drawn(F),
        "stats_last_nonzero": torch.zeros(F, dtype=torch.long),
        "encoder.weight": drawn(F, D),
        "decoder.weight": drawn(F, D, seed=1).T,  # column-major, as theirs
    }
    cfg = {"n_dirs_local": F, "d_model": D, "k": K, "auxk": 16, "dead_steps_threshold": 2441}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(cfg))
    torch.save({"state_dict": tensors}, folder / "state_dict.pth")
    torch.save(drawn(F).abs(), folder / "mean.pt")
    torch.save(drawn(F).abs(), folder / "std.pt")
    return tensors


def test_sdxl_unbox(tmp_path: Path) -> None:
    own = {name: tensor.double() for name, tensor in write_sdxl_unbox(tmp_path / "final").items()}
    sae = SAE.from_pretrained(tmp_path / "final")
    assert isinstance(sae, TideSAE)
    z = largest((X - own["pre_bias"]) @ own["encoder.weight"].T + own["latent_bias"])
    compare(sae, z, z @ own["decoder.weight"].T + own["pre_bias"])


def test_statistics_that_are_not_of_latents_are_named(tmp_path: Path) -> None:
    """They would be a normalisation of the activations, and to leave it out would be a silent mistake."""
    write_sdxl_unbox(tmp_path)
    torch.save(drawn(D), tmp_path / "mean.pt")
    with pytest.raises(UserError, match=r"mean\.pt has 24 numbers, not one for each of 60 latents"):
        SAE.from_pretrained(tmp_path)


def write_diffract(path: Path, d_time: int = 32) -> dict[str, Tensor]:
    """The state dict of its `TemporalAwareTranscoder`, which is its SAE's, too."""
    tensors = {
        "time_mlp.0.weight": drawn(d_time, d_time),
        "time_mlp.0.bias": drawn(d_time),
        "time_mlp.2.weight": drawn(d_time, d_time, seed=1),
        "time_mlp.2.bias": drawn(d_time, seed=1),
        "mod_linear.weight": drawn(2 * D, d_time),
        "mod_linear.bias": drawn(2 * D),
        "encoder.weight": drawn(F, D),
        "encoder.bias": drawn(F),
        "decoder.weight": torch.nn.functional.normalize(drawn(D, F), dim=0),
        "decoder.bias": drawn(D, seed=2),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, path)
    return tensors


@pytest.mark.parametrize("named", ["sae_img_6", "sae_txt_12.pt"])
def test_diffract(named: str, tmp_path: Path) -> None:
    """FiLM by the sinusoidal embedding that diffusers gives (cosines last, the lowest frequency 1 / 10,000)."""
    path = (tmp_path / named).with_suffix(".pt")
    own = {name: tensor.double() for name, tensor in write_diffract(path).items()}
    sae = SAE.from_pretrained(tmp_path, site=named)
    assert isinstance(sae, FilmSAE)
    t = torch.linspace(0, 1, len(X))
    exponents = -math.log(10_000) * torch.arange(16, dtype=torch.float64) / 15
    angle = t.double().unsqueeze(1) * exponents.exp()
    hidden = torch.cat([angle.sin(), angle.cos()], 1)
    for layer in ("time_mlp.0", "time_mlp.2"):
        hidden = silu(hidden @ own[f"{layer}.weight"].T + own[f"{layer}.bias"])
    scale, shift = (hidden @ own["mod_linear.weight"].T + own["mod_linear.bias"]).chunk(2, dim=1)
    z = ((X * (1 + scale) + shift) @ own["encoder.weight"].T + own["encoder.bias"]).relu()
    compare(sae, z, z @ own["decoder.weight"].T + own["decoder.bias"], t)
    with pytest.raises(ValueError, match="depends on the time"):
        sae.encode(X)


def test_its_embedding_is_the_one_of_diffusers() -> None:
    from diffusers.models.embeddings import get_timestep_embedding

    sae = FilmSAE(SiteShape(D, (), 0), d_time=64, expansion_factor=2)
    t = torch.linspace(0, 1, 11)
    angle = t.unsqueeze(1) * sae.modulation.frequencies  # type: ignore[union-attr]
    torch.testing.assert_close(torch.cat([angle.sin(), angle.cos()], 1), get_timestep_embedding(t, 64))


def test_a_transcoder_of_diffract_is_named(tmp_path: Path) -> None:
    write_diffract(tmp_path / "transcoder_img_3.pt")
    with pytest.raises(UserError, match="is DifFRACT's: a transcoder maps an MLP's input to its output"):
        SAE.from_pretrained(tmp_path / "transcoder_img_3.pt")


def test_what_was_read_is_saved_as_any_other(tmp_path: Path) -> None:
    write_diffract(tmp_path / "sae_img_6.pt")
    sae = SAE.from_pretrained(tmp_path / "sae_img_6.pt")
    again = SAE.from_pretrained(sae.save_pretrained(tmp_path / "ours", site="transformer_blocks.6.ff"))
    assert isinstance(again, FilmSAE)
    t = torch.rand(len(X))
    assert torch.equal(again.decode(again.encode(X, t), t), sae.decode(sae.encode(X, t), t))
    with pytest.raises(UserError, match="describes a FilmSAE, which is no TideSAE"):
        TideSAE.from_pretrained(tmp_path / "sae_img_6.pt")
    assert isinstance(ReLUSAE.from_pretrained(tmp_path / "sae_img_6.pt"), FilmSAE)


def test_what_a_file_lacks_is_named(tmp_path: Path) -> None:
    tensors = write_diffract(tmp_path / "sae_img_6.pt")
    torch.save({name: tensors[name] for name in tensors if name != "mod_linear.bias"}, tmp_path / "sae_img_6.pt")
    with pytest.raises(UserError, match=r"it has no mod_linear\.bias, but decoder\.bias, "):
        SAE.from_pretrained(tmp_path, site="sae_img_6")
    torch.save(tensors | {"decoder.bias": drawn(D + 1)}, tmp_path / "sae_img_6.pt")
    with pytest.raises(UserError, match=r"b_dec is \[25\] where the encoder asks for \[24\]"):
        SAE.from_pretrained(tmp_path, site="sae_img_6")
