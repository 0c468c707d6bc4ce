"""TopK autoencoders of several libraries behind one interface, so that the same training step can be timed in each.

All get the same weights, optimiser and loss: the mean over tokens and channels of (x - x_hat)^2, plus alpha times AuxK,
the mean of (e - W_dec^T z_dead)^2 over the k_aux = d_in / 2 largest of the dead latents. Each computes it by its own
code; what a library has no code for (projecting the decoder's gradient, unit rows) is done by plain formulas.
"""

# mypy: disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from tide_lightning.saes import TideSAE, training_loss
from tide_lightning.tokens import SiteShape, TokenBatch, TokenContext
from tide_lightning.training.optimisation import IndependentAdam

ALPHA = 1 / 32
MAX_NORM = 1.0


class Implementation(ABC):
    """One library's autoencoder and its training step.

    `tensors` are its parameters by our names, with whether they are stored transposed: ours are [d_sae, d_in].
    """

    lacks_encoder_gradient_of_auxk = False
    has_bf16_of_its_own_on_cuda = False

    def __init__(self, module: nn.Module, tensors: dict[str, tuple[Tensor, bool]]) -> None:
        self.module, self.tensors = module, tensors
        self.optimiser = IndependentAdam([module.parameters()], 1e-4, (0.9, 0.999))

    @abstractmethod
    def loss(self, x: Tensor, dead: Tensor | None) -> Tensor:
        """The loss of a batch; `dead` are latents, int64 and sorted."""

    def project(self) -> None:
        """Remove the decoder's gradient along its rows."""
        weight, transposed = self.tensors["W_dec"]
        assert weight.grad is not None
        dim = 0 if transposed else 1
        weight.grad -= (weight.grad * weight.data).sum(dim, keepdim=True) * weight.data

    def clip(self) -> None:
        """Clip the gradients' norm."""
        nn.utils.clip_grad_norm_(self.module.parameters(), MAX_NORM)

    def normalise(self) -> None:
        """Give the decoder's rows unit norm."""
        weight, transposed = self.tensors["W_dec"]
        weight.data = normalize(weight.data, dim=0 if transposed else 1)

    def step(self, x: Tensor, dead: Tensor | None, autocast: torch.dtype | None) -> None:
        """One whole training step."""
        with torch.autocast(x.device.type, dtype=autocast, enabled=autocast is not None):
            loss = self.loss(x, dead)
        loss.backward()
        self.project()
        self.clip()
        self.optimiser.step()
        self.normalise()
        self.optimiser.zero_grad()

    @torch.no_grad()
    def load(self, weights: dict[str, Tensor]) -> None:
        """Take over weights."""
        for name, (tensor, transposed) in self.tensors.items():
            tensor.copy_(weights[name].T if transposed else weights[name])

    def gradients(self) -> dict[str, Tensor]:
        """By our names and in our layout."""
        found = {}
        for name, (tensor, transposed) in self.tensors.items():
            assert tensor.grad is not None
            found[name] = tensor.grad.T if transposed else tensor.grad
        return found


