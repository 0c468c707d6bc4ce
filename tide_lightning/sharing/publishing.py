"""`tide publish`: a run as a repository of the hub, which is a run folder and can be used as one by its id."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

import tide_lightning
from tide_lightning.errors import UserError
from tide_lightning.explore.run import Run, open_run
from tide_lightning.files import check_writable
from tide_lightning.saes.storage import CFG, WEIGHTS, read_cfg, read_folder, saes_in
from tide_lightning.saes.whole import sealed
from tide_lightning.sharing.card import Described, model_card
from tide_lightning.sharing.cleaning import cleaned

ALONGSIDE = ("metrics.json", "feature_times.safetensors", "report")
"""What a test leaves in a run."""
PICTURES = {
    "Images with activations replaced by reconstructions": "report/images.png",
    "Loss increase by time": "report/loss_increase.png",
    "Explained variance by time": "report/explained_variance.png",
}
"""Those of the report that the card shows."""


def publish(
    run: str,
    repository: str,
    license: str = "",
    base_model: str | None = None,
    private: bool = False,
    out: str | None = None,
) -> None:
    """Publish a run: its SAEs, figures and report with a model card, without paths or secrets.

    Args:
        run: a run folder, or a run's name below runs/.
        repository: user/name on the hub.
        license: of the SAEs, as the hub names it: apache-2.0, mit, cc-by-4.0, …
        base_model: hub id of the denoiser, where the run names a folder of this machine.
        private: whether only you can see it.
        out: write the repository into this folder and upload nothing.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise UserError(f"{repository}: not the id of a repository; name it as user/name")
    if not license:
        raise UserError("--license is missing: choose one for the SAEs, as the hub names it, such as apache-2.0")
    opened = open_run(run, "cpu")
    if out is not None:
        folder = Path(out)
        check_writable(folder, is_folder=True)
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"--out {out}: the folder is not empty")
        lay_out(opened, folder, repository, license, base_model)
        print(f"{folder}: what would be uploaded to {repository}")
        return
    if get_token() is None:
        raise UserError("you are not logged in to the hub: run `hf auth login`, or set HF_TOKEN; --out uploads nothing")
    with tempfile.TemporaryDirectory() as scratch:
        lay_out(opened, Path(scratch), repository, license, base_model)
        try:
            HfApi().create_repo(repository, private=private, exist_ok=True)
            commit = HfApi().upload_folder(
                repo_id=repository, folder_path=scratch, commit_message=f"Publish {opened.name}"
            )
        except (HfHubHTTPError, HFValidationError) as error:
            raise UserError(f"{repository}: the hub refused it: {_last_line(error)}") from error
        except Exception as error:  # the client's own errors, and whatever its HTTP library raises
            raise UserError(f"{repository}: it could not be uploaded: {_last_line(error)}") from error
    print(f"{commit.repo_url}: published")


def _last_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


def lay_out(run: Run, folder: Path, repository: str, license: str, base_model: str | None) -> None:
    """Write a repository into an empty folder.

    `base_model` is the denoiser's hub id where the run names a folder.
    """
    folders = saes_in(run.folder / "saes")
    if not folders:
        raise UserError(f"{run.folder / 'saes'}: no SAE there; has the fit come to its end?")
    config = _config(run, base_model)
    pretrained = str(config["data"]["pretrained"])
    described: dict[str, list[str]] = {}
    adopted = False
    for site, source in folders.items():
        cfg, _ = read_folder(source)  # whole, and what it was written with
        adopted |= "adopted_from" in cfg
        described[site] = _described(cfg)
        target = folder / "saes" / source.name
        target.mkdir(parents=True)
        shutil.copyfile(source / WEIGHTS, target / WEIGHTS)
        told = sealed({**_as_dict(cleaned(cfg)), "pretrained": pretrained})
        (target / CFG).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        read_cfg(target)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    for name in ALONGSIDE:
        if (run.folder / name).is_dir():
            shutil.copytree(run.folder / name, folder / name)
        elif (run.folder / name).is_file():
            shutil.copyfile(run.folder / name, folder / name)
    on_the_hub = not pretrained.startswith("package:")
    pictures = {what: path for what, path in PICTURES.items() if (folder / path).is_file()}
    told_of = described, adopted, _metrics(run), pictures, tide_lightning.__version__
    card = Described(repository, pretrained, on_the_hub, license, *told_of)
    (folder / "README.md").write_text(model_card(card), encoding="utf-8")


def _config(run: Run, base_model: str | None) -> dict[str, Any]:
    """The run's configuration without what is of this machine."""
    pretrained = str(run.config.get("data", {}).get("pretrained", ""))
    if base_model is None and (not pretrained or Path(pretrained).exists() or Path(pretrained).is_absolute()):
        raise UserError(f"the run's denoiser is a folder ({pretrained}): name its hub id by --base_model")
    config = _as_dict(cleaned(run.config))
    config["data"]["pretrained"] = base_model or pretrained
    return config


def _metrics(run: Run) -> dict[str, Any]:
    path = run.folder / "metrics.json"
    if not path.is_file():
        return {}
    try:
        return _as_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: run `tide test` anew") from error


def _described(cfg: Mapping[str, Any]) -> list[str]:
    arguments = cfg["sae"]
    sizes = f"{cfg['d_sae']:,}", f"{cfg['d_in']:,}"
    return [str(cfg["class"]), *sizes, str(arguments.get("k", "-")), str(arguments.get("known_part", "-"))]


def _as_dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
