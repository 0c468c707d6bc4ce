"""What docs/reference/models.md says of other transformers in diffusers."""

from __future__ import annotations

import re
from pathlib import Path

import diffusers
import pytest
import torch

from tests.diffusion.pipelines import FAMILIES
from tests.diffusion.transformers_table import describe, sites_of, transformer_names
from tide_lightning.diffusion import GenericTransformer, load_denoiser
from tide_lightning.errors import UserError

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "models.md"
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


class FluxBySignature(GenericTransformer):
    """What FLUX's signature does not tell."""

    @property
    def timestep_divisor(self) -> float:
        return 1000.0


@torch.no_grad()
def test_a_signature_tells_what_the_family_knows(tmp_path: Path) -> None:
    family = FAMILIES["flux-schnell"]
    folder = str(family.save(tmp_path))
    known = load_denoiser(folder, latent_size=(8, 8))
    guessed = load_denoiser(folder, latent_size=(4, 4), family=f"{__name__}.FluxBySignature")
    assert isinstance(guessed, GenericTransformer)
    assert guessed.form == "packed image"
    x_t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    raw_t = torch.tensor([0.2, 0.8])
    expected = known.predict(x_t, raw_t, known.encode_prompts(family.prompts))
    packed = torch.nn.functional.pixel_unshuffle(x_t, 2)
    found = guessed.predict(packed, raw_t, guessed.encode_prompts(family.prompts))
    torch.testing.assert_close(torch.nn.functional.pixel_shuffle(found, 2), expected)
    sites = list(family.sites)
    shapes = guessed.site_shapes(guessed.resolve_sites(sites))
    assert shapes == known.site_shapes(known.resolve_sites(sites))
