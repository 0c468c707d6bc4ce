"""`tide`: fit, validate, test, predict, sites and plan, composed from YAML by LightningCLI; and other commands."""

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
from tide_lightning.command_line import FOLLOWING, follow_run, raise_flags, resolve_configs
from tide_lightning.commands import COMMANDS, TideParser, run_command
from tide_lightning.datamodules import ActivationDataModule
from tide_lightning.errors import UserError
from tide_lightning.evaluation import EvaluateProtocol
from tide_lightning.planning import (
    GPUS,
    Assumed,
    gpu,
    measure_sites,
    plan_run,
    print_plan,
    print_sites,
    this_machine,
)
from tide_lightning.runs import (
    check_checkpoint,
    forget_stamp,
    last_checkpoint,
    new_run,
    newest_run,
    point_latest,
)
from tide_lightning.tokens import SiteShape
from tide_lightning.training import TideModule


class SaveRunConfig(SaveConfigCallback):
    """Writes the run's config.yaml at the start of a fit and lets `latest` point to the run."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save for a fit only: a test must not touch the run's config."""
        if stage == "fit":
            self._run_folder = trainer.log_dir  # here, where all ranks are: the answer is a broadcast
            super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Rank 0 has written config.yaml."""
        assert self._run_folder is not None
        point_latest(Path(self._run_folder))


class TideTrainer(Trainer):
    """Lightning's trainer, and two looks at what a configuration means: they train nothing and write nothing."""

    def sites(self, model: TideModule, datamodule: ActivationDataModule, measure: bool = False) -> None:
        """Print the sites with their shapes.

        Args:
            model: takes no part.
            datamodule: names the sites.
            measure: also run the denoiser over the calibration samples, and print what the activations are like and
                how much of their variance each rung of the known part explains.
        """
        datamodule.trainer = self
        shapes = {site: SiteShape.of(sizes) for site, sizes in datamodule.site_shapes.items()}
        print_sites(shapes, measure_sites(datamodule, shapes) if measure else None)

    def plan(
        self,
        model: TideModule,
        datamodule: ActivationDataModule,
        steps: int,
        precision: str,
        sharded: bool,
        ranks: int | None = None,
        machines: list[str] | None = None,
        here: bool = False,
        assumed: Assumed = Assumed(),  # noqa: B008 - immutable
    ) -> None:
        """Print what a fit will cost: memory, operations, time on named GPUs, communication.

        Args:
            model: may be without weights.
            datamodule: not set up.
            steps: optimiser steps.
            precision: of the trainer.
            sharded: whether its strategy lets each rank hold a share of the latents.
            ranks: GPUs in all; the trainer's devices times num_nodes unless given.
            machines: GPUs to reckon with; all those known unless given.
            here: measure this machine (a second), and reckon with it too.
            assumed: what part of their peaks machines reach.
        """
        chosen = list(GPUS.values()) if machines is None else [gpu(name) for name in machines]
        if here:
            chosen.append(this_machine(self.strategy.root_device))
        ranks = 1 if ranks is None else ranks
        plan = plan_run(datamodule, model, steps=steps, ranks=ranks, precision=precision, sharded=sharded)
        print_plan(plan, chosen, assumed)


