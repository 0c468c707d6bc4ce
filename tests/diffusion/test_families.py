"""Every supported family: our trajectories are the pipeline's own, sites are read as a plain hook reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.diffusion.pipelines import Family, pipeline_latents
from tide_lightning.diffusion import Conditioning, Denoiser, describe_denoiser, load_denoiser, sample
from tide_lightning.diffusion.trajectories import guided_prediction

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def denoiser(family: Family, folder: Path) -> Denoiser:
    return load_denoiser(str(folder), latent_size=family.latent_size)


def noise_of(denoiser: Denoiser, count: int = 2) -> Tensor:
    return torch.randn(count, *denoiser.latent_shape, generator=torch.Generator().manual_seed(0))


def call_of(denoiser: Denoiser, family: Family) -> tuple[Tensor, Tensor, Conditioning]:
    raw_t = denoiser.schedule.raw_t(torch.tensor([0.3, 0.9, 0.5]))
    return noise_of(denoiser, 3), raw_t, denoiser.encode_prompts([*family.prompts, ""])


def test_ends_in_the_pipelines_own_latents_and_image(family: Family, denoiser: Denoiser, name: str) -> None:
    noise, pipeline, steps = noise_of(denoiser), denoiser.pipeline, 4
    ours = sample(
        denoiser,
        family.prompts,
        num_inference_steps=steps,
        guidance_scale=family.guidance_scale,
        initial_noise=noise,
    )
    images = denoiser.decode_latents(ours) / 2 + 0.5
    if name == "dit":  # its pipeline takes a generator, and gives images only
        draw = torch.Generator().manual_seed(0)
        pipeline.set_progress_bar_config(disable=True)
        labels = [1, 2]
        call = {"num_inference_steps": steps, "guidance_scale": family.guidance_scale, "output_type": "pt"}
        expected = pipeline(class_labels=labels, generator=draw, **call).images
        torch.testing.assert_close(images, expected, atol=1e-5, rtol=1e-5)
        return
    torch.testing.assert_close(ours, pipeline_latents(family, pipeline, noise, steps, "latent"), atol=2e-5, rtol=1e-4)
    expected = pipeline_latents(family, pipeline, noise, steps, "pt")
    if expected.ndim == 5:  # frames side by side
        expected = torch.cat(list(expected.unbind(1)), dim=-1)
    torch.testing.assert_close(images, expected, atol=2e-5, rtol=1e-4)


def test_shapes_are_known_without_weights(family: Family, folder: Path, denoiser: Denoiser) -> None:
    described = describe_denoiser(str(folder), latent_size=family.latent_size)
    assert described.device.type == "meta"
    assert described.latent_shape == denoiser.latent_shape
    sites = described.resolve_sites(list(family.sites))
    shapes = described.site_shapes(sites)
    found = {site: (described.layout(site).num_tokens, shapes[str(site)].d_in) for site in sites}
    assert {str(site): shape for site, shape in found.items()} == family.sites
    assert denoiser.site_shapes(denoiser.resolve_sites(list(family.sites))) == shapes


def plain_outputs(denoiser: Denoiser, call: tuple[Tensor, Tensor, Conditioning]) -> dict[str, Any]:
    """What every module returned, by a hook that knows nothing."""
    outputs: dict[str, Any] = {}
    handles = [
        module.register_forward_hook(lambda _, __, output, name=name: outputs.update({name: output}))
        for name, module in denoiser.module.named_modules()
    ]
    denoiser.predict(*call)
    for handle in handles:
        handle.remove()
    return outputs


@torch.no_grad()
def test_recording_equals_a_plain_hook(family: Family, denoiser: Denoiser) -> None:
    call = call_of(denoiser, family)
    outputs = plain_outputs(denoiser, call)
    names = {id(module): name for name, module in denoiser.module.named_modules()}
    sites = [site for site in denoiser.resolve_sites(list(family.sites)) if site.part != "update"]
    with denoiser.record(sites, stop_early=True) as values:
        denoiser.predict(*call)
    for site in sites:
        held = outputs[names[id(site.module(denoiser.module))]]
        num_tokens, width = family.sites[str(site)]
        value = values[str(site)]
        assert value.shape == (3, num_tokens, width)
        candidates = held if isinstance(held, tuple) else (held,)
        alike = []
        for tensor in candidates:
            if tensor.ndim == 4:
                alike.append(tensor.flatten(2).mT)
            else:  # one stream, or text before image in one tensor
                alike.append(tensor[:, :num_tokens] if site.stream == "text" else tensor[:, -num_tokens:])
        assert sum(torch.equal(value, tensor) for tensor in alike if tensor.shape == value.shape) == 1


@torch.no_grad()
def test_an_update_is_output_minus_input(family: Family, denoiser: Denoiser) -> None:
    sites = [site for site in denoiser.resolve_sites(list(family.sites)) if site.part == "update"]
    call = call_of(denoiser, family)
    given: dict[str, Any] = {}
    handles = [
        site.module(denoiser.module).register_forward_hook(
            lambda _, args, kwargs, output, site=site: given.update({str(site): (args, kwargs)}), with_kwargs=True
        )
        for site in sites
    ]
    outputs = denoiser.resolve_sites([site.path + ":" + site.stream for site in sites])
    with denoiser.record([*sites, *outputs]) as values:
        denoiser.predict(*call)
    for handle in handles:
        handle.remove()
    assert sites
    for site in sites:
        args, kwargs = given[str(site)]
        text = site.stream == "text"
        before = kwargs["encoder_hidden_states" if text else "hidden_states"] if not args else args[0]
        before = before.flatten(2).mT if before.ndim == 4 else before
        (output,) = (out for out in outputs if (out.path, out.stream) == (site.path, site.stream))
        assert torch.equal(values[str(site)], values[str(output)] - before)


@torch.no_grad()
def test_an_identity_splice_changes_no_bit(family: Family, denoiser: Denoiser) -> None:
    call = call_of(denoiser, family)
    sites = denoiser.resolve_sites(list(family.sites))
    plain = denoiser.predict(*call)
    with denoiser.splice({site: lambda x: x for site in sites}):
        assert torch.equal(denoiser.predict(*call), plain)
    guided = guided_prediction(denoiser, *call, 3.0)
    with denoiser.splice(dict.fromkeys(sites, torch.clone)):
        assert torch.equal(guided_prediction(denoiser, *call, 3.0), guided)


@torch.no_grad()
def test_what_is_spliced_is_what_follows(family: Family, denoiser: Denoiser) -> None:
    """Each site, moved alone, moves the prediction, and reads as it was moved."""
    call = call_of(denoiser, family)
    plain = denoiser.predict(*call)
    for site in denoiser.resolve_sites(list(family.sites)):
        with denoiser.splice({site: lambda x: x + torch.linspace(-1, 1, x.shape[-1])}):
            moved = denoiser.predict(*call)
        assert float((moved - plain).abs().max()) > 1e-6, str(site)


def test_patches_are_what_the_first_layer_sees(family: Family, denoiser: Denoiser, name: str) -> None:
    """A patch embedding is linear in the patches: the same numbers, whatever their order, and T tokens of them."""
    x = noise_of(denoiser)
    patches = denoiser.patches(x)
    assert patches.shape[:2] == (2, denoiser.num_tokens)
    assert torch.equal(patches.flatten(1).sort(1).values, x.flatten(1).sort(1).values)
    if name == "sdxl" or name.startswith("flux"):
        return  # they have no convolution over patches
    kinds = nn.Conv2d | nn.Conv3d
    embedding = next(module for module in denoiser.module.modules() if isinstance(module, kinds))
    weight = embedding.weight.flatten(1)
    assert weight.shape[1] == patches.shape[2]
    expected = embedding(x).flatten(2).mT
    assert embedding.bias is not None
    torch.testing.assert_close(patches @ weight.T + embedding.bias, expected, atol=1e-5, rtol=1e-4)


def test_prompts_and_classes_matter(family: Family, denoiser: Denoiser) -> None:
    x_t, raw_t, conditioning = call_of(denoiser, family)
    same = x_t[:1].repeat(3, *[1] * (x_t.ndim - 1))
    predictions = denoiser.predict(same, raw_t[:1].repeat(3), conditioning)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert float((predictions[first] - predictions[second]).abs().max()) > 1e-6


@torch.no_grad()
def test_half_precision_is_near(family: Family, folder: Path, denoiser: Denoiser) -> None:
    half = load_denoiser(str(folder), dtype="bfloat16", latent_size=family.latent_size)
    assert half.dtype == torch.bfloat16
    x_t, raw_t, conditioning = call_of(denoiser, family)
    expected = denoiser.predict(x_t, raw_t, conditioning)
    found = half.predict(x_t, raw_t, half.encode_prompts([*family.prompts, ""]))
    assert found.dtype == torch.float32
    assert float((found - expected).norm() / expected.norm()) < 0.05
    sites = half.resolve_sites(list(family.sites))
    with half.splice({site: lambda x: x.float() for site in sites}):
        assert torch.equal(half.predict(x_t, raw_t, half.encode_prompts([*family.prompts, ""])), found)


@torch.no_grad()
def test_adaln_is_what_follows_a_site(family: Family, denoiser: Denoiser, name: str) -> None:
    """LayerNorm(site) * (1 + scale) + shift is what the next attention and the output projection are given."""
    last = {"dit": "proj_out_2", "pixart-alpha": "proj_out", "sana": "proj_out", "wan": "proj_out"}
    first = next(iter(family.sites))
    if name not in last:
        assert name == "pixart-sigma" or denoiser.adaln(first) is None
        return
    x_t, _, conditioning = call_of(denoiser, family)
    raw_t = denoiser.schedule.raw_t(torch.ones(1))
    given: dict[str, Tensor] = {}
    blocks = list(denoiser.module.get_submodule(denoiser.blocks).children())
    ends = [f"{denoiser.blocks}.0", f"{denoiser.blocks}.{len(blocks) - 1}"]
    readers = [denoiser.module.get_submodule(f"{denoiser.blocks}.1.attn1"), denoiser.module.get_submodule(last[name])]
    handles = [
        reader.register_forward_pre_hook(lambda _, args, path=path: given.update({path: args[0]}))
        for path, reader in zip(ends, readers, strict=True)
    ]
    with denoiser.record(denoiser.resolve_sites(ends)) as values:
        denoiser.predict(x_t[2:], raw_t, conditioning.select(slice(2, 3)))  # no prompt, no class
    for handle in handles:
        handle.remove()
    for path in ends:
        curves = denoiser.adaln(path)
        assert curves is not None
        t, scale, shift = curves
        assert t[-1] == 1
        x = values[path]
        applied = nn.functional.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale[-1]) + shift[-1]
        torch.testing.assert_close(applied, given[path], atol=1e-5, rtol=1e-4)
