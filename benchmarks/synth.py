# mypy: disable-error-code="import-not-found, import-untyped"
r"""SynthSAEBench's data and scores (arXiv 2602.14687, `sae_lens.synthetic`): true features that are found.

    make peers
    .venv-peers/bin/python -m benchmarks.synth --json docs/results/summaries/synth.json

Activations are sums of features that fire with Zipfian frequencies, in a hierarchy and correlated, with sizes that
vary. Two regimes: as many latents as features, and half as many. Scores are theirs: MCC, the mean cosine of latents and
features matched one to one; F1 of a latent as detector of the feature nearest to it; explained variance. The last alone
is no evidence: on random rows a pursuit lifts it and lowers F1. Our SAEs and sae-lens' own are trained on the same
number of tokens, with the same learning rate and schedule, and start from seeds that are not those of the features.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.pages import over_seeds, read, save
from benchmarks.plain_tokens import PlainTokens, train, train_theirs
from tide_lightning.saes import SAE, MatchingPursuitSAE, SparseCode, TideSAE
from tide_lightning.tokens import SiteShape

REGIMES = {"as many latents": 1.0, "half as many": 0.5}
"""Latents over features."""

COLUMNS = {
    "mcc": ("MCC", ".3f"),
    "f1": ("F1", ".3f"),
    "explained_variance": ("explained variance", ".3f"),
    "l0": ("L0", ".1f"),
    "dead": ("dead", ".0f"),
}

_PLAIN: dict[str, Any] = {"known_part": "mean", "modulation": "none", "num_bins": 1}


@dataclass(frozen=True)
class Size:
    """Of an experiment; k is near the mean number of features that fire (1.6 at this size)."""

    num_features: int = 384
    d_in: int = 64
    k: int = 2
    steps: int = 1500
    batch_size: int = 256
    test_tokens: int = 20_000


class Features(PlainTokens):
    """The stream of a synthetic model."""

    def __init__(self, size: Size, seed: int) -> None:
        super().__init__()
        from sae_lens.synthetic import (
            HierarchyConfig,
            LowRankCorrelationConfig,
            OrthogonalizationConfig,
            SyntheticModel,
            SyntheticModelConfig,
        )

        torch.manual_seed(10_000 + seed)
        self.batch_size = size.batch_size
        self.model = SyntheticModel(
            SyntheticModelConfig(
                num_features=size.num_features,
                hidden_dim=size.d_in,
                hierarchy=HierarchyConfig(total_root_nodes=max(1, size.num_features // 24), branching_factor=4),
                orthogonalization=OrthogonalizationConfig(num_steps=100),
                correlation=LowRankCorrelationConfig(rank=8),
                std_firing_magnitudes=0.5,
                seed=10_000 + seed,
            )
        )

    def activations(self) -> Tensor:
        """The next batch [B, d_in]."""
        sampled: Tensor = self.model.sample(self.batch_size)
        return sampled


class AsTheirs:
    """One of our SAEs where sae-lens scores its own: dense codes."""

    def __init__(self, sae: SAE) -> None:
        self.sae, self.W_dec = sae, sae.W_dec.detach()

    def eval(self) -> None:
        """It is."""

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Codes [B, F]."""
        return self.sae.encode(x).to_dense()

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Activations [B, d_in]."""
        return self.sae.decode(SparseCode.from_dense(codes))


def _ours(kind: type[SAE] = TideSAE, alpha: float = 1 / 32, resampling: bool = True, **arguments: Any) -> Trained:
    def trained(data: Features, size: Size, latents: int, seed: int) -> Any:
        def build(shape: SiteShape) -> SAE:
            return kind(shape, expansion_factor=latents / size.d_in, k=size.k, **_PLAIN, **arguments)

        made = train(data, size.d_in, build, size.steps, seed, size.batch_size, resampling, alpha=alpha)
        return AsTheirs(made)

    return trained


def _theirs(name: str, **arguments: Any) -> Trained:
    def trained(data: Features, size: Size, latents: int, seed: int) -> Any:
        import sae_lens

        torch.manual_seed(seed)
        many = {"max_iterations": size.k, "residual_threshold": 0.0} if name == "MatchingPursuit" else {"k": size.k}
        config = getattr(sae_lens, f"{name}TrainingSAEConfig")(
            d_in=size.d_in, d_sae=latents, apply_b_dec_to_input=True, **many, **arguments
        )
        sae = getattr(sae_lens, f"{name}TrainingSAE")(config)
        return train_theirs(sae, data, size.steps, size.batch_size)

    return trained


Trained = Callable[[Features, Size, int, int], Any]
"""Makes of data, size, number of latents and seed an SAE that sae-lens can score."""

TRAINERS: dict[str, Trained] = {
    "TopK": _ours(),
    "TopK, pursuit": _ours(pursuits=1),
    "BatchTopK, refinement, pursuit": _ours(budget="batch", refinements=1, pursuits=1),
    "matching pursuit": _ours(MatchingPursuitSAE),
    "sae-lens TopK": _theirs("TopK"),
    "sae-lens BatchTopK": _theirs("BatchTopK"),
    "sae-lens matching pursuit": _theirs("MatchingPursuit", decoder_init_norm=1.0),
}

REASONS: dict[str, Trained] = {
    "TopK, not resampled": _ours(resampling=False),
    "TopK, AuxK weighted 1": _ours(alpha=1.0),
    "TopK, short encoder rows": _ours(encoder_norm=0.1),
    "TopK, no AuxK": _ours(alpha=0.0),
    "sae-lens TopK, no AuxK": _theirs("TopK", aux_loss_coefficient=0.0),
    "sae-lens TopK, unit rows": _theirs("TopK", decoder_init_norm=1.0),
    "sae-lens TopK, values unscaled": _theirs("TopK", rescale_acts_by_decoder_norm=False),
}
"""What sets our TopK apart from theirs, one thing at a time; not in the table unless named."""


def measure(name: str, size: Size, regime: str, seed: int) -> dict[str, float]:
    """The scores of one SAE."""
    from sae_lens.synthetic import eval_sae_on_synthetic_data

    data = Features(size, seed)
    sae = (TRAINERS | REASONS)[name](data, size, round(REGIMES[regime] * size.num_features), seed)
    torch.manual_seed(20_000 + seed)
    found = eval_sae_on_synthetic_data(
        sae, data.model.feature_dict, data.model.activation_generator, size.test_tokens, batch_size=1000
    )
    return {
        "mcc": found.mcc,
        "f1": found.classification.f1_score,
        "explained_variance": found.explained_variance,
        "l0": found.sae_l0,
        "dead": float(found.dead_latents),
        "true_l0": found.true_l0,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Each trainer, for each regime and seed; rows that the JSON file holds are not measured again."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--trainers", choices=[*TRAINERS, *REASONS], nargs="+", default=list(TRAINERS))
    parser.add_argument("--regimes", choices=list(REGIMES), nargs="+", default=list(REGIMES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    for name, default in vars(Size()).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", type=Path, default=Path("runs/synth.json"))
    options = parser.parse_args(arguments)
    size = Size(**{name: getattr(options, name) for name in vars(Size())})
    content = read(options.json) or {"settings": vars(size), "regimes": {}}
    if content["settings"] != vars(size):
        raise SystemExit(f"{options.json} was measured with {content['settings']}, not {vars(size)}: name another")
    for regime in options.regimes:
        seeds = content["regimes"].setdefault(regime, {})
        for seed in options.seeds:
            rows = seeds.setdefault(str(seed), {})
            for name in (each for each in options.trainers if each not in rows):
                rows[name] = measure(name, size, regime, seed)
                print(f"{regime}, seed {seed}, {name}: {rows[name]}", flush=True)
                save(options.json, content)
        print(f"### {regime}\n\n{over_seeds(seeds, [*TRAINERS, *REASONS], COLUMNS, 'SAE')}\n")


if __name__ == "__main__":
    main()
