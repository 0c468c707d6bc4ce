"""Put a trained run's SAEs into the package: `python -m tools.ship_run runs/quickstart/latest quickstart`.

Weights are rounded to float16, and the config is kept without what belongs to the machine that trained.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from tide_lightning.diffusion import folder_name
from tide_lightning.errors import UserError
from tide_lightning.explore.names import read_names, write_names
from tide_lightning.saes import SAE
from tide_lightning.saes.storage import read_cfg, saes_in
from tools.command import run

_PACKAGE = Path(__file__).parents[1] / "tide_lightning" / "trained"
_KEPT = ("seed_everything", "data", "evaluation")
_WRITTEN_ANEW = ("schema", "tide_lightning", "class", "d_in", "d_sae", "shape", "sae", "sha256")


def ship(run: Path, name: str, out: Path = _PACKAGE) -> None:
    """Write `out/name`: config.yaml and saes/, on which all commands work that take a run.

    Args:
        run: a run folder.
        name: by which the run is found.
        out: the folder of all runs that come with the package.
    """
    folders = saes_in(run / "saes")
    if not folders:
        raise UserError(f"{run / 'saes'}: no SAE there")
    for site, folder in folders.items():
        provenance = {key: value for key, value in read_cfg(folder).items() if key not in _WRITTEN_ANEW}
        SAE.from_pretrained(folder).half().save_pretrained(out / name / "saes" / folder_name(site), **provenance)
    config = yaml.safe_load((run / "config.yaml").read_text("utf-8"))
    kept = {"run_name": name, **{key: config[key] for key in _KEPT if key in config}}
    (out / name / "config.yaml").write_text(yaml.safe_dump(kept, sort_keys=False), "utf-8")
    if names := read_names(run):  # of the atlas; the weights were rounded, so they have another hash now
        write_names(out / name, names, [])


if __name__ == "__main__":
    run(ship)
