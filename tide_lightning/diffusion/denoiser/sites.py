"""Sites: where a denoiser's tokens are read and replaced."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import MappingProxyType

import torch
from torch import Tensor

from tide_lightning.diffusion import grid, hooks
from tide_lightning.diffusion.conditioning import Conditioning
from tide_lightning.diffusion.denoiser.calling import CallsModule
from tide_lightning.diffusion.denoiser.prompts import EncodesPrompts
from tide_lightning.diffusion.folding import Folding, half_of, keeps_places_apart, keeps_samples_apart
from tide_lightning.diffusion.holding import Holding
from tide_lightning.diffusion.layouts import Found, Layout, find_sites
from tide_lightning.diffusion.sites import Site, matches, resolve_sites
from tide_lightning.errors import UserError
from tide_lightning.tokens import SiteShape

_log = logging.getLogger(__name__)


class HasSites(CallsModule, EncodesPrompts):
    """A denoiser's sites, found by one forward of a blank sample."""

    streams: tuple[str, ...] = ("image",)
    """The token streams that its blocks carry."""

    blocks: str = "transformer_blocks"
    """The list of its blocks, or the last of several."""

    text_first: bool = True
    """The order of streams that stand one after another in one tensor."""

    folded: Mapping[str, Folding] = MappingProxyType({})
    """How blocks that fold frames or windows into the batch do it, by site; of several that match, the last."""

    _found: dict[Site, Found]

    def resolve_sites(self, patterns: Sequence[str]) -> list[Site]:
        """The sites that the patterns name."""
        return resolve_sites(self.module, patterns, self.streams)

    def layout(self, site: Site) -> Layout:
        """Where a site's tokens lie."""
        return self._find([site])[site].layout

    def site_widths(self, sites: Sequence[Site]) -> dict[str, int]:
        """The width d of each site, found by one forward; where it does not carry its stream's tokens, an error."""
        return {str(site): found.width for site, found in self._find(sites).items()}

    def site_shapes(self, sites: Sequence[Site]) -> dict[str, SiteShape]:
        """Each site's sizes."""
        shapes = {}
        for site, (_, layout, width) in self._find(sites).items():
            is_text = layout.stream == "text"
            d_input = self.prompt_shape[1] if is_text else math.prod(self.latent_shape) // layout.num_tokens
            shapes[str(site)] = SiteShape(width, layout.grid, d_input)
        return shapes

    def inputs(self, layout: Layout, x_t: Tensor, conditioning: Conditioning) -> Tensor:
        """What the denoiser is given at each place [N, T, p]: latent patches, or embeddings of the prompt."""
        if layout.stream == "text":
            return conditioning.tokens.float()
        return grid.patches(x_t, layout.grid)

    def record(
        self,
        sites: Sequence[Site],
        *,
        stop_early: bool = False,
        select: Callable[[Site, Tensor], Tensor] | None = None,
    ) -> AbstractContextManager[dict[str, Tensor]]:
        """Fill a dictionary {site: [N, T, d]} during the prediction made inside; see `hooks.record`."""
        holdings = {site: found.holding for site, found in self._find(sites).items()}
        return hooks.record(self.module, sites, stop_early=stop_early, select=select, holdings=holdings)

    def splice(self, replacements: Mapping[Site, Callable[[Tensor], Tensor]]) -> AbstractContextManager[None]:
        """Replace each site's tokens [N, T, d] by `fn(tokens)` in the predictions made inside."""
        holdings = {site: found.holding for site, found in self._find(list(replacements)).items()}
        return hooks.splice(self.module, replacements, holdings)

    def entry_modulation(self, block: int | None, raw_t: Tensor) -> tuple[Tensor, Tensor] | None:
        """Shift and scale [G, d] that a block applies to its tokens' LayerNorm at timesteps [G]; None where unknown.

        Args:
            block: number of the block; None for the output layer.
            raw_t: timesteps as the transformer is given them.
        """
        return None

    @torch.no_grad()
    def adaln(self, site: Site | str, num_times: int = 64) -> tuple[Tensor, Tensor, Tensor] | None:
        """What the denoiser's own adaptive norm applies where the tokens of `site` are read next.

        Returns:
            Times t [G], scale [G, d] and shift [G, d], acting as LayerNorm(x) * (1 + scale) + shift; None where it does
            not fit the site.
        """
        site = Site.parse(site) if isinstance(site, str) else site
        block = re.fullmatch(rf"{self.blocks}\.(\d+)", site.path)
        if site.part != "output" or site.stream != "image" or not (block or site.path == "pos_embed"):
            return None
        following = int(block[1]) + 1 if block else 0
        is_block = following < len(list(self.module.get_submodule(self.blocks).children()))
        t = torch.linspace(0, 1, num_times, device=self.device)
        applied = self.entry_modulation(following if is_block else None, self.schedule.raw_t(t))
        if applied is None:
            return None
        shift, scale = applied
        return t.cpu(), scale.float().cpu(), shift.float().cpu()

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Conditioning of the prompts, one row each, on the denoiser's device; "" is the unconditional one."""
        conditioning = super().encode_prompts(prompts)
        length = conditioning.tokens.shape[1]
        for site, (_, layout, _) in self._found.items():
            if layout.stream == "text" and layout.grid != (length,):
                raise UserError(
                    f"site {site} is to have {layout.grid[0]} text tokens, but this pipeline's prompts have {length}:"
                    " is a text encoder missing?"
                )
        return conditioning

    def _find(self, sites: Sequence[Site]) -> dict[Site, Found]:
        """Where each site's tokens are; those asked for first are looked for in one forward of a blank sample."""
        new = [site for site in sites if site not in self._found]
        if new:
            foldings = {
                site: folding
                for pattern, folding in self.folded.items()
                for site in new
                if site.stream == "image" and matches(pattern, site)
            }
            found = find_sites(
                self.module, new, self.grid, self.prompt_shape[0], self.text_first, self._run_blank, foldings
            )
            for layout in {found[site].layout for site in foldings}:
                self._check_folded(
                    layout, {site: found[site].holding for site in foldings if found[site].layout == layout}
                )
            self._found |= found
        return {site: self._found[site] for site in sites}

    @torch.no_grad()
    def _run_blank(self, num_text: int) -> None:
        """One forward of a sample without meaning, whose prompt has so many tokens."""
        tokens = self.zeros(1, num_text, self.prompt_shape[1])
        raw_t = torch.zeros(1, device=self.device)
        try:
            self.forward(self.zeros(1, *self.latent_shape), raw_t, self.blank_conditioning(tokens))
        except (
            ArithmeticError,
            AssertionError,
            AttributeError,
            LookupError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            raise UserError(self._why_not_called(error, num_text)) from error

    def _why_not_called(self, error: Exception, num_text: int) -> str:
        """What can be done about a forward of a blank sample that fails."""
        said = " ".join(str(error).split())[:200] or type(error).__name__
        what = f"{type(self.module).__name__} fails for a blank sample of {list(self.latent_shape)}"
        if self.device.type == "meta" and re.search(r"\bmeta\b|\.item\(\)|data-dependent", said, re.IGNORECASE):
            return (
                f"{what} before its weights are loaded, for its forward looks at values: {said}; an adapter may leave "
                "that out where the input is on the device `meta`, as only shapes count there"
            )
        return f"{what} with {num_text} tokens of a prompt: {said}; see what `arguments` of its family hands over"

    @torch.no_grad()
    def _check_folded(self, layout: Layout, holdings: Mapping[Site, Holding]) -> None:
        """Change half of the second sample's places, and see which tokens follow; shapes alone show nothing."""
        if self.device.type == "meta":
            return
        changed = half_of(layout.num_tokens)
        noise = torch.randn(3, *self.latent_shape, generator=torch.Generator().manual_seed(0)).to(self.zeros(1))
        first, second, other = grid.patches(noise, layout.grid)
        mixed = torch.where(changed.to(other.device).unsqueeze(1), other, second)
        raw_t = self.schedule.raw_t(torch.full((2,), 0.5, device=self.device))
        tokens = []
        for later in (second, mixed):
            x_t = grid.unpatch(torch.stack([first, later]), layout.grid, self.latent_shape)
            blank = self.blank_conditioning(self.zeros(2, *self.prompt_shape))
            with hooks.record(self.module, list(holdings), stop_early=True, holdings=holdings) as values:
                self.forward(x_t, raw_t, blank)
            tokens.append(values)
        for site, holding in holdings.items():
            assert holding.folding is not None
            moved = (tokens[1][str(site)] - tokens[0][str(site)]).float().norm(dim=2).cpu()
            if not keeps_samples_apart(moved):
                raise UserError(
                    f"site {site}: `folded` says {holding.folding.pattern!r}, but tokens that it takes for one sample's"
                    " follow the input of another: is b at its place?"
                )
            if not keeps_places_apart(moved[1], changed):
                _log.warning(
                    "site %s: `folded` says %r, and tokens do not follow most what is at their own places;"
                    " attention alone may look so, and so does a wrong order",
                    site,
                    holding.folding.pattern,
                )
