"""Which edits come closest to a change of words: tried on whole trajectories, judged by nothing but the denoiser.

From the same noise, a prompt and the wanted prompt make two images. An edit under the first prompt is as good as it
brings the first image to the second: no label and no classifier is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tide_lightning.diffusion import Denoiser, sample
from tide_lightning.intervene.edits import Edit
from tide_lightning.intervene.steering import steer
from tide_lightning.saes import SAE


class Trial:
    """Prompts, wanted prompts, and what the denoiser makes of both.

    Args:
        denoiser: the frozen denoiser.
        prompts: under which is steered.
        wanted: what should come out, one for each of them.
        initial_noise: of each pair [N, *latent_shape].
        num_inference_steps: of the trajectories.
        guidance_scale: of the trajectories.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        prompts: Sequence[str],
        wanted: Sequence[str],
        initial_noise: Tensor,
        *,
        num_inference_steps: int = 10,
        guidance_scale: float = 4.5,
    ) -> None:
        self.denoiser, self.prompts = denoiser, list(prompts)
        self._settings = {
            "initial_noise": initial_noise,
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
        }
        self._plain, self._wanted = self._draw(denoiser, self.prompts), self._draw(denoiser, wanted)

    def closeness(self, denoiser: Denoiser) -> float:
        """How far a steered denoiser goes from the plain images to the wanted ones.

        Returns:
            1 where it makes them, 0 where it is as far from them as without steering, below 0 where farther.
        """
        left = (self._draw(denoiser, self.prompts) - self._wanted).square().sum()
        return 1 - float(left / (self._plain - self._wanted).square().sum().clamp_min(1e-20))

    def best(self, saes: Mapping[str, SAE], candidates: Sequence[Edit]) -> tuple[Edit, float]:
        """The edit that comes closest, and how close; the first of equals."""
        found = []
        for edit in candidates:
            with steer(self.denoiser, saes, [edit]) as steered:
                found.append(self.closeness(steered))
        best = max(range(len(found)), key=lambda number: found[number])
        return candidates[best], found[best]

    @torch.no_grad()
    def _draw(self, denoiser: Denoiser, prompts: Sequence[str]) -> Tensor:
        return sample(denoiser, prompts, **self._settings)  # type: ignore[arg-type]
