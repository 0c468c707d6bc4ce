"""What is known of a site's tokens in a forward: from the denoiser's arguments to a `TokenContext`."""

from __future__ import annotations

from torch import Tensor

from tide_lightning.diffusion.conditioning import Conditioning
from tide_lightning.diffusion.denoiser import Denoiser
from tide_lightning.diffusion.grid import positions
from tide_lightning.diffusion.layouts import Layout
from tide_lightning.tokens import TokenContext


def token_context(
    denoiser: Denoiser,
    layout: Layout,
    x_t: Tensor,
    raw_t: Tensor,
    conditioning: Conditioning,
    noise: Tensor | None = None,
) -> TokenContext:
    """The context of all N T tokens of a layout, sample by sample in grid order.

    It is the one place where contexts are made: for tokens that are read and for tokens that are spliced.

    Args:
        denoiser: whose forward it is.
        layout: of the site.
        x_t: the forward's input [N, *latent_shape].
        raw_t: its timesteps [N].
        conditioning: N rows; on a trajectory it holds what earlier steps tell of the noise.
        noise: the true noise in x_t, where it is known.
    """

    def inputs(latents: Tensor) -> Tensor:
        return denoiser.inputs(layout, latents.float(), conditioning).flatten(0, 1)

    def of_image(latents: Tensor | None) -> Tensor | None:
        return inputs(latents) if latents is not None and layout.stream == "image" else None

    return TokenContext(
        t=denoiser.schedule.t(raw_t).float().repeat_interleave(layout.num_tokens),
        position=positions(layout.grid, x_t.device).repeat(len(x_t), 1),
        input=inputs(x_t),
        noise=of_image(noise),
        trajectory_noise=of_image(conditioning.trajectory_noise),
    )
