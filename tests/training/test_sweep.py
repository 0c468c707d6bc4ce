"""Several SAEs of one site, trained side by side on one harvest."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.training.fitting import SITES, make_data, make_trainer
from tide_lightning.callbacks import ResampleDeadLatents
from tide_lightning.cli import main
from tide_lightning.diffusion import Site
from tide_lightning.errors import UserError
from tide_lightning.saes import SAE, TideSAE
from tide_lightning.tokens import SiteShape
from tide_lightning.training import TideModule

pytestmark = pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")


def build(k: int, **settings: Any) -> Callable[[SiteShape], TideSAE]:
    def builder(shape: SiteShape) -> TideSAE:
        return TideSAE(shape, expansion_factor=4, k=k, **settings)

    return builder


BUILDERS: dict[str, Callable[[SiteShape], SAE]] = {
    "k4": build(4),
    "k8": build(8, fidelity_weight=0.5, budget="batch", refinements=1),
}


def fit(pretrained: Path, folder: Path, sites: list[str], names: list[str], drawn: int = 0) -> TideModule:
    """Clipped hard, with dead latents that AuxK helps and that are resampled."""
    data = make_data(pretrained, sites=sites)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.randn(drawn)
        saes = {name: BUILDERS[name] for name in names}
        module = TideModule(data.site_shapes, saes=saes, warmup_steps=4, dead_after_tokens=128)
    resample = ResampleDeadLatents(every_n_steps=6, until_fraction=1, num_candidates=8)
    trainer = make_trainer(folder, 20, [resample], gradient_clip_val=0.02)
    trainer.fit(module, datamodule=data)
    return module


def test_each_ends_with_the_same_bits_alone_and_in_company(pretrained: Path, tmp_path: Path) -> None:
    company = fit(pretrained, tmp_path / "company", SITES, ["k4", "k8"])
    assert company.sites == [f"{site}@{name}" for site in SITES for name in ("k4", "k8")]
    reordered = fit(pretrained, tmp_path / "reordered", SITES[::-1], ["k8", "k4"], drawn=7)
    alone = fit(pretrained, tmp_path / "alone", SITES[1:], ["k8"])
    assert company.clock(f"{SITES[1]}@k8").dead().any()
    for key in company.sites:
        expected = company.sae(key).state_dict()
        for other in (reordered, alone):
            found = other.sae(key).state_dict() if key in other.sites else expected
            assert found.keys() == expected.keys()
            for name, tensor in expected.items():
                assert torch.equal(found[name], tensor), (key, name)


def test_first_weights_are_named_by_seed_and_key(pretrained: Path) -> None:
    shapes = make_data(pretrained).site_shapes
    drawn = []
    for seed in (0, 0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = TideModule(shapes, saes={"a": build(4), "b": build(4)})
        drawn.append({key: module.sae(key).W_dec for key in module.sites})
    assert all(torch.equal(drawn[0][key], drawn[1][key]) for key in drawn[0])
    different = [*drawn[0].values(), *drawn[2].values()]
    assert not any(torch.equal(a, b) for a, b in combinations(different, 2))


def test_a_label_says_nothing_about_the_place() -> None:
    site = Site.parse("blocks.1:mlp@k-16")
    assert (site.path, site.part, site.stream, site.label) == ("blocks.1", "mlp", "image", "k-16")
    assert str(site) == "blocks.1:mlp@k-16"


@pytest.mark.parametrize(("name", "said"), [("k=16", "'k=16' cannot name an SAE"), ("k.16", "cannot name an SAE")])
def test_names_that_are_none(pretrained: Path, name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        TideModule(make_data(pretrained).site_shapes, saes={name: build(4)})
    with pytest.raises(UserError, match=r"model\.saes is empty"):
        TideModule(make_data(pretrained).site_shapes, saes={})


def test_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    saes = {
        name: {"class_path": "tide_lightning.saes.TideSAE", "init_args": {"expansion_factor": 4, "k": k}}
        for name, k in (("few", 4), ("many", 16))
    }
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({"model": {"saes": saes}}))
    tiny = ["--trainer.max_steps=4", "--checkpoint.every_n_train_steps=2", "--data.batches_per_epoch=4"]
    tiny.append("--trainer.log_every_n_steps=1")
    assert main(["fit", "--config", "debug", "--config", "sweep.yaml", *tiny]) == 0
    assert main(["test", "--data.heldout.num_test_samples=16", "--evaluation.num_images=1"]) == 0
    latest = tmp_path / "runs" / "debug" / "latest"
    keys = {f"transformer_blocks.3@{name}" for name in saes}
    metrics = json.loads((latest / "metrics.json").read_text())
    assert set(metrics["sites"]) == set(metrics["floors"]) == set(metrics["fidelity"]["sites"]) == keys
    assert "all" not in metrics["fidelity"]
    l0 = {key: metrics["sites"][key]["l0"] for key in keys}
    assert l0["transformer_blocks.3@few"] <= 4 < l0["transformer_blocks.3@many"] <= 16
    sae = TideSAE.from_pretrained(latest / "saes" / "transformer_blocks.3-many")
    assert sae.k == 16
    assert main(["fit", "--config", "debug", "--config", "sweep.yaml", *tiny, "--ckpt_path=last"]) == 0
    assert main(["plan", "--config", "debug", "--config", "sweep.yaml"]) == 0