class Ours(Implementation):
    """TideSAE without modulation and with a mean of 0: what the others compute."""

    arguments: dict[str, Any] = {}

    def __init__(self, d_in: int, d_sae: int, k: int) -> None:
        shape = SiteShape(d_in, grid=(1, 1), d_input=1)
        plain: dict[str, Any] = {"known_part": "mean", "num_bins": 1, "modulation": "none"}
        self.sae = TideSAE(shape, d_sae / d_in, k, **plain, **self.arguments)
        super().__init__(
            self.sae, {name: (getattr(self.sae, name), False) for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
        )

    def loss(self, x: Tensor, dead: Tensor | None) -> Tensor:
        """As in training."""
        zeros, integers = x.new_zeros(len(x)), torch.zeros(len(x), dtype=torch.int64, device=x.device)
        batch = TokenBatch(x, TokenContext(zeros), zeros, integers, integers, integers)
        return training_loss(self.sae(batch, dead), ALPHA).total

    def project(self) -> None:
        """In one pass, which also gives the norm."""
        self.decoder_norm = self.sae.project_decoder_gradient()

    def clip(self) -> None:
        """As `TideModule` does: inside the optimiser's pass."""
        others = [
            tensor.grad for name, (tensor, _) in self.tensors.items() if name != "W_dec" and tensor.grad is not None
        ]
        norms = torch.stack([self.decoder_norm, nn.utils.get_total_norm([grad for grad in others if grad is not None])])
        self.optimiser.prepare_step(torch.linalg.vector_norm(norms).unsqueeze(0), MAX_NORM)

    def normalise(self) -> None:
        """In place."""
        self.sae.normalise_decoder()


class OursPursuing(Ours):
    """Its default in the packaged configs: a batch's budget, a refinement and a pursuit. No other computes this."""

    arguments = {"budget": "batch", "refinements": 1, "pursuits": 1}


class Dense(Implementation):
    """Plain PyTorch: six matrix products over all latents."""

    def __init__(self, d_in: int, d_sae: int, k: int) -> None:
        self.k = k
        module = nn.ParameterDict(
            {
                "W_enc": torch.zeros(d_sae, d_in),
                "b_enc": torch.zeros(d_sae),
                "W_dec": torch.zeros(d_sae, d_in),
                "b_dec": torch.zeros(d_in),
            }
        )
        super().__init__(module, {name: (tensor, False) for name, tensor in module.items()})
        self.weights = module

    def loss(self, x: Tensor, dead: Tensor | None) -> Tensor:
        """The formula."""
        w = self.weights
        pre = ((x - w["b_dec"]) @ w["W_enc"].T + w["b_enc"]).relu()
        error = x - _largest(pre, self.k) @ w["W_dec"] - w["b_dec"]
        loss: Tensor = error.square().mean()
        if dead is not None:
            z_dead = _largest(_dead_only(pre, dead), min(x.shape[1] // 2, len(dead)))
            loss = loss + ALPHA * (error.detach() - z_dead @ w["W_dec"]).square().mean()
        return loss


class Sparsify(Implementation):
    """EleutherAI's sparsify.

    Its encoder's backward drops the gradient of AuxK: with dead latents it does less. On CUDA its forward turns bf16
    autocast on, whoever calls it.
    """

    lacks_encoder_gradient_of_auxk = True
    has_bf16_of_its_own_on_cuda = True

    def __init__(self, d_in: int, d_sae: int, k: int) -> None:
        from sparsify import SparseCoder, SparseCoderConfig

        self.coder = coder = SparseCoder(d_in, SparseCoderConfig(num_latents=d_sae, k=k))
        tensors = {
            "W_enc": coder.encoder.weight,
            "b_enc": coder.encoder.bias,
            "W_dec": coder.W_dec,
            "b_dec": coder.b_dec,
        }
        super().__init__(coder, {name: (tensor, False) for name, tensor in tensors.items()})

    def loss(self, x: Tensor, dead: Tensor | None) -> Tensor:
        """Its own losses, divided by the number of entries instead of the variance."""
        mask = None if dead is None else torch.zeros(self.coder.num_latents, dtype=torch.bool, device=x.device)
        if mask is not None:
            mask[dead] = True
        output = self.coder(x, dead_mask=mask, total_variance=x.new_tensor(float(x.numel())))
        loss: Tensor = output.fvu + ALPHA * output.auxk_loss
        return loss

    def project(self) -> None:
        """Its own."""
        self.coder.remove_gradient_parallel_to_decoder_directions()

    def normalise(self) -> None:
        """Its own."""
        self.coder.set_decoder_norm_to_unit_norm()


class DictionaryLearning(Implementation):
    """dictionary_learning's AutoEncoderTopK with its trainer's AuxK and decoder functions."""

    def __init__(self, d_in: int, d_sae: int, k: int) -> None:
        from dictionary_learning.trainers.top_k import AutoEncoderTopK

        self.sizes = d_in, d_sae
        self.coder = coder = AutoEncoderTopK(d_in, d_sae, k)
        super().__init__(
            coder,
            {
                "W_enc": (coder.encoder.weight, False),
                "b_enc": (coder.encoder.bias, False),
                "W_dec": (coder.decoder.weight, True),
                "b_dec": (coder.b_dec, False),
            },
        )

    def loss(self, x: Tensor, dead: Tensor | None) -> Tensor:
        """Its steps, with means for sums."""
        code, _, _, pre = self.coder.encode(x, return_topk=True)
        error = x - self.coder.decode(code)
        loss: Tensor = error.square().mean()
        if dead is not None:
            z_dead = _largest(_dead_only(pre, dead), min(x.shape[1] // 2, len(dead)))
            loss = loss + ALPHA * (error.detach() - self.coder.decoder(z_dead)).square().mean()
        return loss

    def project(self) -> None:
        """Its own."""
        from dictionary_learning.trainers.trainer import remove_gradient_parallel_to_decoder_directions

        weight = self.coder.decoder.weight
        weight.grad = remove_gradient_parallel_to_decoder_directions(weight, weight.grad, *self.sizes)

    def normalise(self) -> None:
        """Its own."""
        from dictionary_learning.trainers.trainer import set_decoder_norm_to_unit_norm

        weight = self.coder.decoder.weight
        weight.data = set_decoder_norm_to_unit_norm(weight, *self.sizes)


class SAELens(Implementation):
    """SAELens' TopKTrainingSAE with its own AuxK; it rescales by the decoder's norms unless told not to."""

    def __init__(self, d_in: int, d_sae: int, k: int) -> None:
        from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig

        config = TopKTrainingSAEConfig(
            d_in=d_in, d_sae=d_sae, k=k, rescale_acts_by_decoder_norm=False, apply_b_dec_to_input=True
        )
        self.sae = sae = TopKTrainingSAE(config)
        super().__init__(
            sae,
            {
                "W_enc": (sae.W_enc, True),
                "b_enc": (sae.b_enc, False),
                "W_dec": (sae.W_dec, False),
                "b_dec": (sae.b_dec, False),
            },
        )

    def loss(self, x: Tensor, dead: Tensor | None) -> Tensor:
        """Its two losses, which sum over channels, as means."""
        code, pre = self.sae.encode_with_hidden_pre(x)
        x_hat = self.sae.decode(code)
        loss: Tensor = (x - x_hat).square().mean()
        if dead is not None:
            mask = torch.zeros(self.sae.cfg.d_sae, dtype=torch.bool, device=x.device)
            mask[dead] = True
            auxk = self.sae.calculate_topk_aux_loss(x, x_hat, pre.relu(), mask)
            loss = loss + ALPHA * auxk / x.shape[1]
        return loss


class Overcomplete(Implementation):
    """Overcomplete's TopKSAE with a linear encoder; it has no bias of the decoder, whose gradient is left out."""

    def __init__(self, d_in: int, d_sae: int, k: int) -> None:
        from overcomplete.sae import TopKSAE

        class Encoder(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.linear = nn.Linear(d_in, d_sae)

            def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
                pre = self.linear(x)
                return pre, pre.relu()

        encoder = Encoder()
        self.sae = TopKSAE(d_in, d_sae, k, encoder, dictionary_params={"normalization": "identity"})
        super().__init__(
            self.sae,
            {
                "W_enc": (encoder.linear.weight, False),
                "b_enc": (encoder.linear.bias, False),
                "W_dec": (self.sae.dictionary._weights, False),
            },
        )

    def loss(self, x: Tensor, dead: Tensor | None) -> Tensor:
        """Its forward; AuxK by the formula, through its dictionary."""
        pre, _, x_hat = self.sae(x)
        error = x - x_hat
        loss: Tensor = error.square().mean()
        if dead is not None:
            z_dead = _largest(_dead_only(pre.relu(), dead), min(x.shape[1] // 2, len(dead)))
            loss = loss + ALPHA * (error.detach() - self.sae.dictionary(z_dead)).square().mean()
        return loss


IMPLEMENTATIONS: dict[str, Callable[[int, int, int], Implementation]] = {
    "tide-lightning": Ours,
    "dense": Dense,
    "sparsify": Sparsify,
    "dictionary_learning": DictionaryLearning,
    "sae_lens": SAELens,
    "overcomplete": Overcomplete,
}


def available() -> dict[str, Callable[[int, int, int], Implementation]]:
    """Those that can be imported; the others come with the `bench` extra."""
    found = {}
    for name, make in IMPLEMENTATIONS.items():
        if name not in ("tide-lightning", "dense"):
            if not torch.cuda.is_available():
                os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # it takes Triton where that is installed, GPU or not
            try:
                import_module(name)
            except Exception as error:  # whatever a library meets with while it is imported
                print(f"without {name}: {type(error).__name__}: {error}")
                continue
        found[name] = make
    return found


def _largest(pre: Tensor, k: int) -> Tensor:
    top = pre.topk(k, dim=1, sorted=False)
    return torch.zeros_like(pre).scatter(1, top.indices, top.values)


def _dead_only(pre: Tensor, dead: Tensor) -> Tensor:
    mask = torch.zeros(pre.shape[1], dtype=torch.bool, device=pre.device)
    mask[dead] = True
    return pre.where(mask, 0)
