from __future__ import annotations

import torch

from tide_lightning.diffusion import Denoiser


def test_tokens_are_the_denoisers_own(denoiser: Denoiser) -> None:
    """Patches, times the weight of the patch embedding, are what the transformer starts from."""
    latents = torch.randn(2, *denoiser.latent_shape, generator=torch.Generator().manual_seed(0))
    embedding = denoiser.module.get_submodule("pos_embed.proj")
    assert isinstance(embedding, torch.nn.Conv2d)
    assert embedding.bias is not None
    expected = embedding(latents).flatten(2).transpose(1, 2)
    found = denoiser.patches(latents) @ embedding.weight.flatten(1).T + embedding.bias
    torch.testing.assert_close(found, expected)


def test_windows_hold_the_neighbours(denoiser: Denoiser) -> None:
    latents = torch.randn(2, *denoiser.latent_shape, generator=torch.Generator().manual_seed(0))
    patches, positions = denoiser.patches(latents), denoiser.positions()
    windows = denoiser.windows(latents, 1).unflatten(2, (3, 3, -1))
    where = {tuple(place): token for token, place in enumerate(positions.tolist())}
    for (row, col), token in where.items():
        for down in range(3):
            for right in range(3):
                neighbour = where.get((row + down - 1, col + right - 1))
                expected = torch.zeros_like(patches[:, 0]) if neighbour is None else patches[:, neighbour]
                assert torch.equal(windows[:, token, down, right], expected)
    assert torch.equal(denoiser.windows(latents, 0), patches)
