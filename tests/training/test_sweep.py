"""Several SAEs of one site, trained side by side on one harvest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from tests.training.fitting import SITES, make_data, make_trainer
from tide_lightning.cli import main
from tide_lightning.diffusion import Site
from tide_lightning.errors import UserError
from tide_lightning.saes import TideSAE
from tide_lightning.tokens import SiteShape
from tide_lightning.training import TideModule

pytestmark = pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")


def build(k: int, fidelity_weight: float = 0.0):  # type: ignore[no-untyped-def]
    """The same first weights for every k."""

    def builder(shape: SiteShape) -> TideSAE:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return TideSAE(shape, expansion_factor=4, k=k, fidelity_weight=fidelity_weight)

    return builder


def test_each_is_trained_as_it_would_be_alone(pretrained: Path, tmp_path: Path) -> None:
    data = make_data(pretrained)
    sweep = TideModule(data.site_shapes, saes={"k4": build(4), "k8": build(8, 0.5)}, warmup_steps=4)
    assert sweep.sites == [f"{site}@{name}" for site in SITES for name in ("k4", "k8")]
    make_trainer(tmp_path / "sweep", 5).fit(sweep, datamodule=data)
    for name, builder in (("k4", build(4)), ("k8", build(8, 0.5))):
        alone = TideModule(data.site_shapes, builder, warmup_steps=4)
        make_trainer(tmp_path / name, 5).fit(alone, datamodule=make_data(pretrained))
        assert alone.tokens_seen == sweep.tokens_seen
        for site in SITES:
            expected, found = alone.sae(site).state_dict(), sweep.sae(f"{site}@{name}").state_dict()
            assert expected.keys() == found.keys()
            for key, tensor in expected.items():
                torch.testing.assert_close(found[key], tensor, rtol=1e-5, atol=1e-6)


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
    assert main(["test", "--data.num_test_samples=16", "--evaluation.num_images=1"]) == 0
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
