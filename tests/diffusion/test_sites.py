from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tide_lightning.diffusion import Conditioning, Denoiser, Site, folder_name, record, resolve_sites, splice
from tide_lightning.errors import UserError

ALL_PARTS = [f"transformer_blocks.*{part}" for part in ("", ":update", ":mlp", ":attention")]


@pytest.fixture(scope="module")
def call(denoiser: Denoiser) -> tuple[Tensor, Tensor, Conditioning]:
    x_t = torch.randn(3, *denoiser.latent_shape, generator=torch.Generator().manual_seed(1))
    return x_t, torch.tensor([5.0, 500.0, 999.0]), denoiser.encode_prompts(["a red ball", "", "a blue cube"])


def num_hooks(module: nn.Module) -> int:
    return sum(len(part._forward_hooks) for part in module.modules())


def test_globs_stay_within_a_level(denoiser: Denoiser) -> None:
    assert [str(site) for site in denoiser.resolve_sites(["transformer_blocks.*"])] == [
        "transformer_blocks.0",
        "transformer_blocks.1",
        "transformer_blocks.2",
    ]
    assert [str(site) for site in denoiser.resolve_sites(["transformer_blocks.[02]:mlp"])] == [
        "transformer_blocks.0:mlp",
        "transformer_blocks.2:mlp",
    ]
    deep = [str(site) for site in denoiser.resolve_sites(["**.attn1"])]
    assert deep == [f"transformer_blocks.{i}.attn1" for i in range(3)]


