"""The same weights in other libraries' SAEs give the same codes, reconstructions and losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import overcomplete.sae
import pytest
import sae_lens
import torch
from dictionary_learning import dictionary
from dictionary_learning.trainers import batch_top_k, matryoshka_batch_top_k, top_k
from sae_lens.saes.sae import TrainStepInput
from sparsify import SparseCoder, SparseCoderConfig
from torch import Tensor, nn

from tests.saes.synthetic import SHAPE, tokens
from tide_lightning.saes import (
    SAE,
    GatedSAE,
    JumpReLUSAE,
    MatchingPursuitSAE,
    MatryoshkaSAE,
    ReLUSAE,
    SAEOutput,
    TideSAE,
    training_loss,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs

PLAIN: dict[str, Any] = {"expansion_factor": 4, "k": 5, "known_part": "mean", "modulation": "none"}
D, F = SHAPE.d_in, 4 * SHAPE.d_in
WEIGHT = 0.7
"""Of the penalties."""


def ours(cls: type[SAE], **arguments: Any) -> tuple[SAE, Tensor, SAEOutput]:
    """An SAE whose known part is nothing, some tokens, and what it makes of them in training."""
    torch.manual_seed(0)
    settings: dict[str, Any] = PLAIN | arguments
    sae = cls(SHAPE, **settings)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    sae.normalise_decoder()
    batch = tokens(60, rest=1.0)
    return sae, batch.x, sae(batch)


def load(theirs: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy weights into parameters by name, whichever way round they are stored."""
    parameters = dict(theirs.named_parameters())
    with torch.no_grad():
        for name, weight in weights.items():
            wanted = parameters[name]
            wanted.copy_(weight if wanted.shape == weight.shape else weight.T)


LENS: dict[str, tuple[type[SAE], dict[str, Any], dict[str, Any]]] = {
    "TopK": (TideSAE, {}, {"k": 5, "rescale_acts_by_decoder_norm": False}),
    "BatchTopK": (TideSAE, {"budget": "batch"}, {"k": 5, "rescale_acts_by_decoder_norm": False}),
    "MatryoshkaBatchTopK": (
        MatryoshkaSAE,
        {"prefixes": [0.125, 0.5]},
        {"k": 5, "rescale_acts_by_decoder_norm": False, "matryoshka_widths": [12, 48, 96]},
    ),
    "Standard": (ReLUSAE, {"sparsity": WEIGHT}, {"l1_coefficient": WEIGHT}),
    "Gated": (GatedSAE, {"sparsity": WEIGHT}, {"l1_coefficient": WEIGHT}),
    "JumpReLU": (
        JumpReLUSAE,
        {"sparsity": WEIGHT, "bandwidth": 0.2},
        {
            "l0_coefficient": WEIGHT,
            "jumprelu_bandwidth": 0.2,
            "jumprelu_sparsity_loss_mode": "quadratic",
            "target_l0": 5.0,
        },
    ),
}


@pytest.mark.parametrize("name", LENS)
def test_sae_lens(name: str) -> None:
    """Its losses sum over channels, ours are means."""
    cls, arguments, their_arguments = LENS[name]
    sae, x, output = ours(cls, **arguments)
    config_class = getattr(sae_lens, f"{name}TrainingSAEConfig")
    config = config_class(d_in=D, d_sae=F, apply_b_dec_to_input=True, **their_arguments)
    theirs = getattr(sae_lens, f"{name}TrainingSAE")(config)
    own = dict(sae.named_parameters())
    if name == "Gated":
        own["b_gate"] = own.pop("b_enc")
    load(theirs, own)
    coefficients = {"l1": WEIGHT, "l0": WEIGHT}
    step = theirs.training_forward_pass(TrainStepInput(x, coefficients, None, 0, False))
    torch.testing.assert_close(output.code.to_dense(), _dense(step.feature_acts), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.x_hat, step.sae_out, rtol=1e-4, atol=1e-5)
    loss = training_loss(output).total * D
    torch.testing.assert_close(loss, step.loss, rtol=1e-5, atol=0)
    loss.backward()
    step.loss.backward()
    for key, parameter in theirs.named_parameters():
        if name == "Gated" and key in ("W_dec", "b_dec"):
            continue  # it lets the gate's error reach the decoder, which the paper holds fixed there
        gradient = own[key].grad
        assert gradient is not None
        expected = parameter.grad if parameter.shape == gradient.shape else parameter.grad.T
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-4)


def _dense(codes: Tensor) -> Tensor:
    return codes.to_dense() if codes.is_sparse else codes


def test_sparsify() -> None:
    """Its loss is the squared error as a fraction of a variance, which is passed in."""
    sae, x, output = ours(TideSAE)
    theirs = SparseCoder(D, SparseCoderConfig(num_latents=F, k=5))
    own = dict(sae.named_parameters())
    names = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "W_dec", "b_dec": "b_dec"}
    load(theirs, {their_name: own[our_name] for our_name, their_name in names.items()})
    step = theirs(x, total_variance=x.new_tensor(float(x.numel())))
    codes = torch.zeros(len(x), F).scatter(1, step.latent_indices, step.latent_acts)
    torch.testing.assert_close(output.code.to_dense(), codes, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.x_hat, step.sae_out, rtol=1e-4, atol=1e-5)
    loss = training_loss(output).total
    torch.testing.assert_close(loss, step.fvu, rtol=1e-5, atol=0)
    loss.backward()
    step.fvu.backward()
    theirs_by_name = dict(theirs.named_parameters())
    for our_name, their_name in names.items():
        torch.testing.assert_close(own[our_name].grad, theirs_by_name[their_name].grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["topk", "batch_topk", "matryoshka", "relu", "gated", "jumprelu"])
