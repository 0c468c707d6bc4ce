"""`tide adopt`: a run folder around other people's SAEs, on which all commands work that take a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tide_lightning.command_line import config_path
from tide_lightning.diffusion import folder_name
from tide_lightning.errors import UserError
from tide_lightning.explore.requests import parse_names
from tide_lightning.explore.run import build_data
from tide_lightning.runs import new_run, point_latest
from tide_lightning.saes import SAE
from tide_lightning.tokens import SiteShape
from tide_lightning.yaml_text import read_yaml

Given = str | dict[str, str]
"""A value as the command line has it, or several below one name."""


def adopt(
    source: str,
    sites: str = "",
    config: str | None = None,
    data: dict[str, Given] | None = None,
    run_name: str = "adopted",
    runs: str = "runs",
) -> None:
    """Make a run of SAEs that others trained: to be tested, compared, searched and steered as one of ours.

    Args:
        source: a folder or a hub id, of any layout that docs/how-to/adopt.md lists.
        sites: where their activations come from, separated by commas; where there are several SAEs, SITE=SUBFOLDER says
            which is whose, as in transformer_blocks.3=layers.3; a sub-folder that is named as its site need not be.
        config: a file or the name of a packaged config, whose data, trainer and evaluation the run gets.
        data: what the activations are made of, as --data.pretrained HUB_ID and --data.prompts FILE; wins over config.
        run_name: folder of the run below --runs.
        runs: folder of all runs.
    """
    wanted = _parse(sites)
    settings = _settings(config, data or {}, list(wanted))
    shapes = build_data(settings["data"], "data").site_shapes
    if unknown := [site for site in wanted if site not in shapes]:
        raise UserError(f"--sites {unknown[0]}: name single sites, of which `tide sites` tells")
    saes = {site: _adopted(source, subfolder, SiteShape.of(shapes[site]), site) for site, subfolder in wanted.items()}
    run = new_run(Path(runs).absolute(), run_name)
    for site, sae in saes.items():
        origin = {"adopted_from": source, "adopted_subfolder": wanted[site]}
        sae.save_pretrained(run / "saes" / folder_name(site), site=site, **origin)
    (run / "config.yaml").write_text(yaml.safe_dump(settings | {"run_name": run_name}, sort_keys=False), "utf-8")
    point_latest(run)
    for site, sae in saes.items():
        print(f"{site}: {type(sae).__name__}, {sae.d_sae:,} latents of {sae.d_in} channels")
    print(f"{run}: adopted; `tide test --run {run}` measures it, `tide atlas {run}` shows it")


def _parse(sites: str) -> dict[str, str | None]:
    """The sub-folder of each site, where one is named."""
    found: dict[str, str | None] = {}
    for part in parse_names(sites):
        site, _, subfolder = part.partition("=")
        if site in found:
            raise UserError(f"--sites {sites}: {site} stands there twice")
        found[site] = subfolder or None
    if not found:
        raise UserError("--sites is missing: name the site that each SAE belongs to, as in transformer_blocks.3")
    return found


def _settings(config: str | None, data: dict[str, Given], sites: list[str]) -> dict[str, Any]:
    """What the run's config.yaml says: a config without its model and its training."""
    base: Any = {}
    if config is not None:
        base = read_yaml(config_path(config), f"--config {config}")
    if not isinstance(base, dict) or not isinstance(base.get("data", {}), dict):
        raise UserError(f"--config {config}: it has no section data")
    kept = {
        name: base[name] for name in ("seed_everything", "matmul_precision", "trainer", "evaluation") if name in base
    }
    described = {**_merged(base.get("data", {}), data), "sites": sites}
    if "pretrained" not in described:
        raise UserError("--data.pretrained is missing: name the denoiser that the SAEs belong to, or a --config")
    return {**kept, "data": described}


def _merged(base: dict[str, Any], given: Mapping[str, Any], under: str = "") -> dict[str, Any]:
    """A section of a config with what the command line gives, key by key; a name may be a path with dots."""
    merged = dict(base)
    for path, value in given.items():
        name, _, rest = path.partition(".")
        below = {rest: value} if rest else value
        if isinstance(below, str):
            merged[name] = _value(under + name, below)
        else:
            inside = merged.get(name)
            merged[name] = _merged(inside if isinstance(inside, dict) else {}, below, f"{under}{name}.")
    return merged


def _value(name: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--data.{name} {text}: {' '.join(str(error).split())}") from error


def _adopted(source: str, subfolder: str | None, shape: SiteShape, site: str) -> SAE:
    """The SAE of a site, if it fits the site."""
    try:
        sae = SAE.from_pretrained(source, site=subfolder)
    except UserError:
        if subfolder is not None:
            raise
        sae = SAE.from_pretrained(source, site=site)
    if sae.d_in != shape.d_in:
        raise UserError(f"{site} has {shape.d_in} channels, but the SAE of {subfolder or source} reads {sae.d_in}")
    if sae.known.rung in ("mean", "mean_t"):  # so it knows nothing of places
        sae.shape = shape
    elif sae.shape != shape:
        raise UserError(f"{site} is {shape}, but the SAE of {subfolder or source} knows the places of {sae.shape}")
    return sae
