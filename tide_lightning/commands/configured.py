"""The commands that take a run's YAML: fit, validate, test and predict by LightningCLI, and two looks at the same."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import Trainer
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import Dataset

from tide_lightning.accelerators import Taken, gpu_here, take
from tide_lightning.agreement import agree_on
from tide_lightning.callbacks import EndTogether, ExportSAEs, LeaveCheckpoint, ShowProgress, WriteCodes
from tide_lightning.command_line import FOLLOWING, follow_run, raise_flags, resolve_configs
from tide_lightning.commands import LIGHTNING, LOOKS
from tide_lightning.commands.closing import last_line
from tide_lightning.commands.logger import RunLogger
from tide_lightning.commands.parsing import OneLineErrors, shortened
from tide_lightning.datamodules import ActivationDataModule
from tide_lightning.errors import ToldElsewhereError, UserError
from tide_lightning.evaluation import EvaluateProtocol, KeepFloors
from tide_lightning.planning.commands import UnreadImages, plan, sites
from tide_lightning.runs import check_name, new_run, newest_run, point_latest
from tide_lightning.stopping import Stopped, stoppable
from tide_lightning.training import TideModule
from tide_lightning.training.checkpoints import WholeCheckpointIO, last_checkpoint, remove_unfinished, what_is_wrong
from tide_lightning.yaml_text import check_groups, check_options, check_settings

_SAID_BY_CLASSES = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,  # of PyTorch, also where memory is short
    TypeError,
    ValueError,
)


def run_configured(args: list[str]) -> None:
    """Run a command of `LIGHTNING` or `LOOKS` with its arguments."""
    debug = os.environ.get("TIDE_DEBUG") == "1"
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.INFO if debug else logging.WARNING)
    command, *rest = follow_run(resolve_configs(raise_flags(args)))
    with stoppable() as stop:
        ending = EndTogether(stop)
        try:
            TideCLI(command, rest, ending).run()
        except Stopped as stopped:
            stopped.is_told = stopped.by_all and not ending.speaks
            raise
        except Exception as error:
            if (ended := ending.who_ended(error)) is not None:
                raise (UserError if ending.speaks else ToldElsewhereError)(str(ended)) from error
            raise
        finally:
            ending.leave()


class ConfigParser(OneLineErrors, LightningArgumentParser):
    """A parser whose complaints are one line."""


class SaveRunConfig(SaveConfigCallback):
    """Compares the ranks' settings; at the start of a fit writes its config.yaml and lets `latest` point to it."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save for a fit only: a test must not touch the run's config."""
        settings = self.config.as_dict()
        settings.get("evaluation", {}).pop("run_folder", None)  # each rank's own clock may be in its name
        agree_on(settings)
        if stage == "fit":
            self._run_folder = trainer.log_dir  # here, where all ranks are: the answer is a broadcast
            super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Rank 0 has written config.yaml."""
        assert self._run_folder is not None
        remove_unfinished(Path(self._run_folder))
        point_latest(Path(self._run_folder))


