"""`tide export`: a run's SAEs for other libraries, what is lost on the way, and an index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tide_lightning.cli import main
from tide_lightning.diffusion import describe_denoiser
from tide_lightning.saes import SAE, KnownStatistics, TideSAE
from tide_lightning.saes.exchange.writing import encoder_alone
from tide_lightning.tokens import SiteShape, TokenBatch, TokenContext

PIPELINE = "package:tide_lightning.grounds.toybox/pipeline"
PORTABLE, WHOLE = "transformer_blocks.3", "transformer_blocks.7"


def drawn(shape: SiteShape, num_tokens: int = 500, seed: int = 0) -> TokenBatch:
    draw = torch.Generator().manual_seed(seed)
    t = torch.rand(num_tokens, generator=draw)
    position = torch.stack([torch.randint(size, (num_tokens,), generator=draw) for size in shape.grid], 1)
    inputs = torch.randn(num_tokens, shape.d_input, generator=draw)
    x = torch.randn(num_tokens, shape.d_in, generator=draw) + 2 + t.unsqueeze(1)
    kinds = torch.zeros(num_tokens, dtype=torch.int8)
    context = TokenContext(t, position, input=inputs, noise=inputs, trajectory_noise=inputs)
    return TokenBatch(x=x, context=context, raw_t=t, sample=torch.arange(num_tokens), half=kinds, source=kinds)


def trained(shape: SiteShape, **arguments: Any) -> TideSAE:
    """As far as an export looks at it: known part and thresholds are fitted to some tokens."""
    torch.manual_seed(0)
    sae = TideSAE(shape, 2, 8, **{"modulation": "none", **arguments})
    batch, statistics = drawn(shape), KnownStatistics(sae.known)
    statistics.update(batch)
    statistics.fit()
    sae.follow(batch, sae.train()(batch))
    return sae.eval()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    denoiser = describe_denoiser(PIPELINE)
    shapes = denoiser.site_shapes(denoiser.resolve_sites([PORTABLE, WHOLE]))
    kinds: dict[str, dict[str, Any]] = {
        PORTABLE: {"known_part": "mean"},
        WHOLE: {"known_part": "input_token", "budget": "batch", "pursuits": 1, "scale_by_timestep": True},
    }
    for site, arguments in kinds.items():
        trained(shapes[site], **arguments).save_pretrained(tmp_path / "run" / "saes" / site, site=site)
    scenes = {"class_path": "tide_lightning.grounds.toybox.Scenes", "init_args": {"split": "test", "num_scenes": 8}}
    data = {"pretrained": PIPELINE, "sites": [PORTABLE, WHOLE], "images": scenes, "heldout": {"images": scenes}}
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    return tmp_path / "run"


def complaint(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    capsys.readouterr()
    assert main(list(args)) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("tide: error:"))
    return line


def test_what_can_be_exported_whole(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run), "lens", "--format=saelens", f"--sites={PORTABLE}"]) == 0
    assert f"{PORTABLE}: one SAE, exact" in capsys.readouterr().out
    assert json.loads(Path("lens/index.json").read_text())["sites"] == {PORTABLE: [{"folder": PORTABLE, "t": None}]}
    metadata = json.loads(Path(f"lens/{PORTABLE}/cfg.json").read_text())["metadata"]
    assert (metadata["hook_name"], metadata["model_name"], "left_out" in metadata) == (PORTABLE, PIPELINE, False)
    original, read = SAE.from_pretrained(run, site=PORTABLE), SAE.from_pretrained("lens", site=PORTABLE)
    x = drawn(original.shape, seed=1).x
    with torch.no_grad():
        torch.testing.assert_close(read.encode(x).to_dense(), original.encode(x).to_dense(), rtol=1e-4, atol=1e-5)


def test_what_is_lost_is_measured_and_written(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One SAE a time, of what the known part leaves, and without the pursuit."""
    assert main(["export", str(run), "out", "--format=plain", f"--sites={WHOLE}", "--at=0.2,0.8", "--samples=8"]) == 0
    told = capsys.readouterr().out
    assert "2 SAEs, one for each time, of what known.safetensors leaves" in told
    assert "without pursuits: FVU" in told
    (entries,) = json.loads(Path("out/index.json").read_text())["sites"].values()
    assert entries == [{"folder": f"{WHOLE}/t_{t}", "t": t} for t in (0.2, 0.8)]
    metadata = json.loads(Path(f"out/{WHOLE}/t_0.2/plain.json").read_text())["metadata"]
    cost = metadata["cost_of_leaving_out"]
    assert metadata["left_out"] == ["pursuits"]
    assert cost["samples"] == 8
    assert cost["fvu_whole"] < cost["fvu_part"]
    assert 0 < cost["shared_support"] <= 1
    assert cost["loss_increase_part"] > 0
    # What other code makes of it: the known part by its formula, and the rest by the SAE of that time.
    original = SAE.from_pretrained(run, site=WHOLE)
    batch = drawn(original.shape, seed=1)
    known, own = load_file(f"out/{WHOLE}/known.safetensors"), load_file(f"out/{WHOLE}/t_0.2/plain.safetensors")
    grid = json.loads(Path(f"out/{WHOLE}/known.json").read_text())["grid"]
    position, inputs = batch.context.position, batch.context.input
    assert position is not None
    assert inputs is not None
    place = position[:, 0] * grid[1] + position[:, 1]
    low, mix = 3, 0.5  # of 20 bins 0.2 lies midway between the centres of the fourth and the fifth
    by_time, weight = (torch.lerp(known[name][low], known[name][low + 1], mix) for name in ("by_time", "weight"))
    by_place = torch.lerp(known["by_place"][0], known["by_place"][1], 0.2 / float(known["knots"][1]))
    then = batch.context._replace(t=torch.full_like(batch.context.t, 0.2))
    expected = original.known(then)
    torch.testing.assert_close(by_time + by_place[place] + inputs @ weight, expected, rtol=1e-4, atol=1e-4)
    pre = (batch.x - expected) @ own["W_enc"].T + own["b_enc"]
    z = pre.where(pre > own["threshold"], 0)
    alone = encoder_alone(original)
    code = alone.encode(batch.x, then)
    torch.testing.assert_close(z, code.to_dense(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        expected + z @ own["W_dec"] + own["b_dec"], alone.decode(code, then), rtol=1e-4, atol=1e-4
    )


def test_mistakes_are_told_before_anything_is_written(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export = ["export", str(run), "out"]
    assert "another one at each time t: name some by --at" in complaint(capsys, *export)
    assert "times go from 0 to 1" in complaint(capsys, *export, "--at=1.5")
    assert "--at soon: give numbers" in complaint(capsys, *export, "--at=soon")
    assert "this run has" in complaint(capsys, *export, "--sites=blocks.5")
    assert "onnx" in complaint(capsys, *export, "--format=onnx")
    assert "sparsify keeps k latents" in complaint(
        capsys, *export, "--format=sparsify", f"--sites={WHOLE}", "--at=0.5", "--samples=1"
    )
    assert not list(Path("out").rglob("*.safetensors"))