LOOKS = ("sites", "plan")
"""Subcommands that only look at a configuration."""


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
            trainer_class=TideTrainer,
            seed_everything_default=0,
            trainer_defaults={"enable_model_summary": False},
            auto_configure_optimizers=False,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's, and the looks; with the arguments that users do not give."""
        skipped = {"model", "datamodule", "steps", "precision", "sharded"}
        return LightningCLI.subcommands() | dict.fromkeys(LOOKS, skipped)

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """A parser that raises what users are meant to see."""
        self.parser_class = TideParser
        return super().init_parser(**kwargs)

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        """Lightning's; the others are only listed, for `main` runs them."""
        super()._add_subcommands(parser, **kwargs)
        assert isinstance(parser, TideParser)
        parser.list_commands()

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
        if subcommand in FOLLOWING:
            help_text = "Run folder to look at; the newest unless given."
            parser.add_argument("--run", type=str | None, default=None, help=help_text)
        if subcommand == "predict":
            parser.add_lightning_class_args(WriteCodes, "codes")
        if subcommand == "test":
            parser.add_lightning_class_args(EvaluateProtocol, "evaluation")
            help_text = "Minutes that the test may take; short for --evaluation.budget."
            parser.add_argument("--budget", type=float | None, default=None, help=help_text)
        else:  # a run's config.yaml says how it wants to be tested
            parser.add_class_arguments(EvaluateProtocol, "evaluation", instantiate=False)
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; Lightning's own version warns where a program gives arguments."""
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """What the user writes wins over what a checkpoint remembers, so nothing is read from it."""

    def _add_instantiators(self) -> None:
        """A look needs no weights: they stay on the meta device."""
        super()._add_instantiators()
        if self.config.subcommand in LOOKS:
            self.parser.add_instantiator(_without_weights, TideModule, subclasses=False, prepend=True)

    def before_instantiate_classes(self) -> None:
        """Find the run folder and the checkpoint."""
        config = self.config[self.config.subcommand]
        torch.set_float32_matmul_precision(config.matmul_precision)
        if self.config.subcommand in LOOKS:
            return
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
            config.evaluation.budget = config.evaluation.budget if config.budget is None else config.budget

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A trainer that logs into the run folder; for a look, one that fits this machine and not the configured."""
        if self.subcommand in LOOKS:
            return TideTrainer(devices=1, max_steps=0, logger=False, enable_checkpointing=False)
        if self._get(self.config_init, "trainer").get("logger") in (None, True):
            run = self.run_folder
            kwargs["logger"] = TensorBoardLogger(
                run.parent.parent, name=run.parent.name, version=run.name, default_hp_metric=False
            )
        return super().instantiate_trainer(**kwargs)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        if subcommand == "plan":
            trainer = self.config.plan.trainer
            epochs = trainer.max_epochs or -1
            steps = epochs * self.datamodule.batches_per_epoch if trainer.max_steps < 0 < epochs else trainer.max_steps
            kwargs |= {"steps": steps, "precision": str(trainer.precision or "32-true")}
            kwargs["sharded"] = "ModelParallelStrategy" in str(trainer.strategy)
            if kwargs["ranks"] is None:
                kwargs["ranks"] = _num_devices(trainer.devices) * trainer.num_nodes
        return kwargs


def _num_devices(devices: int | str | list[int]) -> int:
    """How many a trainer is told to use; 1 where it shall find out ("auto", -1)."""
    if isinstance(devices, list):
        return len(devices)
    if "," in str(devices):
        return len([name for name in str(devices).split(",") if name])
    return max(1, int(devices)) if str(devices).lstrip("-").isdigit() else 1


def _without_weights(class_type: type[TideModule], *args: Any, **kwargs: Any) -> TideModule:
    kwargs.pop("applied_instantiation_links", None)
    with torch.device("meta"):
        return class_type(*args, **kwargs)


def main(args: list[str] | None = None) -> int:
    """Run `tide` and return its exit code: 0, or 2 for a mistake that was told in one line."""
    debug = os.environ.get("TIDE_DEBUG") == "1"
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.INFO if debug else logging.WARNING)
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning's own calls
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`")  # Lightning's, with torch >= 2.9
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")  # resuming in place
    warnings.filterwarnings("ignore", message="It is recommended to use `self.log")  # figures are sums of all ranks
    args = sys.argv[1:] if args is None else args
    try:
        if args and args[0] in COMMANDS:
            run_command(args[0], args[1:])
        else:
            TideCLI(follow_run(resolve_configs(raise_flags(args))))
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
    code = main()
    if torch.distributed.is_initialized():  # gloo's threads now and then abort a process that ends with them
        torch.distributed.destroy_process_group()
    sys.exit(code)


def _one_line(message: str) -> str:
    return " ".join(message.split())
