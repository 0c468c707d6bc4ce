from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from tests.diffusion.pipelines import FAMILIES
from tide_lightning.diffusion import Denoiser, Forward, load_denoiser, sensitivity, splice
from tide_lightning.tokens import Sensitivity


def test_it_foretells_what_a_small_error_does_to_the_prediction(denoiser: Denoiser) -> None:
    sites = denoiser.resolve_sites(["transformer_blocks.0", "transformer_blocks.2"])
    draw = torch.Generator().manual_seed(0)
    num_samples = 64
    x_t = torch.randn(num_samples, *denoiser.latent_shape, generator=draw)
    raw_t = torch.randint(0, 1000, (num_samples,), generator=draw).float()
    conditioning = denoiser.encode_prompts(["a red ball"] * num_samples)
    v = torch.randn(x_t.shape, generator=draw)
    whole = torch.arange(num_samples)
    parts = (Forward(x_t[rows], raw_t[rows], conditioning.select(rows), v[rows]) for rows in whole.split(16))
    found = sensitivity(denoiser, sites, parts)
    assert list(found) == [str(site) for site in sites]
    with torch.no_grad():
        clean = denoiser.predict(x_t, raw_t, conditioning)
    for site in sites:
        matrix = found[str(site)].matrix
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
    forward = Forward(x_t, torch.tensor([0.3, 0.8]), denoiser.encode_prompts(family.prompts), torch.ones_like(x_t))
    found = sensitivity(denoiser, sites, [forward])
    assert found["single_transformer_blocks.1:text"].matrix.count_nonzero() == 0
    assert float(found["single_transformer_blocks.0:text"].matrix.trace()) > 0
    assert float(found["single_transformer_blocks.1"].matrix.trace()) > 0


def test_it_is_told_by_time(denoiser: Denoiser) -> None:
    [site] = denoiser.resolve_sites(["transformer_blocks.0"])
    draw = torch.Generator().manual_seed(0)
    raw_t = torch.tensor([10.0, 20.0, 960.0])
    x_t = torch.randn(3, *denoiser.latent_shape, generator=draw)
    conditioning, v = denoiser.encode_prompts(["a red ball"] * 3), torch.randn(x_t.shape, generator=draw)

    def of(rows: Tensor) -> Sensitivity:
        forward = Forward(x_t[rows], raw_t[rows], conditioning.select(rows), v[rows])
        return sensitivity(denoiser, [site], [forward])[str(site)]

    found = of(torch.arange(3))
    early, late = of(torch.arange(2)), of(torch.tensor([2]))
    assert found.by_time.isfinite().nonzero().flatten().tolist() == [0, 19]
    torch.testing.assert_close(found.by_time[0], early.matrix.diagonal().mean(), rtol=1e-4, atol=0)
    torch.testing.assert_close(found.by_time[19], late.matrix.diagonal().mean(), rtol=1e-4, atol=0)
    torch.testing.assert_close(found.matrix, (2 * early.matrix + late.matrix) / 3, rtol=1e-4, atol=1e-9)


def test_the_relative_loss_counts_each_time_by_one_over_its_loss(denoiser: Denoiser) -> None:
    [site] = denoiser.resolve_sites(["transformer_blocks.0"])
    draw = torch.Generator().manual_seed(0)
    raw_t = torch.tensor([10.0, 960.0])
    x_t = torch.randn(2, *denoiser.latent_shape, generator=draw)
    conditioning, v = denoiser.encode_prompts(["a red ball"] * 2), torch.randn(x_t.shape, generator=draw)
    with torch.no_grad():
        target = denoiser.predict(x_t, raw_t, conditioning) + torch.tensor([0.1, 2.0])[:, None, None, None]
    forward = Forward(x_t, raw_t, conditioning, v, target)
    plain, relative = (sensitivity(denoiser, [site], [forward], loss)[str(site)] for loss in ("plain", "relative"))
    for number, loss in [(0, 0.01), (19, 4.0)]:
        torch.testing.assert_close(relative.by_time[number], plain.by_time[number] / loss, rtol=1e-3, atol=0)
    expected = relative.by_time[[0, 19]].mean()
    torch.testing.assert_close(relative.matrix.diagonal().mean(), expected, rtol=1e-4, atol=0)
