"""`tide`: fit, validate, test and predict, composed from YAML by LightningCLI."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger

import tide_lightning
from tide_lightning.callbacks import ExportSAEs, ShowProgress, WriteCodes
from tide_lightning.command_line import follow_run, resolve_configs
from tide_lightning.datamodules import ActivationDataModule
from tide_lightning.errors import UserError
from tide_lightning.evaluation import EvaluateProtocol
from tide_lightning.runs import (
    check_checkpoint,
    forget_stamp,
    last_checkpoint,
    new_run,
    newest_run,
    point_latest,
)
from tide_lightning.training import TideModule


class TideParser(LightningArgumentParser):
    """A parser whose complaints are one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong in one line."""
        raise UserError(_one_line(message)) from ex


class SaveRunConfig(SaveConfigCallback):
    """Writes the run's config.yaml at the start of a fit and lets `latest` point to the run."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save for a fit only: a test must not touch the run's config."""
        if stage == "fit":
            super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Rank 0 has written config.yaml."""
        assert trainer.log_dir is not None
        point_latest(Path(trainer.log_dir))


class TideCLI(LightningCLI):
    """LightningCLI with run folders, a default checkpoint, exporter and progress, and the evaluation protocol."""

    run_folder: Path

    def __init__(self, args: list[str]) -> None:
        super().__init__(
            TideModule,
            ActivationDataModule,
            args=args,
            parser_kwargs={"prog": "tide", "version": tide_lightning.__version__},
            save_config_callback=SaveRunConfig,
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
            trainer_defaults={"enable_model_summary": False},
            auto_configure_optimizers=False,
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """A parser that raises what users are meant to see."""
        self.parser_class = TideParser
        return super().init_parser(**kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The run folder, the callbacks that every run has, and what links data and model."""
        parser.add_argument("--run_name", type=str, default="tide", help="Folder of this run below --runs.")
        parser.add_argument("--runs", type=str, default="runs", help="Folder of all runs.")
        parser.add_argument(
            "--matmul_precision",
            type=Literal["highest", "high", "medium"],
            default="highest",
            help="How exact float32 products are; medium is TF32 or bfloat16 on GPUs, often exact but faster on CPUs.",
        )
        parser.link_arguments("data.site_shapes", "model.sites", apply_on="instantiate")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults({"checkpoint.save_last": True, "checkpoint.every_n_train_steps": 500})
        parser.add_lightning_class_args(ExportSAEs, "export")
        parser.add_lightning_class_args(ShowProgress, "progress")

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand != "fit":
            help_text = "Run folder to look at; the newest unless given."
            parser.add_argument("--run", type=str | None, default=None, help=help_text)
        if subcommand == "predict":
            parser.add_lightning_class_args(WriteCodes, "codes")
        if subcommand == "test":
            parser.add_lightning_class_args(EvaluateProtocol, "evaluation")
        else:  # a run's config.yaml says how it wants to be tested
            parser.add_class_arguments(EvaluateProtocol, "evaluation", instantiate=False)
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; Lightning's own version warns where a program gives arguments."""
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """What the user writes wins over what a checkpoint remembers, so nothing is read from it."""

    def before_instantiate_classes(self) -> None:
        """Find the run folder and the checkpoint."""
        config = self.config[self.config.subcommand]
        torch.set_float32_matmul_precision(config.matmul_precision)
        root, name, checkpoint = Path(config.runs).absolute(), config.run_name, config.ckpt_path
        if self.config.subcommand == "fit":
            self.run_folder = new_run(root, name)
            if checkpoint == "last":
                run = newest_run(root, name)
                found = last_checkpoint(run) if run else None
                if run is None or found is None:
                    raise UserError(
                        f"--ckpt_path last: {root / name} holds no run with a checkpoint; leave it out to start"
                    )
                self.run_folder, config.ckpt_path = run, str(found)
        elif config.run:
            self.run_folder = Path(config.run).absolute()
        else:
            self.run_folder = new_run(root, name)
        if config.ckpt_path:
            check_checkpoint(Path(config.ckpt_path))
        if self.config.subcommand == "test":
            config.evaluation.run_folder = str(self.run_folder)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A trainer that logs into the run folder."""
        if self._get(self.config_init, "trainer").get("logger") in (None, True):
            run = self.run_folder
            kwargs["logger"] = TensorBoardLogger(
                run.parent.parent, name=run.parent.name, version=run.name, default_hp_metric=False
            )
        return super().instantiate_trainer(**kwargs)


def main(args: list[str] | None = None) -> int:
    """Run `tide` and return its exit code: 0, or 2 for a mistake that was told in one line."""
    debug = os.environ.get("TIDE_DEBUG") == "1"
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.INFO if debug else logging.WARNING)
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning's own calls
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`")  # Lightning's, with torch >= 2.9
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")  # resuming in place
    try:
        TideCLI(follow_run(resolve_configs(sys.argv[1:] if args is None else args)))
    except (UserError, MisconfigurationException) as error:
        if debug:
            raise
        print(f"tide: error: {_one_line(str(error))}", file=sys.stderr)
        return 2
    finally:
        forget_stamp()
    return 0


def entry_point() -> NoReturn:
    """The console script."""
    sys.exit(main())


def _one_line(message: str) -> str:
    return " ".join(message.split())
