"""From a denoiser's forward to token batches: which tokens are kept, and all that is known about them.

Sites with one layout share everything but their activations. Shapes: N samples, T tokens of a layout, M of them kept,
B = N M tokens in a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from tide_lightning.diffusion import Conditioning, Denoiser, Layout, Site, token_context
from tide_lightning.diffusion.trajectories import guided_prediction
from tide_lightning.tokens import Half, Source, TokenBatch

Places = Mapping[Layout, Tensor]
"""Which tokens are kept of each sample [N, M], in every layout."""


@dataclass(frozen=True)
class Call:
    """Everything to repeat a denoiser's forward over N samples: `denoiser.predict(x_t, raw_t, conditioning)`.

    Args:
        x_t: the denoiser's input [N, *latent_shape].
        raw_t: timestep as the denoiser is given it [N].
        t: normalised time [N]; 1 is pure noise.
        conditioning: prompts, N rows.
        sample: which sample each is [N], int64, unique over a run.
        unconditional: whether the prompt is the empty one [N], bool.
        x0: the clean latent [N, *latent_shape], where x_t was made from one.
        noise: the noise in x_t [N, *latent_shape], where it is known.
    """

    x_t: Tensor
    raw_t: Tensor
    t: Tensor
    conditioning: Conditioning
    sample: Tensor
    unconditional: Tensor
    x0: Tensor | None = None
    noise: Tensor | None = None

    def __len__(self) -> int:
        return self.x_t.shape[0]

    def _each(self, change: Callable[[Tensor], Tensor], conditioning: Conditioning) -> Call:
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        changed = {name: change(value) for name, value in named.items() if isinstance(value, Tensor)}
        return replace(self, **changed, conditioning=conditioning)

    def to(self, device: torch.device | str) -> Call:
        """The same call on another device."""
        return self._each(lambda value: value.to(device), self.conditioning.to(device))

    def select(self, index: Tensor | slice) -> Call:
        """The samples at `index`."""
        return self._each(lambda value: value[index], self.conditioning.select(index))


class Harvester:
    """Runs the denoiser and keeps tokens.

    Args:
        denoiser: the frozen denoiser.
        sites: where tokens are read.
        forward_batch_size: samples in one forward; None for all at once.
    """

    def __init__(self, denoiser: Denoiser, sites: Sequence[Site], forward_batch_size: int | None) -> None:
        self.denoiser = denoiser
        self.sites = sites
        self._forward_batch_size = forward_batch_size
        self._layout = {str(site): denoiser.layout(site) for site in sites}

    @property
    def layouts(self) -> list[Layout]:
        """Those of the sites, each once."""
        return list(dict.fromkeys(self._layout.values()))

    def everywhere(self, num_samples: int) -> Places:
        """All tokens of each sample."""
        device = self.denoiser.device
        return {
            layout: torch.arange(layout.num_tokens, device=device).expand(num_samples, -1) for layout in self.layouts
        }

    @torch.no_grad()
    def read(self, call: Call, places: Places) -> dict[str, TokenBatch]:
        """Tokens at `places` of each sample, from one forward that stops after the last site."""
        parts = []
        for chunk in self._chunks(len(call)):
            some, here = call.select(chunk), {layout: places_NM[chunk] for layout, places_NM in places.items()}

            def select(site: Site, x: Tensor, here: Places = here) -> Tensor:
                return _keep(x, here[self._layout[str(site)]])

            with self.denoiser.record(self.sites, stop_early=True, select=select) as values:
                self.denoiser.predict(some.x_t, some.raw_t, some.conditioning)
            half = torch.where(some.unconditional, Half.UNCONDITIONAL, Half.CONDITIONAL)
            parts.append(self._batches(some, here, values, half, Source.NOISE))
        return _joined(parts)

    @torch.no_grad()
    def read_guided(
        self, call: Call, places: Places, guidance_scale: float, both_halves: bool
    ) -> tuple[dict[str, TokenBatch], Tensor]:
        """Tokens of a guided forward, which runs to its end, and its prediction."""
        parts, predictions = [], []
        for chunk in self._chunks(len(call)):
            some = call.select(chunk)
            repeats = 2 if both_halves else 1
            here = {layout: places_NM[chunk].repeat(repeats, 1) for layout, places_NM in places.items()}

            def select(site: Site, x: Tensor, here: Places = here) -> Tensor:
                kept = here[self._layout[str(site)]]
                return _keep(x[-len(kept) :], kept)  # rows are [unconditional; conditional], or conditional alone

            with self.denoiser.record(self.sites, select=select) as values:
                predictions.append(
                    guided_prediction(self.denoiser, some.x_t, some.raw_t, some.conditioning, guidance_scale)
                )
            half = torch.full((len(some),), Half.CONDITIONAL, device=some.x_t.device)
            if both_halves:
                half = torch.cat([torch.full_like(half, Half.UNCONDITIONAL), half])
                some = some.select(torch.arange(len(some), device=half.device).repeat(2))
            parts.append(self._batches(some, here, values, half, Source.DENOISE))
        return _joined(parts), torch.cat(predictions)

    def _chunks(self, num_samples: int) -> list[slice]:
        size = self._forward_batch_size or num_samples
        return [slice(start, min(start + size, num_samples)) for start in range(0, num_samples, size)]

    def _batches(
        self, call: Call, places: Places, values: dict[str, Tensor], half_N: Tensor, source: Source
    ) -> dict[str, TokenBatch]:
        shared = {layout: self._shared(call, layout, kept, half_N, source) for layout, kept in places.items()}
        return {site: replace(shared[layout], x=values[site].flatten(0, 1)) for site, layout in self._layout.items()}

    def _shared(self, call: Call, layout: Layout, places_NM: Tensor, half_N: Tensor, source: Source) -> TokenBatch:
        """What the sites of one layout have in common: everything but x."""
        num_kept, device = places_NM.shape[1], places_NM.device
        context = token_context(self.denoiser, layout, call.x_t, call.raw_t, call.conditioning, call.noise)
        first_N = torch.arange(len(places_NM), device=device) * layout.num_tokens
        return TokenBatch(
            x=torch.empty(places_NM.numel(), 0, device=device),
            context=context.select((first_N[:, None] + places_NM).flatten()),
            raw_t=call.raw_t.repeat_interleave(num_kept),
            sample=call.sample.repeat_interleave(num_kept),
            half=half_N.to(torch.int8).repeat_interleave(num_kept),
            source=torch.full((places_NM.numel(),), source, dtype=torch.int8, device=device),
        )


def _keep(value_NTd: Tensor, places_NM: Tensor) -> Tensor:
    rows = torch.arange(len(places_NM), device=places_NM.device)[:, None]
    return value_NTd.detach()[rows, places_NM]


def _joined(parts: Sequence[dict[str, TokenBatch]]) -> dict[str, TokenBatch]:
    if len(parts) == 1:
        return parts[0]
    return {site: TokenBatch.concatenate([part[site] for part in parts]) for site in parts[0]}
