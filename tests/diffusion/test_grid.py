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
