"""Denoisers with places in the batch: two whose tokens say what they are, and a windowed DiT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from tests.diffusion.research_code.vdt import WindowedDiT
from tide_lightning.diffusion import Conditioning, Folding, OwnDenoiser
from tide_lightning.diffusion.grid import Grid, patches, positions

WINDOWS = Folding("(b h w) (i j) d -> b (h i w j) d", {"h": 2, "w": 2, "i": 2, "j": 2})


class Telling(nn.Module):
    """One block, whose tokens are [t, place, patch], folded into the batch by hand."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid, self.scale = grid, nn.Parameter(torch.ones(1))
        self.blocks = nn.ModuleList([nn.Identity()])

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        shown = patches(x, self.grid)
        places = positions(self.grid).to(x).expand(len(x), -1, -1)
        tokens = torch.cat([t.to(x).view(-1, 1, 1).expand(-1, shown.shape[1], -1), places, shown], 2)
        if len(self.grid) == 3:
            folded = tokens.unflatten(1, self.grid).flatten(2, 3).flatten(0, 1)  # [frames of all samples, places, d]
        else:
            halves = [row.chunk(2, 2) for row in tokens.unflatten(1, self.grid).chunk(2, 1)]
            windows = torch.stack([window.flatten(1, 2) for row in halves for window in row], 1)
            folded = windows.flatten(0, 1)  # [windows of all samples, places in them, d]
        self.blocks[0](folded)
        return x * self.scale


class TellingVideo(OwnDenoiser):
    """Three frames of 2x2 tokens."""

    num_channels, num_classes = 2, 0
    default_latent_size: Grid = (3, 4, 4)
    patch_shape: Grid = (1, 2, 2)
    timestep_divisor = 1000.0
    folded: Mapping[str, Folding] = {"blocks.*": Folding("(b f) n d -> b (f n) d", {"f": 3})}

    def make_module(self) -> nn.Module:
        return Telling(self.grid)

    def weights(self) -> Mapping[str, Tensor]:
        return {"scale": torch.ones(1)}

    def make_scheduler(self) -> Any:
        return FlowMatchEulerDiscreteScheduler()

    def forward(self, x_t: Tensor, raw_t: Tensor, conditioning: Conditioning) -> Tensor:
        prediction: Tensor = self.module(x_t, raw_t)
        return prediction


class TellingWindows(TellingVideo):
    """4x4 tokens in windows of 2x2."""

    default_latent_size, patch_shape = (8, 8), (2, 2)
    folded = {"blocks.*": WINDOWS}


class Undeclared(TellingVideo):
    """Says nothing of its frames."""

    folded: Mapping[str, Folding] = {}


class FramesFirst(TellingVideo):
    """Says that the batch begins with frames."""

    folded = {"blocks.*": Folding("(f b) n d -> b (f n) d", {"f": 3})}


class TooMany(TellingVideo):
    """Says that there are five."""

    folded = {"blocks.*": Folding("(b f) n d -> b (f n) d", {"f": 5})}


class RowsOfWindows(TellingWindows):
    """Takes windows for rows."""

    folded = {"blocks.*": Folding("(b h) w d -> b (h w) d", {"h": 4})}


class Windowed(OwnDenoiser):
    """A DiT with windows of 8x8."""

    folded = {"blocks.*": Folding(WINDOWS.pattern, {"h": 2, "w": 2, "i": 8, "j": 8})}
    rolled = False

    def make_module(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return WindowedDiT(self.rolled)

    def weights(self) -> Mapping[str, Tensor]:
        return self.make_module().state_dict()

    def make_scheduler(self) -> Any:
        return DDIMScheduler(beta_start=1e-4, beta_end=0.02, clip_sample=False, timestep_spacing="trailing")


class Rolled(Windowed):
    """Shifts its windows by half of one, and says nothing of that."""

    rolled = True
