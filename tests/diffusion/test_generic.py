"""What docs/reference/transformers.csv says of other transformers in diffusers."""

from __future__ import annotations

import csv
from pathlib import Path

import diffusers
import pytest
import torch

from tests.diffusion.miniature import t5, tokenizer
from tests.diffusion.pipelines import FAMILIES
from tests.diffusion.transformers_table import describe, sites_of, streams_of, transformer_names
from tide_lightning.diffusion import GenericTransformer, load_denoiser
from tide_lightning.errors import UserError

TABLE = Path(__file__).parents[2] / "docs" / "reference" / "transformers.csv"
LISTED = {
    row["transformer"]: (row["latents"], (row["streams"].split(), row["sites"].split()))
    for row in csv.DictReader(TABLE.read_text().splitlines())
}


def test_the_table_lists_many() -> None:
    assert len(LISTED) >= 20


@pytest.mark.filterwarnings("ignore:.* is deprecated:FutureWarning")  # of diffusers' modules by each other
@pytest.mark.parametrize("name", LISTED)
def test_a_listed_transformer_is_called_and_read(name: str) -> None:
    if name not in transformer_names():
        pytest.skip("not in this version of diffusers")
    denoiser = describe(name)
    form, streams_and_sites = LISTED[name]
    assert denoiser.form == form
    assert streams_of(sites_of(denoiser)) == streams_and_sites


def test_what_takes_latents_in_no_known_way() -> None:
    with torch.device("meta"):
        module = diffusers.PriorTransformer(num_layers=1)
    with pytest.raises(UserError, match="PriorTransformer takes latents in no way known here"):
        GenericTransformer(module.to("meta"), diffusers.DDPMScheduler())


def test_what_no_signature_fills_is_named() -> None:
    """HunyuanDiT asks for two text encoders' tokens and more besides."""
    with torch.device("meta"):
        module = diffusers.HunyuanDiT2DModel(
            num_layers=1, hidden_size=64, num_attention_heads=4, in_channels=4, patch_size=2, sample_size=16
        )
    said = r"HunyuanDiT2DModel takes latents in no way known here .*nothing is known for .*encoder_hidden_states_t5, "
    with pytest.raises(UserError, match=said) as caught:
        GenericTransformer(module.to("meta"), diffusers.DDPMScheduler())
    assert "\n" not in str(caught.value)


@torch.no_grad()
def test_prompts_are_as_long_as_the_positions_say(tmp_path: Path) -> None:
    """CogVideoX adds positions to prompt and video alike: of a length that its config fixes, here an odd one."""
    transformer = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=16,
        num_layers=2,
        sample_width=8,
        sample_height=8,
        sample_frames=5,
        max_text_seq_length=17,
    )
    vae = diffusers.AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
    )
    scheduler = diffusers.CogVideoXDDIMScheduler(prediction_type="v_prediction")
    diffusers.CogVideoXPipeline(tokenizer(256), t5(), vae, transformer, scheduler).save_pretrained(tmp_path)
    denoiser = load_denoiser(str(tmp_path), family="tide_lightning.diffusion.GenericTransformer")
    conditioning = denoiser.encode_prompts(["a red ball", "", "a blue cube on a yellow floor"])
    assert conditioning.tokens.shape == (3, 17, 16)
    x_t = torch.randn(3, *denoiser.latent_shape, generator=torch.Generator().manual_seed(0))
    raw_t = torch.tensor([100.0, 500.0, 900.0])
    (theirs,) = transformer(x_t.transpose(1, 2), conditioning.tokens, raw_t, return_dict=False)
    torch.testing.assert_close(denoiser.predict(x_t, raw_t, conditioning), theirs.transpose(1, 2))


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