class TideCLI(LightningCLI):
    """A command that takes YAML: its parser, and the trainer, module and datamodule that are configured.

    `ending` is how this run ends when it is not by itself; None where nothing is run.
    """

    run_folder: Path

    def __init__(self, command: str, args: list[str], ending: EndTogether | None = None) -> None:
        self.command, self.ending = command, ending
        super().__init__(
            TideModule,
            ActivationDataModule,
            args=args,
            run=False,
            parser_class=ConfigParser,
            parser_kwargs={
                "prog": f"tide {command}",
                "description": (LIGHTNING | LOOKS)[command],
                "allow_abbrev": False,  # a misspelt option shall not pass for another
            },
            save_config_callback=SaveRunConfig,
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
            trainer_defaults={"enable_model_summary": False, "callbacks": [LeaveCheckpoint(), KeepFloors()]},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,  # checkpoints hold primitives only
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The run folder, the callbacks that every run has, what links data and model; and the command's own."""
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
        parser.set_defaults({"checkpoint.enable_version_counter": False})  # a moved run has one last.ckpt, too
        parser.add_lightning_class_args(ExportSAEs, "export")
        parser.add_lightning_class_args(ShowProgress, "progress")
        if self.command in LIGHTNING:
            skipped = LightningCLI.subcommands()[self.command]
            self._given = parser.add_method_arguments(Trainer, self.command, skip=set(skipped))
        else:
            look = sites if self.command == "sites" else plan
            self._given = parser.add_function_arguments(look, skip={"data", "module", "trainer"})
            parser.add_instantiator(_without_weights, TideModule, subclasses=False, prepend=True)
            parser.add_instantiator(_if_they_are_there, Dataset, subclasses=True, prepend=True)
        if self.command in FOLLOWING:
            help_text = "Run folder to look at; the newest unless given."
            parser.add_argument("--run", type=str | None, default=None, help=help_text)
            help_text = "Let a run from the hub import classes that are not this package's, and use files elsewhere."
            parser.add_argument("--trust", type=bool, default=False, help=help_text)
        if self.command == "predict":
            parser.add_lightning_class_args(WriteCodes, "codes")
        if self.command == "test":
            parser.add_lightning_class_args(EvaluateProtocol, "evaluation")
            help_text = "Minutes that the test may take; short for --evaluation.budget."
            parser.add_argument("--budget", type=float | None, default=None, help=help_text)
        else:  # a run's config.yaml says how it wants to be tested
            parser.add_class_arguments(EvaluateProtocol, "evaluation", instantiate=False)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, or list every option; Lightning's version warns where a program gives arguments."""
        if "--help_all" in args:
            parser.print_help()
            raise SystemExit(0)
        try:
            self.config = parser.parse_args(args)
        except RecursionError as error:
            raise UserError("the config cannot be read: a value is nested too deeply") from error
        except (AttributeError, TypeError, ValueError) as error:  # of jsonargparse, for values of odd types
            raise UserError(f"the config cannot be read: {shortened(str(error))}") from error

    def instantiate_classes(self) -> None:
        """Build everything; what a class says of its arguments, in whatever way, is a mistake in the config."""
        try:
            super().instantiate_classes()
        except _SAID_BY_CLASSES as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, UserError):
                cause = cause.__cause__
            if cause is not None:
                raise
            said = shortened(str(error)) or type(error).__name__
            raise UserError(f"the config cannot be built: {said}; TIDE_DEBUG=1 shows where") from error

    def before_instantiate_classes(self) -> None:
        """Refuse what cannot be meant; find the run folder and the checkpoint."""
        config = self.config
        for name in ("trainer", "data", "model"):
            check_options(config[name], name)
        check_settings(config.as_dict())
        check_groups(ActivationDataModule, config.data, "data.")
        if config.matmul_precision is None:
            raise UserError("matmul_precision is empty: take highest, high or medium, or leave it out")
        torch.set_float32_matmul_precision(config.matmul_precision)
        if self.command in LOOKS:
            _leave_out_prompts(config)
            return
        if str(config.trainer.precision) in ("16", "16-mixed") and config.trainer.gradient_clip_val:
            raise UserError(
                f"--trainer.precision {config.trainer.precision} cannot clip gradients, which it keeps scaled until "
                "the step: take bf16-mixed, or leave trainer.gradient_clip_val out"
            )
        root, name = Path(config.runs).absolute(), check_name(config.run_name)
        if self.command == "fit" and config.ckpt_path == "last":
            run = newest_run(root, name)
            found = last_checkpoint(run) if run else None
            if run is None or found is None:
                raise UserError(
                    f"--ckpt_path last: {root / name} holds no run with a checkpoint; leave it out to start"
                )
            self.run_folder, config.ckpt_path = run, str(found)
        elif config.ckpt_path and (fault := what_is_wrong(Path(config.ckpt_path))) is not None:
            raise UserError(f"--ckpt_path {config.ckpt_path}: {fault}; use another one of the same folder")
        elif self.command != "fit" and config.run:
            self.run_folder = Path(config.run).absolute()
        else:
            self.run_folder = new_run(root, name)
        if self.command == "test":
            config.evaluation.run_folder = str(self.run_folder)
            config.evaluation.budget = config.evaluation.budget if config.budget is None else config.budget

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A trainer that logs into the run folder; for a look, one that fits this machine and not the configured."""
        if self.command in LOOKS:
            return Trainer(devices=1, max_steps=0, logger=False, enable_checkpointing=False)
        loggers = self.config_init.trainer.logger
        if loggers is not False:  # the run folder's own comes first: what is logged elsewhere comes beside it
            run, others = self.run_folder, loggers if isinstance(loggers, list) else [loggers]
            own = RunLogger(run.parent.parent, name=run.parent.name, version=run.name, default_hp_metric=False)
            kwargs["logger"] = [own, *(logger for logger in others if isinstance(logger, Logger))]
        given = self.config_init.trainer.plugins or []
        plugins = given if isinstance(given, list) else [given]
        if (taken := self._taken()) is not None:
            kwargs["accelerator"] = taken.accelerator
            if self.command == "fit" and not any(isinstance(plugin, Precision) for plugin in plugins):
                kwargs["precision"] = taken.precision
                if taken.line:
                    rank_zero_only(print)(f"fit  {taken.line}", flush=True)
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            kwargs["plugins"] = [*plugins, WholeCheckpointIO()]
        trainer = super().instantiate_trainer(**kwargs)
        if self.ending is not None:  # the last, behind what keeps checkpoints
            trainer.callbacks.append(self.ending)  # type: ignore[attr-defined]
        return trainer

    def _taken(self) -> Taken | None:
        """What the configuration leaves open, settled by this machine; None for an accelerator of one's own."""
        trainer = self.config.trainer
        given = trainer.accelerator
        return take(given, trainer.precision and str(trainer.precision), gpu_here()) if isinstance(given, str) else None

    def run(self) -> None:
        """Do what the command says."""
        given = {name: self.config_init[name] for name in self._given}
        if self.command in LIGHTNING:
            self._run_trainer(given)
            return
        self.datamodule.trainer = self.trainer
        if self.command == "sites":
            sites(self.datamodule, **given)
        else:
            if (taken := self._taken()) is not None:
                self.config.trainer.precision = taken.precision
            plan(self.datamodule, self.model, self.config.trainer, **given)

    def _run_trainer(self, given: dict[str, Any]) -> None:
        """Run the trainer; say what a fit has left."""
        before = signal.getsignal(signal.SIGINT)
        is_interrupted = False
        try:
            getattr(self.trainer, self.command)(model=self.model, datamodule=self.datamodule, **given)
        except SystemExit:  # Lightning's way to end on Ctrl-C, with an ear shut to the next one
            if not self.trainer.interrupted:
                raise
            is_interrupted = True
            signal.signal(signal.SIGINT, before)
        if self.command == "fit" and self.trainer.is_global_zero:
            print(last_line(self.trainer, self.run_folder, is_interrupted), flush=True)
        if is_interrupted:
            raise KeyboardInterrupt


def _leave_out_prompts(config: Any) -> None:
    """A look reads prompts only where it measures activations; shapes and costs do not depend on them."""
    if config.data.prompts is not None and not config.get("measure"):
        config.data.prompts, config.data.heldout.prompts = ["one", "another"], None


def _if_they_are_there(class_type: type[Any], *args: Any, **kwargs: Any) -> Any:
    """A look goes on without images: their latents then count as more than the cache for them holds."""
    try:
        return class_type(*args, **kwargs)
    except UserError:
        return UnreadImages()


def _without_weights(class_type: type[TideModule], *args: Any, **kwargs: Any) -> TideModule:
    """A look needs no weights: they stay on the meta device."""
    kwargs.pop("applied_instantiation_links", None)
    with torch.device("meta"):
        return class_type(*args, **kwargs)
