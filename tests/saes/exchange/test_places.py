"""Where SAEs are found: folders, runs, and the hub's cache as huggingface_hub lays it out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.saes.exchange.test_research_code import write_diffract, write_saeuron
from tests.saes.synthetic import SHAPE
from tide_lightning.errors import UserError
from tide_lightning.saes import SAE, TideSAE

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def publish(content: Path, cache: Path, repository: str) -> None:
    """Lay a folder out as the hub's cache does: blobs, and a snapshot of links to them."""
    root = cache / f"models--{repository.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    (root / "blobs").mkdir()
    for number, path in enumerate(sorted(content.rglob("*"))):
        if path.is_file():
            shutil.copy(path, root / "blobs" / str(number))
            link = root / "snapshots" / COMMIT / path.relative_to(content)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(root / "blobs" / str(number))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def small() -> TideSAE:
    return TideSAE(SHAPE, 4, 5, modulation="none")


def test_a_run_on_the_hub(hub: Path, tmp_path: Path) -> None:
    """By its folder's name, by its site's, and alone where there is but one."""
    saved = {"transformer_blocks.14": small(), "transformer_blocks.3:update": small()}
    for site, sae in saved.items():
        sae.save_pretrained(tmp_path / "run" / "saes" / site.replace(":", "-"), site=site)
    publish(tmp_path / "run", hub, "user/name")
    for source in ("user/name", tmp_path / "run"):
        for site, sae in saved.items():
            loaded = SAE.from_pretrained(source, site=site)
            assert torch.equal(loaded.state_dict()["W_enc"], sae.W_enc)
        with pytest.raises(UserError, match=r"choose a site: transformer_blocks\.14, transformer_blocks\.3-update"):
            SAE.from_pretrained(source)
        with pytest.raises(UserError, match=r"no SAE of blocks\.5 there; choose a site"):
            SAE.from_pretrained(source, site="blocks.5")


def test_layouts_of_others_on_the_hub(hub: Path, tmp_path: Path) -> None:
    write_saeuron(tmp_path / "content" / "unet.up_blocks.1.attentions.2")
    write_diffract(tmp_path / "content" / "temporal-aware-saes" / "sae_img_6.pt")
    publish(tmp_path / "content", hub, "someone/saes")
    assert SAE.from_pretrained("someone/saes", site="unet.up_blocks.1.attentions.2").d_sae == 60
    assert SAE.from_pretrained("someone/saes", site="temporal-aware-saes/sae_img_6").is_conditioned


def test_what_is_not_there(hub: Path, tmp_path: Path) -> None:
    for nobody in ("nobody/nothing", "not a hub id", str(tmp_path / "absent")):
        with pytest.raises(UserError, match="neither a folder nor a hub repository"):
            SAE.from_pretrained(nobody)
    with pytest.raises(UserError, match="xxx: File name too long"):
        SAE.from_pretrained("x" * 5000)
