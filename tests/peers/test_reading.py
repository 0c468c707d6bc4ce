"""SAEs that other libraries wrote, by their own code, give the same codes and reconstructions here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sae_lens
import torch
from dictionary_learning import dictionary
from dictionary_learning.trainers import (
    batch_top_k,
    gated_anneal,
    gdm,
    jumprelu,
    matryoshka_batch_top_k,
    p_anneal,
    standard,
    top_k,
)
from dictionary_learning.training import trainSAE
from dictionary_learning.utils import load_dictionary
from sparsify import SparseCoder, SparseCoderConfig
from torch import Tensor, nn

from tide_lightning.errors import UserError
from tide_lightning.saes import SAE

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs

D, F, K = 24, 96, 5


def activations(num_tokens: int = 200) -> Tensor:
    return 3 * torch.randn(num_tokens, D, generator=torch.Generator().manual_seed(5)) + 1


@torch.no_grad()
def filled(theirs: Any) -> Any:
    """With all parameters drawn anew, so that none is at the zero it starts from."""
    generator = torch.Generator().manual_seed(7)
    for name, parameter in theirs.named_parameters():
        drawn = 0.4 * torch.randn(parameter.shape, generator=generator)
        parameter.copy_(drawn.abs() if "threshold" in name else drawn)
    return theirs


@torch.no_grad()
def compare(folder: Path, codes: Tensor, x_hat: Tensor, expected: str) -> SAE:
    """What is read here, against what they make of the same activations."""
    ours = SAE.from_pretrained(folder)
    assert type(ours).__name__ == expected
    code = ours.encode(activations())
    torch.testing.assert_close(code.to_dense(), codes, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.decode(code), x_hat, rtol=1e-5, atol=1e-5)
    assert codes.count_nonzero() > len(codes)  # not the trivial code
    return ours


LENS: dict[str, tuple[str, dict[str, Any]]] = {
    "Standard": ("ReLUSAE", {}),
    "TopK": ("TideSAE", {"k": K}),
    "JumpReLU": ("JumpReLUSAE", {}),
    "Gated": ("GatedSAE", {}),
}


@pytest.mark.parametrize("subtracts", [True, False])
@pytest.mark.parametrize("name", LENS)
def test_sae_lens(name: str, subtracts: bool, tmp_path: Path) -> None:
    expected, options = LENS[name]
    config = getattr(sae_lens, f"{name}SAEConfig")(d_in=D, d_sae=F, apply_b_dec_to_input=subtracts, **options)
    filled(getattr(sae_lens, f"{name}SAE")(config)).save_model(tmp_path)
    theirs = sae_lens.SAE.load_from_disk(tmp_path)
    codes = theirs.encode(activations())
    compare(tmp_path, codes.detach(), theirs.decode(codes).detach(), expected)


@pytest.mark.parametrize("subtracts", [True, False])
def test_sae_lens_topk_by_what_is_decoded(subtracts: bool, tmp_path: Path) -> None:
    options = {"k": K, "rescale_acts_by_decoder_norm": True, "apply_b_dec_to_input": subtracts}
    filled(sae_lens.TopKSAE(sae_lens.TopKSAEConfig(d_in=D, d_sae=F, **options))).save_model(tmp_path)
    theirs = sae_lens.SAE.load_from_disk(tmp_path)
    codes = theirs.encode(activations())
    compare(tmp_path, codes.detach(), theirs.decode(codes).detach(), "TideSAE")


TRAINED: dict[str, tuple[str, dict[str, Any]]] = {
    "Standard": ("ReLUSAE", {}),
    "TopK": ("TideSAE", {"k": K}),
    "BatchTopK": ("JumpReLUSAE", {"k": K}),
    "MatryoshkaBatchTopK": ("JumpReLUSAE", {"k": K, "matryoshka_widths": [12, 48, F]}),
    "JumpReLU": ("JumpReLUSAE", {}),
    "Gated": ("GatedSAE", {}),
}


@pytest.mark.parametrize("name", TRAINED)
def test_sae_lens_after_its_training(name: str, tmp_path: Path) -> None:
    """Saved for use, as its trainer saves: rows folded, thresholds learned."""
    expected, options = TRAINED[name]
    config = getattr(sae_lens, f"{name}TrainingSAEConfig")(d_in=D, d_sae=F, **options)
    trained = filled(getattr(sae_lens, f"{name}TrainingSAE")(config))
    if hasattr(trained, "topk_threshold"):
        trained.topk_threshold.fill_(1.5)
    trained.save_inference_model(tmp_path)
    theirs = sae_lens.SAE.load_from_disk(tmp_path)
    codes = theirs.encode(activations())
    compare(tmp_path, codes.detach(), theirs.decode(codes).detach(), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normalize_activations": "layer_norm"}, "normalize_activations is 'layer_norm', which scales each token"),
        ({"normalize_activations": "constant_norm_rescale"}, "'constant_norm_rescale', which scales each token by its"),
        (
            {"normalize_activations": "expected_average_only_in"},
            "'expected_average_only_in', whose factor is in no file",
        ),
        ({"normalize_activations": "covariance_whitening"}, "'covariance_whitening', whose map is in no file"),
        ({"reshape_activations": "hook_z"}, "activations by attention head"),
        ({"architecture": "matching_pursuit"}, "architecture 'matching_pursuit' has no counterpart here"),
        ({"architecture": ["topk"]}, "has no counterpart here"),
        ({"apply_b_dec_to_input": "yes"}, "apply_b_dec_to_input is 'yes'"),
        ({"k": 2.5}, "its k is 2.5"),
        ({"k": F + 1}, "k = 97 does not fit d_sae = 96"),
    ],
)
def test_what_sae_lens_has_and_we_have_not_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    sae_lens.TopKSAE(sae_lens.TopKSAEConfig(d_in=D, d_sae=F, k=K)).save_model(tmp_path)
    cfg = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps(cfg | change))
    with pytest.raises(UserError, match=message) as caught:
        SAE.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_transcoder_of_sae_lens_is_named(tmp_path: Path) -> None:
    config = sae_lens.TranscoderConfig(d_in=D, d_sae=F, d_out=D, apply_b_dec_to_input=False)
    sae_lens.Transcoder(config).save_model(tmp_path)
    with pytest.raises(UserError, match="is SAELens's: its architecture 'transcoder' has no counterpart here"):
        SAE.from_pretrained(tmp_path)


def test_a_training_checkpoint_of_sae_lens_is_named(tmp_path: Path) -> None:
    config = sae_lens.BatchTopKTrainingSAEConfig(d_in=D, d_sae=F, k=K)
    sae_lens.BatchTopKTrainingSAE(config).save_model(tmp_path)
    with pytest.raises(UserError, match="from within its training: save it for use"):
        SAE.from_pretrained(tmp_path)


def sparsify_codes(theirs: SparseCoder, x: Tensor) -> tuple[Tensor, Tensor]:
    code = theirs.encode(x)
    dense = torch.zeros(len(x), F).scatter(1, code.top_indices, code.top_acts)
    return dense.detach(), theirs.decode(code.top_acts, code.top_indices).detach()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sparsify(dtype: torch.dtype, tmp_path: Path) -> None:
    filled(SparseCoder(D, SparseCoderConfig(num_latents=F, k=K), dtype=dtype)).save_to_disk(tmp_path)
    theirs = SparseCoder.load_from_disk(tmp_path).float()
    compare(tmp_path, *sparsify_codes(theirs, activations()), "TideSAE")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"skip_connection": True}, "is sparsify's: W_skip"),
        ({"transcode": True}, "a transcoder maps one activation to another"),
        ({"activation": "groupmax"}, "the activation 'groupmax' is none of ours"),
    ],
)
def test_what_sparsify_has_and_we_have_not_is_named(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    SparseCoder(D, SparseCoderConfig(num_latents=F, k=K, **options)).save_to_disk(tmp_path)
    with pytest.raises(UserError, match=message):
        SAE.from_pretrained(tmp_path)


COMMON: dict[str, Any] = {
    "steps": 8,
    "activation_dim": D,
    "dict_size": F,
    "layer": 0,
    "lm_name": "none",
    "device": "cpu",
}
QUICK: dict[str, Any] = {"warmup_steps": 0, "lr": 1e-2}
THRESHOLD: dict[str, Any] = {"k": K, "threshold_start_step": 0, "threshold_beta": 0.5}
DICTIONARIES: dict[str, tuple[str, type, dict[str, Any]]] = {
    "standard": ("ReLUSAE", standard.StandardTrainer, {**QUICK, "sparsity_warmup_steps": 0}),
    "april": ("ReLUSAE", standard.StandardTrainerAprilUpdate, {**QUICK, "sparsity_warmup_steps": 0}),
    "p_anneal": ("ReLUSAE", p_anneal.PAnnealTrainer, {**QUICK, "sparsity_warmup_steps": 0}),
    "gated": ("GatedSAE", gdm.GatedSAETrainer, {**QUICK, "sparsity_warmup_steps": 0}),
    "gated_anneal": ("GatedSAE", gated_anneal.GatedAnnealTrainer, {**QUICK, "sparsity_warmup_steps": 0}),
    "jumprelu": ("JumpReLUSAE", jumprelu.JumpReluTrainer, {**QUICK, "sparsity_warmup_steps": 0}),
    "topk": ("TideSAE", top_k.TopKTrainer, {**QUICK, **THRESHOLD}),
    "batch_topk": ("TideSAE", batch_top_k.BatchTopKTrainer, {**QUICK, **THRESHOLD}),
    "matryoshka": (
        "MatryoshkaSAE",
        matryoshka_batch_top_k.MatryoshkaBatchTopKTrainer,
        {**QUICK, **THRESHOLD, "group_fractions": [0.125, 0.375, 0.5]},
    ),
}


@pytest.mark.parametrize("name", DICTIONARIES)
def test_dictionary_learning(name: str, tmp_path: Path) -> None:
    """Trained for a few steps by its own loop, which writes the files."""
    expected, trainer, options = DICTIONARIES[name]

    def batches() -> Iterator[Tensor]:
        for seed in range(100):
            yield torch.randn(64, D, generator=torch.Generator().manual_seed(seed)) + 0.5

    torch.manual_seed(0)
    trainSAE(
        data=batches(),
        trainer_configs=[{"trainer": trainer, **COMMON, **options}],
        steps=COMMON["steps"],
        save_dir=str(tmp_path),
        autocast_dtype=torch.float32,
    )
    theirs, _ = load_dictionary(str(tmp_path / "trainer_0"), device="cpu")
    codes = theirs.encode(activations())
    ours = compare(tmp_path / "trainer_0", codes.detach(), theirs.decode(codes).detach(), expected)
    if name == "matryoshka":
        assert ours.widths == [12, 48]


def write_dictionary(folder: Path, theirs: nn.Module, **trainer: Any) -> None:
    torch.save(theirs.state_dict(), folder / "ae.pt")
    (folder / "config.json").write_text(json.dumps({"trainer": {"dict_class": type(theirs).__name__, **trainer}}))


@pytest.mark.parametrize("make", [dictionary.AutoEncoder, dictionary.AutoEncoderNew])
def test_dictionary_learning_with_rows_of_any_norm(make: Callable[[int, int], nn.Module], tmp_path: Path) -> None:
    write_dictionary(tmp_path, filled(make(D, F)))
    theirs, _ = load_dictionary(str(tmp_path), device="cpu")
    codes = theirs.encode(activations())
    compare(tmp_path, codes.detach(), theirs.decode(codes).detach(), "ReLUSAE")


def test_a_threshold_that_was_never_learned_is_named(tmp_path: Path) -> None:
    write_dictionary(tmp_path, batch_top_k.BatchTopKSAE(D, F, K), k=K)
    with pytest.raises(UserError, match="its threshold was never learned"):
        SAE.from_pretrained(tmp_path)
