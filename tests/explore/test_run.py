from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.explore.conftest import PIPELINE, SITES, scenes, write_run
from tide_lightning.errors import UserError
from tide_lightning.explore import Run, open_run
from tide_lightning.saes import TideSAE


def test_everything_of_a_run_is_there(run: Run) -> None:
    assert run.name == "tiny/20260101-000000"
    assert list(run.saes) == SITES
    assert run.data.denoiser is run.denoiser
    assert run.data.corpus.prompts("heldout")[0]
    assert not any(parameter.requires_grad for parameter in run.sae(SITES[0]).parameters())


def test_sweeps_keep_their_labels_and_sites_their_order(tmp_path: Path) -> None:
    keys = ["transformer_blocks.7", "transformer_blocks.3@wide", "transformer_blocks.3@narrow"]
    run = open_run(write_run(tmp_path / "sweep" / "1", keys), device="cpu")
    assert list(run.saes) == ["transformer_blocks.3@narrow", "transformer_blocks.3@wide", "transformer_blocks.7"]


def test_a_run_is_found_by_name(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "latest").symlink_to(run_folder)
    for name in (tmp_path / "mine", "mine"):
        assert open_run(name, device="cpu", root=tmp_path).folder == run_folder.resolve()


def test_what_is_missing_is_said_with_what_there_is(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"no run folder there .*; there is none below {tmp_path} either: make one"):
        open_run(tmp_path / "nothing", root=tmp_path)
    with pytest.raises(UserError, match=f"this run has {', '.join(SITES)}"):
        run.sae("transformer_blocks.2")
    with pytest.raises(UserError, match="device 'toaster': PyTorch sees none here; take cpu"):
        open_run(run.folder, device="toaster")
    empty = write_run_without_saes(tmp_path / "empty")
    with pytest.raises(UserError, match=r"no SAE there; has the fit come to its end\?$"):
        _ = open_run(empty, device="cpu").saes
    empty = write_run_without_saes(tmp_path / "quickstart" / "1")  # stands before the one that comes along
    with pytest.raises(UserError, match="without this run quickstart is what comes with the package"):
        _ = open_run(empty, device="cpu").saes


def test_saes_of_another_denoiser_are_refused(run: Run, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "other" / "1", SITES[:1])
    sae = TideSAE.from_pretrained(folder / "saes" / SITES[0])
    sae.save_pretrained(folder / "saes" / SITES[0], site=SITES[0], denoiser="0123456789abcdef")
    with pytest.raises(UserError, match="other weights"):
        _ = open_run(folder, device="cpu").denoiser


def test_a_config_that_does_not_fit_is_one_line(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "odd" / "1", SITES[:1], colour="red")
    with pytest.raises(UserError, match=r"config\.yaml: .*colour") as caught:
        _ = open_run(folder, device="cpu").data
    assert "\n" not in str(caught.value)


def write_run_without_saes(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"data: {{pretrained: '{PIPELINE}', sites: []}}")
    return folder


def test_an_sae_encodes_what_the_denoiser_computes(run: Run) -> None:
    batch = next(iter(run.data.val_dataloader()))
    output = run.sae(SITES[0])(batch[SITES[0]])
    assert torch.isfinite(output.x_hat).all()
    assert (output.code.l0() > 0).any()


def test_a_key_that_there_is_not_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "odd" / "1", SITES[:1], loadings={"dtype": "auto"})
    with pytest.raises(UserError, match=r"there is no data\.loadings; did you mean loading\?"):
        _ = open_run(folder, device="cpu").denoiser


@pytest.mark.parametrize(("given", "said"), [(None, "loading is empty"), ("much", "much stands where options belong")])
def test_options_that_are_none_are_told(tmp_path: Path, given: Any, said: str) -> None:
    folder = write_run(tmp_path / "odd" / "1", SITES[:1], loading=given)
    with pytest.raises(UserError, match=said):
        _ = open_run(folder, device="cpu").denoiser


def test_a_strangers_run_imports_and_reads_nothing_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless it is trusted: then its code runs, and its prompts are read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    ran = tmp_path / "ran"
    (tmp_path / "trap.py").write_text(f"open({str(ran)!r}, 'w').close()\n", encoding="utf-8")
    images: dict[str, Any] = {"class_path": "trap.Images", "init_args": {}}
    fine = scenes("train", 8)
    traps: list[dict[str, Any]] = [{"images": fine, "family": "trap.Family"}, {"images": images}]
    traps.append({"images": fine, "heldout": {"images": "trap.Images"}})
    for number, data in enumerate(traps):
        folder = write_run(tmp_path / str(number) / "1", SITES[:1], **data)
        with pytest.raises(UserError, match=r"would import trap\.\w+: give --trust"):
            _ = open_run(folder, device="cpu").data
        assert not ran.exists()
        with pytest.raises(UserError, match="trap"):
            _ = open_run(folder, device="cpu", trust=True).data
        assert ran.exists()
        ran.unlink()
        sys.modules.pop("trap", None)
    secret = tmp_path / "secret.txt"
    secret.write_text("a red cube\n" * 40, encoding="utf-8")
    for path in (str(secret), "secret.txt", str(tmp_path / "3" / "1" / ".." / ".." / "secret.txt")):
        folder = write_run(tmp_path / "3" / "1", SITES[:1], prompts=path)
        with pytest.raises(UserError, match="reads prompts from"):
            _ = open_run(folder, device="cpu").captions
    assert open_run(folder, device="cpu", trust=True).captions[0] == "a red cube"
    (folder / "own.txt").write_text("a blue cube\na green ring\n", encoding="utf-8")
    write_run(folder, SITES[:1], prompts=str(folder / "own.txt"))
    assert open_run(folder, device="cpu").captions == ["a blue cube"]  # the other one is held out
