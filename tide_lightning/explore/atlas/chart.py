"""One site as the atlas shows it: everything that was measured of its live latents, in their order.

Shapes: L live latents, T bins of t, V factor values or words shown for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from tide_lightning.explore.atlas.meaning import Meaning, Traits, rank_traits
from tide_lightning.explore.atlas.neighbours import FiringSample, Nearest, by_direction, by_firing
from tide_lightning.explore.atlas.statistics import SiteStatistics
from tide_lightning.saes.bins import centres

NUM_TRAITS = 8
NUM_NEAREST = 6


@dataclass(frozen=True)
class Chart:
    """What is known of a site's live latents.

    Args:
        site: key of its SAE.
        num_latents: of the dictionary, dead ones too.
        latents: their numbers [L].
        frequency: share of tokens at which each fires [L].
        profile: the same for each bin of t [L, T]; NaN where a bin holds no token.
        strength: mean value where it fires, for each bin [L, T].
        peaks: highest value in each sample [L, samples].
        top_samples: where it peaks highest, the highest first [L, num]; -1 where there is none.
        top_peaks: how high [L, num].
        maps: its values there [L, num, T * places].
        map_shape: rows and columns of a heat-map; (1, 1) where there is none.
        meaning: what it stands for.
        nearest: by direction.
        together: by firing at the same tokens, for each site that shares them.
    """

    site: str
    num_latents: int
    latents: Tensor
    frequency: Tensor
    profile: Tensor
    strength: Tensor
    peaks: Tensor
    top_samples: Tensor
    top_peaks: Tensor
    maps: Tensor
    map_shape: tuple[int, int]
    meaning: Meaning
    nearest: Nearest
    together: Mapping[str, Nearest]

    @property
    def time(self) -> Tensor:
        """The mean t at which each latent fires, had every bin as many tokens [L]."""
        profile = self.profile.nan_to_num()
        return (profile * centres(profile.shape[1]).to(profile)).sum(1) / profile.sum(1).clamp(min=1e-20)


def draw_chart(
    site: str,
    statistics: SiteStatistics,
    traits: Traits,
    directions: Tensor,
    firing: FiringSample,
    others: Mapping[str, FiringSample],
) -> Chart:
    """Put a site's chart together.

    `firing` tells which tokens its latents fire at, `others` the same of each site whose tokens are the same, this one
    among them; `directions` are decoder rows of the whole dictionary.
    """
    live = statistics.live
    tokens = statistics.tokens.double()
    fired = statistics.fired[live].double()
    peaks = statistics.peaks[live]
    return Chart(
        site=site,
        num_latents=statistics.num_latents,
        latents=live.cpu(),
        frequency=(fired.sum(1) / tokens.sum()).cpu(),
        profile=(fired / tokens).cpu(),
        strength=(statistics.sums[live] / fired.clamp(min=1)).cpu(),
        peaks=peaks.cpu(),
        top_samples=statistics.top_samples[live].cpu(),
        top_peaks=statistics.top_peaks[live].cpu(),
        maps=statistics.maps[live].cpu(),
        map_shape=statistics.map_shape,
        meaning=Meaning(*(part.cpu() for part in rank_traits(peaks, traits, NUM_TRAITS))),
        nearest=_on_cpu(by_direction(directions, live, NUM_NEAREST)),
        together={name: _on_cpu(by_firing(firing, live, other, NUM_NEAREST)) for name, other in others.items()},
    )


def _on_cpu(nearest: Nearest) -> Nearest:
    return Nearest(nearest.latents.cpu(), nearest.values.cpu())
