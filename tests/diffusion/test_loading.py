from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.diffusion.pipelines import FAMILIES
from tide_lightning.datamodules import ActivationDataModule, LoadingOptions, TrajectoryOptions
from tide_lightning.diffusion import Denoiser, describe_denoiser, load_denoiser
from tide_lightning.errors import UserError


def test_is_frozen_and_leaves_the_global_seed_alone(pretrained: Path) -> None:
    before = torch.random.get_rng_state()
    denoiser = load_denoiser(str(pretrained))
    assert torch.equal(before, torch.random.get_rng_state())
    assert not denoiser.module.training
    assert not any(parameter.requires_grad for parameter in denoiser.module.parameters())


def test_shapes_are_known_without_weights(pretrained: Path, denoiser: Denoiser) -> None:
    described = describe_denoiser(str(pretrained))
    assert described.device.type == "meta"
    assert (described.latent_shape, described.grid) == ((4, 8, 8), (4, 4))
    sites = described.resolve_sites(["transformer_blocks.*", "transformer_blocks.1:mlp"])
    assert described.site_widths(sites) == denoiser.site_widths(sites)


def test_precision_is_chosen(pretrained: Path) -> None:
    denoiser = load_denoiser(str(pretrained), dtype="bfloat16")
    assert denoiser.dtype == torch.bfloat16
    assert denoiser.pipeline.vae.dtype == torch.float32
    conditioning = denoiser.encode_prompts(["a red ball"])
    prediction = denoiser.predict(torch.zeros(1, *denoiser.latent_shape), torch.zeros(1), conditioning)
    assert prediction.dtype == torch.float32


def test_a_folder_in_an_installed_package(pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "some_package" / "inner"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    shutil.copytree(pretrained, package / "weights")
    monkeypatch.syspath_prepend(tmp_path)
    assert describe_denoiser("package:some_package.inner/weights").grid == (4, 4)
    with pytest.raises(UserError, match=r"package some_package.inner holds no 'other'"):
        describe_denoiser("package:some_package.inner/other")
    with pytest.raises(UserError, match="no installed package 'no_such_package'"):
        describe_denoiser("package:no_such_package/weights")
    for name in [name for name in sys.modules if name.startswith("some_package")]:
        del sys.modules[name]


def test_no_such_folder() -> None:
    with pytest.raises(UserError, match="no such folder, and not a hub id"):
        load_denoiser("./nowhere/at/all")


def test_a_hub_that_cannot_be_reached() -> None:
    with pytest.raises(UserError, match="cannot load 'nobody/nothing'") as caught:
        load_denoiser("nobody/nothing", local_files_only=True)
    assert "\n" not in str(caught.value)


def damaged(pretrained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pretrained, tmp_path / "damaged"))


def test_an_unknown_family_names_the_known(pretrained: Path, tmp_path: Path) -> None:
    folder = damaged(pretrained, tmp_path)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "SpectralPipeline"}))
    with pytest.raises(UserError, match=r"is a SpectralPipeline; supported are .*PixArtAlphaPipeline"):
        load_denoiser(str(folder))


def test_a_missing_part(pretrained: Path, tmp_path: Path) -> None:
    folder = damaged(pretrained, tmp_path)
    shutil.rmtree(folder / "vae")
    with pytest.raises(UserError, match=r"damaged/vae is missing: model_index.json names a AutoencoderKL"):
        load_denoiser(str(folder))


def test_missing_weights(pretrained: Path, tmp_path: Path) -> None:
    folder = damaged(pretrained, tmp_path)
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(UserError, match="transformer holds no weights"):
        load_denoiser(str(folder))


@pytest.mark.parametrize("part", ["transformer", "text_encoder"])
def test_truncated_weights_are_named(pretrained: Path, tmp_path: Path, part: str) -> None:
    folder = damaged(pretrained, tmp_path)
    (path,) = (folder / part).glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=rf"{path.name} is damaged or incomplete"):
        load_denoiser(str(folder))