def test_one_name_for_one_place(denoiser: Denoiser) -> None:
    patterns = ["transformer_blocks.1:output:image", "transformer_blocks.1", "transformer_blocks.0"]
    assert [str(site) for site in denoiser.resolve_sites(patterns)] == ["transformer_blocks.0", "transformer_blocks.1"]
    assert str(Site.parse("a.b:image:mlp")) == "a.b:mlp"
    assert Site.parse(str(Site("a", "update", "text"))) == Site("a", "update", "text")
    assert folder_name("transformer_blocks.1:mlp") == "transformer_blocks.1-mlp"


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("transformer_block.1", "near matches: .*transformer_blocks.1"),
        ("blocks.*", r"near matches: .*transformer_blocks.\*"),
        ("transformer_blocks.17", "near matches"),
        ("qwertz", "its modules are pos_embed, transformer_blocks"),
        ("transformer_blocks.1:output:words", "'words' is neither a part .* nor a stream"),
        ("transformer_blocks.1:text", "has no text stream"),
        ("pos_embed:mlp", r"pos_embed has no mlp submodule \(it has proj\)"),
        (":mlp", "names no module"),
    ],
)
def test_what_cannot_be_a_site(denoiser: Denoiser, pattern: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        denoiser.resolve_sites([pattern])


def test_a_place_without_image_tokens(denoiser: Denoiser) -> None:
    with pytest.raises(UserError, match=r"site caption_projection gives \[1, 120, 32\], not the 16 image tokens"):
        denoiser.site_widths(denoiser.resolve_sites(["caption_projection"]))
    with pytest.raises(UserError, match="returns a tuple"):
        denoiser.site_widths(denoiser.resolve_sites(["adaln_single"]))
    with pytest.raises(UserError, match="no sites"):
        resolve_sites(denoiser.module, [])


@pytest.mark.parametrize("stop_early", [False, True])
def test_recording_equals_a_plain_hook(
    denoiser: Denoiser, call: tuple[Tensor, Tensor, Conditioning], stop_early: bool
) -> None:
    expected: dict[str, Tensor] = {}
    inputs: dict[str, Tensor] = {}
    handles = []
    for name, module in denoiser.module.named_modules():

        def keep(_: nn.Module, args: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
            inputs[name], expected[name] = args[0], output

        if name.startswith("transformer_blocks.") and name.count(".") <= 2:
            handles.append(module.register_forward_hook(keep))
    denoiser.predict(*call)
    for handle in handles:
        handle.remove()

    sites = [site for site in denoiser.resolve_sites(ALL_PARTS) if not site.path.endswith("2")]
    finished = False
    with record(denoiser.module, sites, stop_early=stop_early) as values:
        denoiser.predict(*call)
        finished = True
    assert finished is not stop_early
    assert len(values) == 8
    for block in ("transformer_blocks.0", "transformer_blocks.1"):
        assert torch.equal(values[block], expected[block])
        assert torch.equal(values[f"{block}:update"], expected[block] - inputs[block])
        assert torch.equal(values[f"{block}:mlp"], expected[f"{block}.ff"])
        assert torch.equal(values[f"{block}:attention"], expected[f"{block}.attn1"])


def test_stopping_early_saves_the_blocks_behind(denoiser: Denoiser, call: tuple[Tensor, Tensor, Conditioning]) -> None:
    ran: list[int] = []
    blocks = list(denoiser.module.get_submodule("transformer_blocks").children())
    handles = [block.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, block in enumerate(blocks)]
    with record(denoiser.module, denoiser.resolve_sites(["transformer_blocks.0"]), stop_early=True):
        denoiser.predict(*call)
    for handle in handles:
        handle.remove()
    assert ran == [0]


def test_an_identity_splice_changes_no_bit(denoiser: Denoiser, call: tuple[Tensor, Tensor, Conditioning]) -> None:
    original = denoiser.predict(*call)
    with splice(denoiser.module, {site: lambda x: x for site in denoiser.resolve_sites(ALL_PARTS)}):
        assert torch.equal(denoiser.predict(*call), original)


@pytest.mark.parametrize("part", ["", ":update", ":mlp", ":attention"])
def test_a_splice_replaces_the_value(denoiser: Denoiser, call: tuple[Tensor, Tensor, Conditioning], part: str) -> None:
    (site,) = denoiser.resolve_sites([f"transformer_blocks.1{part}"])
    with record(denoiser.module, [site]) as values:
        original = denoiser.predict(*call)
    mean = values[str(site)].mean(1, keepdim=True)
    with (
        splice(denoiser.module, {site: lambda x: mean.expand_as(x)}),
        record(denoiser.module, [site]) as spliced,
    ):
        changed = denoiser.predict(*call)
    assert (changed - original).abs().max() > 1e-4
    torch.testing.assert_close(spliced[str(site)], mean.expand_as(spliced[str(site)]), atol=1e-5, rtol=1e-5)


def test_no_hook_outlives_an_error(denoiser: Denoiser, call: tuple[Tensor, Tensor, Conditioning]) -> None:
    before = num_hooks(denoiser.module)
    sites = denoiser.resolve_sites(["transformer_blocks.*"])
    with pytest.raises(ZeroDivisionError), record(denoiser.module, sites):
        raise ZeroDivisionError
    with (
        pytest.raises(ValueError, match="spliced"),
        splice(denoiser.module, {sites[0]: lambda x: x[:, :3]}),
    ):
        denoiser.predict(*call)
    with pytest.raises(UserError, match="was not reached"), record(denoiser.module, sites):
        pass
    assert num_hooks(denoiser.module) == before


class Bypass(nn.Module):
    """Never calls one of its parts, as compiled code never calls hooks inside."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.bypassed = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)  # type: ignore[no-any-return]


def test_a_site_that_is_never_reached() -> None:
    module = Bypass()
    sites = resolve_sites(module, ["*"])
    message = "site bypassed was not reached"
    with pytest.raises(UserError, match=message), record(module, sites):
        module(torch.zeros(1, 2, 3))
    with pytest.raises(UserError, match=message), splice(module, {site: lambda x: x for site in sites}):
        module(torch.zeros(1, 2, 3))


def test_adaln_is_what_the_next_block_applies(denoiser: Denoiser, call: tuple[Tensor, Tensor, Conditioning]) -> None:
    """The recorded input of attention is LayerNorm(site) * (1 + scale) + shift at the right t."""
    x_t, _, conditioning = call
    raw_t = torch.full((3,), 999.0)
    seen: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def hook(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            seen[name] = args[0]

        return module.register_forward_pre_hook(hook, with_kwargs=True)

    attention = denoiser.module.get_submodule("transformer_blocks.2.attn1")
    handles = [keep("next", attention), keep("last", denoiser.module.get_submodule("proj_out"))]
    sites = denoiser.resolve_sites(["transformer_blocks.[12]"])
    with record(denoiser.module, sites) as values:
        denoiser.predict(x_t, raw_t, conditioning)
    for handle in handles:
        handle.remove()
    for site, name in zip(sites, ("next", "last"), strict=True):
        curves = denoiser.adaln(site)
        assert curves is not None
        t, scale, shift = curves
        assert t[-1] == 1
        x = values[str(site)]
        modulated = nn.functional.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale[-1]) + shift[-1]
        torch.testing.assert_close(modulated, seen[name])
    assert denoiser.adaln("transformer_blocks.1:mlp") is None
    assert denoiser.adaln("transformer_blocks.1.attn1") is None
