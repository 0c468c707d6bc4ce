from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from tests.diffusion.pipelines import FAMILIES
from tide_lightning.diffusion import Denoiser, load_denoiser, sensitivity, splice


def test_it_foretells_what_a_small_error_does_to_the_prediction(denoiser: Denoiser) -> None:
    sites = denoiser.resolve_sites(["transformer_blocks.0", "transformer_blocks.2"])
    draw = torch.Generator().manual_seed(0)
    num_samples = 64
    x_t = torch.randn(num_samples, *denoiser.latent_shape, generator=draw)
    raw_t = torch.randint(0, 1000, (num_samples,), generator=draw).float()
    conditioning = denoiser.encode_prompts(["a red ball"] * num_samples)
    v = torch.randn(x_t.shape, generator=draw)
    whole = torch.arange(num_samples)
    parts = ((x_t[rows], raw_t[rows], conditioning.select(rows), v[rows]) for rows in whole.split(16))
    found = sensitivity(denoiser, sites, parts)
    assert list(found) == [str(site) for site in sites]
    with torch.no_grad():
        clean = denoiser.predict(x_t, raw_t, conditioning)
    for site in sites:
        matrix = found[str(site)]
        values, vectors = torch.linalg.eigh(matrix)
        for number in (-1, len(values) // 2):
            direction = vectors[:, number].float()

            def push(x_NTD: Tensor, direction: Tensor = direction) -> Tensor:
                sizes = torch.randn(*x_NTD.shape[:2], 1, generator=torch.Generator().manual_seed(1))
                return x_NTD + 1e-2 * sizes * direction

            with torch.no_grad(), splice(denoiser.module, {site: push}):
                moved = denoiser.predict(x_t, raw_t, conditioning) - clean
            expected = 1e-4 * num_samples * denoiser.num_tokens * float(values[number])
            assert abs(float(moved.double().square().sum()) / expected - 1) < 0.3


def test_what_nothing_reads_is_of_no_consequence(tmp_path: Path) -> None:
    family = FAMILIES["flux-schnell"]
    denoiser = load_denoiser(str(family.save(tmp_path)), latent_size=family.latent_size)
    patterns = ["single_transformer_blocks.0:text", "single_transformer_blocks.1:text", "single_transformer_blocks.1"]
    sites = denoiser.resolve_sites(patterns)
    x_t = torch.randn(2, *denoiser.latent_shape, generator=torch.Generator().manual_seed(0))
    forward = x_t, torch.tensor([0.3, 0.8]), denoiser.encode_prompts(family.prompts)
    found = sensitivity(denoiser, sites, [(*forward, torch.ones_like(x_t))])
    assert found["single_transformer_blocks.1:text"].count_nonzero() == 0
    assert float(found["single_transformer_blocks.0:text"].trace()) > 0
    assert float(found["single_transformer_blocks.1"].trace()) > 0
