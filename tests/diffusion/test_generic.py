"""What docs/models.md says of other transformers in diffusers."""

from __future__ import annotations

import re
from pathlib import Path

import diffusers
import pytest
import torch

from tests.diffusion.transformers_table import describe, sites_of, transformer_names
from tide_lightning.diffusion import GenericTransformer
from tide_lightning.errors import UserError

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
LISTED = {
    name: (form, re.findall(r"`([^`]+)`", sites))
    for name, form, sites in re.findall(r"^\| `(\w+)` \| ([\w ]+) \| (.+) \|$", PAGE.read_text(), re.MULTILINE)
}


def test_the_page_lists_many() -> None:
    assert len(LISTED) >= 20


@pytest.mark.filterwarnings("ignore:.* is deprecated:FutureWarning")  # of diffusers' modules by each other
@pytest.mark.parametrize("name", LISTED)
def test_a_listed_transformer_is_called_and_read(name: str) -> None:
    if name not in transformer_names():
        pytest.skip("not in this version of diffusers")
    denoiser = describe(name)
    form, sites = LISTED[name]
    assert denoiser.form == form
    assert set(sites) <= set(sites_of(denoiser))


def test_what_takes_latents_in_no_known_way() -> None:
    with torch.device("meta"):
        module = diffusers.PriorTransformer(num_layers=1)
    with pytest.raises(UserError, match="PriorTransformer takes latents in no way known here"):
        GenericTransformer(module.to("meta"), diffusers.DDPMScheduler())
