"""A finished run, opened to be looked at: its SAEs, its frozen denoiser, its data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from jsonargparse import ArgumentError, ArgumentParser

from tide_lightning.datamodules import ActivationDataModule, LoadingOptions, TrajectoryOptions
from tide_lightning.diffusion import Denoiser, unlabelled
from tide_lightning.errors import UserError
from tide_lightning.explore.names import Key, Name, read_names
from tide_lightning.near import did_you_mean
from tide_lightning.runs import find_run, is_from_the_hub, place_of, shipped_runs
from tide_lightning.saes import SAE
from tide_lightning.saes.storage import read_cfg, saes_in
from tide_lightning.trust import check_classes, check_files, check_writing
from tide_lightning.yaml_text import check_groups, check_options, read_yaml

T = TypeVar("T")

_MAX_CAPTIONS = 4096


@dataclass(frozen=True)
class Run:
    """A run folder; everything in it is loaded when first asked for.

    Args:
        folder: holds config.yaml and saes/.
        config: what config.yaml says.
        device: where SAEs and denoiser are put.
        trusted: whether its config may name classes that are not this package's, and files outside of the folder.
    """

    folder: Path
    config: dict[str, Any]
    device: torch.device
    trusted: bool = False

    @property
    def name(self) -> str:
        """What people and commands call it: name and stamp."""
        shipped = self.folder in shipped_runs().values()
        return self.folder.name if shipped else f"{self.folder.parent.name}/{self.folder.name}"

    @cached_property
    def saes(self) -> dict[str, SAE]:
        """The SAE of each site, in the order of the sites; keys may bear labels (`<site>@<name>`)."""
        folders = saes_in(self.folder / "saes")
        if not folders:
            name = self.folder.parent.name
            instead = f"; without this run {name} is what comes with the package" if name in shipped_runs() else ""
            raise UserError(f"{self.folder / 'saes'}: no SAE there; has the fit come to its end?{instead}")
        sites = [str(site) for site in self.denoiser.resolve_sites(list(dict.fromkeys(map(unlabelled, folders))))]
        ordered = sorted(folders, key=lambda key: (sites.index(unlabelled(key)), key))
        saes = {key: SAE.from_pretrained(folders[key]) for key in ordered}
        return {key: sae.to(self.device).requires_grad_(False) for key, sae in saes.items()}

    @cached_property
    def denoiser(self) -> Denoiser:
        """The frozen denoiser that the SAEs belong to."""
        data = self._data_config()
        loading = self._options(LoadingOptions, "loading")
        denoiser = loading.load(data["pretrained"], data.get("family"), self.device)
        for path in self.folder.glob("saes/*/cfg.json"):
            if read_cfg(path.parent).get("denoiser") not in (None, denoiser.fingerprint()):
                raise UserError(f"{path.parent}: trained on other weights than {data['pretrained']} has now")
        return denoiser

    @cached_property
    def data(self) -> ActivationDataModule:
        """The run's datamodule around the same denoiser; its prompts and images must still be where they were."""
        if not self.trusted:
            check_files(self._data_config(), self.folder)
        data = build_data(self._data_config(), self.folder / "config.yaml")
        data.adopt(self.denoiser)
        return data

    @cached_property
    def captions(self) -> list[str]:
        """What the run was trained on says: some thousands of its prompts."""
        return list(islice(self.data.corpus.prompts("train"), _MAX_CAPTIONS))

    @cached_property
    def names(self) -> dict[Key, Name]:
        """What its latents are called; empty unless an atlas was built."""
        return read_names(self.folder) or read_names(place_of(self.folder, Path("runs")))

    @cached_property
    def rises(self) -> dict[tuple[str, str | None], dict[str, torch.Tensor]]:
        """How far words (told from what) were seen to move each site's latents; see `finder.rise_by_word`."""
        return {}

    @property
    def guidance_scale(self) -> float:
        """That of the run's data."""
        return self._options(TrajectoryOptions, "trajectories").guidance_scale

    def trajectory(self, num_inference_steps: int, guidance_scale: float | None = None) -> dict[str, Any]:
        """What `sample` is told: steps, and guidance as in the run's data unless given."""
        guidance_scale = self.guidance_scale if guidance_scale is None else guidance_scale
        return {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}

    def chosen(self, sites: Sequence[str] | None) -> dict[str, SAE]:
        """The SAEs of some sites; all unless given."""
        return self.saes if sites is None else {site: self.sae(site) for site in sites}

    def sae(self, site: str) -> SAE:
        """A site's SAE; an error that lists the sites where there is none."""
        if site not in self.saes:
            raise UserError(f"site {site!r}: this run has {', '.join(self.saes)}")
        return self.saes[site]

    def _data_config(self) -> dict[str, Any]:
        data = self.config.get("data")
        if not isinstance(data, dict) or "pretrained" not in data:
            raise UserError(f"{self.folder / 'config.yaml'} names no data.pretrained: not the config of a run")
        if not self.trusted:
            check_classes(data, self.folder)
            if is_from_the_hub(self.folder):
                check_writing(data, self.folder)
        known = signature(ActivationDataModule).parameters
        if stray := [key for key in data if key not in known]:
            raise UserError(
                f"{self.folder / 'config.yaml'}: there is no data.{stray[0]}{did_you_mean(stray[0], known)}"
            )
        return data

    def _options(self, kind: type[T], name: str) -> T:
        """What `data` holds under a name; defaults where it holds nothing."""
        where, arguments = self.folder / "config.yaml", self._data_config().get(name, {})
        check_options(arguments, f"{where}: {name}")
        return _built(kind, arguments, where)


def build_data(config: dict[str, Any], where: Path | str) -> ActivationDataModule:
    """The datamodule that a configuration's `data` describes; `where` it stands is for errors."""
    return _built(ActivationDataModule, config, where)


def _built(kind: type[T], arguments: dict[str, Any], where: Path | str) -> T:
    """An object of a class by what a configuration says."""
    check_groups(kind, arguments, f"{where}: ")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, "data")
    try:
        parsed = parser.parse_object({"data": arguments})
    except ArgumentError as error:
        raise UserError(f"{where}: {' '.join(str(error).split())}") from error
    instantiate = getattr(parser, "instantiate", parser.instantiate_classes)  # the latter before jsonargparse 4.49
    built: T = instantiate(parsed).data
    return built


def open_run(run: str | Path, device: str = "auto", root: str | Path = "runs", trust: bool = False) -> Run:
    """Open a run.

    Args:
        run: its folder, a folder with `latest` in it, or a name below `root`.
        device: where to; auto takes a GPU where there is one.
        root: folder of all runs.
        trust: let its config import classes that are not this package's, and read prompts from outside of its folder.
    """
    folder = find_run(Path(run), Path(root))
    config = read_yaml(folder / "config.yaml", str(folder / "config.yaml"))
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        where = torch.empty(0, device=chosen).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device!r}: PyTorch sees none here; take cpu, or leave it out") from error
    return Run(folder, config if isinstance(config, dict) else {}, where, trust)
