# mypy: disable-error-code="import-not-found, import-untyped"
r"""A known dictionary, recovered from what it makes: by our training and by sae-lens' own, at the same budget.

    pip install -e '.[bench]'
    python -m benchmarks.recovery --json docs/results/summaries/recovery.json

(The extra brings torchvision, which has to fit torch: where it says that torchvision::nms is missing, uninstall it.)

Each token is a sum of a few features of a random dictionary and a little noise. Both trainers get the same tokens, the
same numbers of latents and steps, and TopK at the true mean number of features. How much was recovered is the mean,
over true features, of the largest cosine with a decoder row.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from lightning import seed_everything
from torch import Tensor

from benchmarks.plain_tokens import PlainTokens, train, train_theirs
from tide_lightning.saes import SAE, TideSAE
from tide_lightning.tokens import SiteShape


class KnownDictionary(PlainTokens):
    """Tokens made of a dictionary's features, each active with the same probability and of size 1 to 2.

    A token has `num_active` features on average; `noise` is the standard deviation of what is added to each channel.
    """

    def __init__(
        self, d_in: int, num_features: int, num_active: int, batch_size: int, seed: int, noise: float = 0.02
    ) -> None:
        super().__init__()
        self.num_active, self.batch_size, self.noise = num_active, batch_size, noise
        self.draw = torch.Generator().manual_seed(seed)
        directions = torch.randn(num_features, d_in, generator=self.draw)
        self.dictionary = torch.nn.functional.normalize(directions, dim=1)

    def activations(self) -> Tensor:
        """The next batch [B, d_in]."""
        size = self.batch_size, len(self.dictionary)
        active = torch.rand(size, generator=self.draw) < self.num_active / size[1]
        sizes = active * (1 + torch.rand(size, generator=self.draw))
        made = sizes @ self.dictionary
        return made + self.noise * torch.randn(made.shape, generator=self.draw)

    def recovered(self, W_dec: Tensor) -> float:
        """The mean over features of the largest cosine with a decoder row."""
        rows = torch.nn.functional.normalize(W_dec.detach(), dim=1)
        return float((self.dictionary @ rows.T).max(1).values.mean())


def ours(data: KnownDictionary, steps: int, seed: int) -> Tensor:
    """The decoder that our training finds."""
    num_features, d_in = data.dictionary.shape

    def build(shape: SiteShape) -> SAE:
        return TideSAE(shape, num_features / d_in, data.num_active, known_part="mean", modulation="none", num_bins=1)

    return train(data, d_in, build, steps, seed, data.batch_size).W_dec


def lens(data: KnownDictionary, steps: int, seed: int) -> Tensor:
    """The decoder that sae-lens' trainer finds, with our learning rate and schedule."""
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig

    seed_everything(seed, verbose=False)
    num_features, d_in = data.dictionary.shape
    sae = TopKTrainingSAE(
        TopKTrainingSAEConfig(d_in=d_in, d_sae=num_features, k=data.num_active, apply_b_dec_to_input=True)
    )
    found: Tensor = train_theirs(sae, data, steps, data.batch_size).W_dec
    return found


TRAINERS = {"tide-lightning": ours, "sae-lens": lens}


def main() -> None:
    """Each trainer, for each seed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--trainers", choices=TRAINERS, nargs="+", default=list(TRAINERS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--d_in", type=int, default=64)
    parser.add_argument("--num_features", type=int, default=128)
    parser.add_argument("--num_active", type=int, default=6)
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: dict[str, Any] = {}
    for seed in options.seeds:
        rows[str(seed)] = {}
        for name in options.trainers:
            sizes = options.d_in, options.num_features, options.num_active, options.batch_size
            data = KnownDictionary(*sizes, seed=seed)
            rows[str(seed)][name] = round(data.recovered(TRAINERS[name](data, options.steps, seed)), 4)
        print(f"seed {seed}: {rows[str(seed)]}", flush=True)
    if options.json:
        settings = {name: value for name, value in vars(options).items() if isinstance(value, int)}
        options.json.write_text(json.dumps({"settings": settings, "recovered": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