def test_not_a_pipeline(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model_index.json is missing"):
        describe_denoiser(str(tmp_path))
    for content in ("{", "3"):
        (tmp_path / "model_index.json").write_text(content)
        with pytest.raises(UserError, match=r"model_index.json is not valid JSON"):
            describe_denoiser(str(tmp_path))


def num_encoders(denoiser: Denoiser) -> int:
    parts: dict[str, Any] = denoiser.pipeline.components
    return sum(part is not None for name, part in parts.items() if name.startswith("text_encoder"))


@pytest.mark.parametrize("name", ["pixart-alpha", "sd3", "flux-dev", "sana", "wan", "sdxl"])
def test_cached_prompts_need_no_text_encoders(name: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    folder, cache = family.save(tmp_path / "pipeline"), str(tmp_path / "prompts")
    prompts = [*family.prompts, ""]
    plain = load_denoiser(str(folder), latent_size=family.latent_size).encode_prompts(prompts)
    first = load_denoiser(str(folder), latent_size=family.latent_size, prompt_cache=cache)
    assert num_encoders(first) == 0
    found = first.encode_prompts(prompts)
    assert num_encoders(first) == len(list(folder.glob("text_encoder*")))
    for part in folder.glob("text_encoder*"):
        shutil.rmtree(part)
    second = load_denoiser(str(folder), latent_size=family.latent_size, prompt_cache=cache)
    again = second.encode_prompts(prompts)
    assert num_encoders(second) == 0
    for conditioning in (found, again):
        assert torch.equal(conditioning.tokens, plain.tokens)
        assert (conditioning.mask is None) == (plain.mask is None)
        if conditioning.mask is not None and plain.mask is not None:
            assert torch.equal(conditioning.mask, plain.mask)
        assert conditioning.extra.keys() == plain.extra.keys()
        assert all(torch.equal(conditioning.extra[key], plain.extra[key]) for key in plain.extra)
    with pytest.raises(UserError, match=r"text_encoder is missing: model_index.json names a"):
        second.encode_prompts(["a green cone"])


def test_a_damaged_prompt_embedding_is_named(pretrained: Path, tmp_path: Path) -> None:
    load_denoiser(str(pretrained), prompt_cache=str(tmp_path)).encode_prompts(["a red ball"])
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match=rf"prompt embedding .*{path.name} is damaged .*delete it"):
        load_denoiser(str(pretrained), prompt_cache=str(tmp_path)).encode_prompts(["a red ball"])


def test_pipelines_share_a_folder_of_prompts(pretrained: Path, tmp_path: Path) -> None:
    cache = str(tmp_path / "prompts")
    whole = load_denoiser(str(pretrained), prompt_cache=cache).encode_prompts(["a red ball"]).tokens
    half = load_denoiser(str(pretrained), prompt_cache=cache, dtype="bfloat16").encode_prompts(["a red ball"]).tokens
    assert (whole.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UserError, match="cannot be written"):
        load_denoiser(str(pretrained), prompt_cache=str(file)).encode_prompts(["a red ball"])


@pytest.mark.parametrize("size", [(7, 8), (8,), (2, 8, 8), (0, 8)])
def test_a_latent_size_that_does_not_fit(pretrained: Path, size: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"latent_size .*: this denoiser needs 2 numbers, multiples of \[2, 2\]"):
        describe_denoiser(str(pretrained), latent_size=size)
    assert describe_denoiser(str(pretrained), latent_size=(8, 16)).grid == (4, 8)


def test_there_may_be_no_unconditional_half(tmp_path: Path) -> None:
    folder = FAMILIES["flux-dev"].save(tmp_path)
    data = ActivationDataModule(
        str(folder),
        ["transformer_blocks.0"],
        prompts=["a red ball", "a blue cube"],
        source="denoise",
        trajectories=TrajectoryOptions(halves="both"),
        loading=LoadingOptions(latent_size=[8, 8]),
    )
    with pytest.raises(UserError, match="halves both: this denoiser is not guided by an unconditional half"):
        _ = data.site_shapes