def test_dictionary_learning(name: str) -> None:
    linear = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight", "b_dec": "b_dec"}
    plain = {name: name for name in linear}
    cases: dict[str, tuple[type[SAE], dict[str, Any], Callable[[], Any], dict[str, str]]] = {
        "topk": (TideSAE, {}, lambda: top_k.AutoEncoderTopK(D, F, 5), linear),
        "batch_topk": (TideSAE, {"budget": "batch"}, lambda: batch_top_k.BatchTopKSAE(D, F, 5), linear),
        "matryoshka": (
            MatryoshkaSAE,
            {},
            lambda: matryoshka_batch_top_k.MatryoshkaBatchTopKSAE(D, F, 5, [12, 36, 48]),
            plain,
        ),
        "relu": (ReLUSAE, {}, lambda: dictionary.AutoEncoder(D, F), linear | {"b_dec": "bias"}),
        "gated": (
            GatedSAE,
            {},
            lambda: dictionary.GatedAutoEncoder(D, F),
            linear | {"b_enc": "gate_bias", "b_dec": "decoder_bias", "r_mag": "r_mag", "b_mag": "mag_bias"},
        ),
        "jumprelu": (
            JumpReLUSAE,
            {},
            lambda: dictionary.JumpReluAutoEncoder(D, F),
            plain | {"threshold": "threshold"},
        ),
    }
    cls, arguments, make, names = cases[name]
    sae, x, output = ours(cls, **arguments)
    theirs = make()
    theirs.apply_b_dec_to_input = True
    own = dict(sae.named_parameters())
    load(theirs, {their_name: own[our_name] for our_name, their_name in names.items()})
    in_training = {"use_threshold": False} if name in ("topk", "batch_topk", "matryoshka") else {}
    code = theirs.encode(x, **in_training)
    torch.testing.assert_close(output.code.to_dense(), code, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.x_hat, theirs.decode(code), rtol=1e-4, atol=1e-5)


def test_matching_pursuit() -> None:
    """Of sae-lens as many steps, whatever is left; overcomplete's has no bias, and its code is not held above 0."""
    sae, x, output = ours(MatchingPursuitSAE)
    config = sae_lens.MatchingPursuitTrainingSAEConfig(
        d_in=D,
        d_sae=F,
        apply_b_dec_to_input=True,
        decoder_init_norm=1.0,
        max_iterations=5,
        residual_threshold=0.0,
        stop_on_duplicate_support=False,
    )
    lens = sae_lens.MatchingPursuitTrainingSAE(config)
    own = dict(sae.named_parameters())
    load(lens, own)
    step = lens.training_forward_pass(TrainStepInput(x, {}, None, 0, False))
    torch.testing.assert_close(output.code.to_dense(), _dense(step.feature_acts), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.x_hat, step.sae_out, rtol=1e-5, atol=1e-5)
    loss = training_loss(output).total * D
    torch.testing.assert_close(loss, step.loss, rtol=1e-5, atol=0)
    loss.backward()
    step.loss.backward()
    for key, parameter in lens.named_parameters():
        torch.testing.assert_close(own[key].grad, parameter.grad, rtol=1e-4, atol=1e-5)
    complete = overcomplete.sae.MpSAE(D, F, k=5)
    with torch.no_grad():
        sae.b_dec.zero_()
        load(complete.dictionary, {"_weights": sae.W_dec})
    _, codes = complete.encode(x)
    torch.testing.assert_close(sae.encode(x).to_dense(), codes, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["TopKSAE", "BatchTopKSAE", "JumpSAE"])
def test_overcomplete(name: str) -> None:
    """It has no bias of the decoder, and counts a batch's latents in all."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(D, F)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            pre = self.linear(x)
            return pre, pre.relu()

    cases: dict[str, tuple[type[SAE], dict[str, Any], dict[str, Any]]] = {
        "TopKSAE": (TideSAE, {}, {"top_k": 5}),
        "BatchTopKSAE": (TideSAE, {"budget": "batch"}, {"top_k": 5 * 60}),
        "JumpSAE": (JumpReLUSAE, {}, {"bandwidth": 0.1}),
    }
    cls, arguments, theirs_takes = cases[name]
    sae, x, _ = ours(cls, **arguments)
    with torch.no_grad():
        sae.b_dec.zero_()
    batch = tokens(60, rest=1.0)
    output = sae(batch)
    encoder = Encoder()
    normalization = {"normalization": "identity"}
    their_class = getattr(overcomplete.sae, name)
    theirs = their_class(D, F, encoder_module=encoder, dictionary_params=normalization, **theirs_takes)
    load(
        theirs, {"encoder.linear.weight": sae.W_enc, "encoder.linear.bias": sae.b_enc, "dictionary._weights": sae.W_dec}
    )
    if name == "JumpSAE":
        assert isinstance(sae, JumpReLUSAE)
        with torch.no_grad():
            sae.threshold.fill_(0.5)
            theirs.thresholds.fill_(math.log(0.5))
        output = sae(batch)
    _, codes, x_hat = theirs(x)
    torch.testing.assert_close(output.code.to_dense(), codes, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.x_hat, x_hat, rtol=1e-4, atol=1e-5)
