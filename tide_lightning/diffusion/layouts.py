"""Where a site's tokens lie: on which grid of places, and in which part of what its module returns.

Blocks return their tokens in many ways: one tensor, a tuple of streams in either order, streams joined in one tensor,
channels before places. None of it is declared. A forward of one sample with a prompt of telling length shows it. Only
the order of places that a block folds into the batch no forward shows: see `folding`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from tide_lightning.diffusion.folding import Folding
from tide_lightning.diffusion.grid import Grid
from tide_lightning.diffusion.holding import Holding
from tide_lightning.diffusion.hooks import record_outputs
from tide_lightning.diffusion.sites import Site
from tide_lightning.errors import UserError


@dataclass(frozen=True)
class Layout:
    """The places of a site's tokens.

    Args:
        stream: `image` or `text`.
        grid: places along each axis: (rows, columns), with frames before them in a video; (length,) of a prompt.
    """

    stream: str
    grid: Grid

    @property
    def num_tokens(self) -> int:
        """Places in all."""
        return math.prod(self.grid)


class Found(NamedTuple):
    """What is known of a site: how its module's output holds its tokens, their places, their width."""

    holding: Holding
    layout: Layout
    width: int


def find_sites(
    module: nn.Module,
    sites: Sequence[Site],
    grid: Grid,
    num_text: int,
    text_first: bool,
    run_blank: Callable[[int], None],
    foldings: Mapping[Site, Folding],
) -> dict[Site, Found]:
    """Look for sites' tokens in one forward; where a site does not carry its stream's tokens, an error.

    Args:
        module: the denoiser's module.
        sites: what is looked for.
        grid: of the image's patches.
        num_text: most tokens of a prompt.
        text_first: the order of streams that stand one after another in one tensor.
        run_blank: runs a forward of one sample with a prompt of so many tokens.
        foldings: of sites that fold places into the batch.
    """
    grids = _image_grids(grid)
    telling = num_text
    while any(telling == math.prod(image) for image in grids):
        telling += 1  # so that a number of tokens tells the stream
    with record_outputs(module, sites) as outputs:
        run_blank(telling)
    found = {}
    for site in sites:
        output = outputs[str(site)]
        folding = foldings.get(site)
        if folding is not None:
            held = find_folded(output, folding, grids)
        else:
            held = find_holding(output, site.stream, grids, telling, text_first)
        if held is None:
            expected = "tokens of the prompt" if site.stream == "text" else f"{math.prod(grid)} image tokens"
            raise UserError(
                f"site {site} {_described(output)}, not the {expected} of one sample{_hint(output, folding)}"
            )
        holding, places = held
        width = holding.tokens(holding.tensor(output)).shape[-1]
        found[site] = Found(holding, Layout(site.stream, (num_text,) if site.stream == "text" else places), width)
    return found


def _image_grids(whole: Grid) -> list[Grid]:
    """The grid of patches, and those that a U-Net's halvings of rows and columns leave."""
    grids = [whole]
    while all(size % 2 == 0 for size in grids[-1][-2:]):
        *frames, rows, cols = grids[-1]
        grids.append((*frames, rows // 2, cols // 2))
    return grids


def _described(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"gives {list(output.shape)}"
    if isinstance(output, tuple | list):
        shapes = [str(list(item.shape)) if isinstance(item, Tensor) else type(item).__name__ for item in output]
        return f"returns a {type(output).__name__} of {', '.join(shapes)}"
    return f"returns a {type(output).__name__}"


def _hint(output: Any, folding: Folding | None) -> str:
    """What to do about an output whose first axis is not the one sample."""
    if folding is not None:
        sizes = f" with {dict(folding.sizes)}" if folding.sizes else ""
        return f"; `folded` says {folding.pattern!r}{sizes}, which does not make them of it"
    tensors = [item for item in (output if isinstance(output, tuple | list) else [output]) if isinstance(item, Tensor)]
    if any(tensor.ndim >= 3 and tensor.shape[0] != 1 for tensor in tensors):
        return (
            ": it folds places into the batch, in an order that no shape tells; an adapter says which"
            " (`folded`, see docs/tutorials/your-dit.md)"
        )
    return ""


def find_folded(output: Any, folding: Folding, image_grids: Sequence[Grid]) -> tuple[Holding, Grid] | None:
    """Where in an output a folded stream's tokens are, and on which grid; None where they are not."""
    for item, value in _items(output):
        if isinstance(value, Tensor) and folding.fits(value):
            num_samples, num_tokens, _ = folding.unfold(value).shape
            for grid in image_grids:
                if (num_samples, num_tokens) == (1, math.prod(grid)):
                    return Holding(item, folding=folding), grid
    return None


def _items(output: Any) -> list[tuple[int | None, Any]]:
    return list(enumerate(output)) if isinstance(output, tuple | list) else [(None, output)]


def find_holding(
    output: Any, stream: str, image_grids: Sequence[Grid], num_text: int, text_first: bool
) -> tuple[Holding, Grid] | None:
    """Where in an output a stream's tokens are, and on which grid; None where they are not.

    Args:
        output: what a module returned for one sample.
        stream: the stream looked for.
        image_grids: grids that the image's tokens may lie on.
        num_text: tokens of the prompt, a number that no grid has.
        text_first: the order of streams that stand one after another in one tensor.
    """
    # What has more rows than the one sample folds something else into them.
    items = [(item, value) for item, value in _items(output) if isinstance(value, Tensor) and value.shape[:1] == (1,)]
    for item, value in items:
        if stream == "text":
            if value.ndim == 3 and value.shape[1] == num_text:
                return Holding(item), (num_text,)
        else:
            for grid in image_grids:
                if value.ndim == 3 and value.shape[1] == math.prod(grid):
                    return Holding(item), grid
                if value.ndim == 2 + len(grid) and tuple(value.shape[2:]) == grid:
                    return Holding(item, channels_first=True), grid
    for item, value in items:
        for grid in image_grids:
            num_image = math.prod(grid)
            # Some models put registers to the text, which make it longer: then only the image can be told.
            enough = num_image + num_text
            if value.ndim == 3 and value.shape[1] >= enough:
                if stream == "text" and value.shape[1] > enough:
                    continue
                is_first = (stream == "text") == text_first
                # Counted from the image's side, for prompts may have another length.
                edge = -num_image if text_first else num_image
                holding = Holding(item, last=edge) if is_first else Holding(item, first=edge)
                return holding, grid if stream == "image" else (num_text,)
    return None
