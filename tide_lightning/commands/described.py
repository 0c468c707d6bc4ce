"""What `--help` tells of the commands that take a run's YAML, from their parsers: by groups, ours first.

`python -m tools.write_help` puts it beside this module, for `help.py` to print; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jsonargparse import ArgumentParser

from tide_lightning.commands.help import Section
from tide_lightning.commands.parameters import Parameter, class_parameters, in_words, parameters_of
from tide_lightning.saes import TideSAE

_START = {
    "config": "a packaged config by its name, or a YAML file; of several a later one wins over an earlier one",
    "run": "run folder, or its name below --runs; the newest unless given",
    "ckpt_path": "a checkpoint to go on from; last takes the newest one of the newest run of this name",
    "run_name": "folder of this run below --runs",
    "runs": "folder of all runs",
    "budget": "minutes that the test may take",
    "seed_everything": "of the weights and of what the trainer draws; data.seed is that of the data",
    "matmul_precision": "how exact float32 products are; medium is TF32 or bfloat16 on GPUs",
    "measure": "also run the denoiser: what activations are like, and what the known part explains",
    "ranks": "GPUs in all; those of the trainer unless given",
    "machines": "GPUs to reckon with; all those known unless given",
    "here": "measure this machine (a second), and reckon with it too",
    "print_config": "print every setting as it stands after all that is given, and end",
}
"""What is asked of every command, or is its own."""

_TRAINER = {
    "max_steps": "optimiser steps; -1 for no end",
    "accelerator": "cpu, gpu, or auto",
    "devices": "how many of them on each machine, or auto",
    "num_nodes": "machines",
    "strategy": "ddp on several GPUs; configs/sharded.yaml spreads one SAE's latents over them",
    "precision": "bf16-mixed on GPUs, 32-true elsewhere; weights are float32 in both",
    "gradient_clip_val": "each SAE's gradient is clipped at this norm",
    "accumulate_grad_batches": "batches to a step",
    "log_every_n_steps": "steps between two figures in TensorBoard",
    "val_check_interval": "batches between two validations, or a part of an epoch",
    "callbacks": "a list of class_path and init_args: {callbacks}",
}
"""Those of Lightning's options that a fit of SAEs asks for, in our words."""

_CHECKPOINT = {
    "every_n_train_steps": "steps between two checkpoints; one more is written at the end, also after Ctrl-C",
    "save_top_k": "how many of them are kept besides the last; -1 keeps all",
}

_GROUPS = {
    "data": "Data: activations of a frozen denoiser, made on the fly",
    "model": "Training",
    "evaluation": "The test",
    "codes": "Codes on disk",
    "assumed": "Assumptions",
    "export": "Exported SAEs",
    "progress": "Progress",
}


def sections_of(command: str, parser: ArgumentParser) -> list[Section]:
    """What a user of SAEs asks of a command."""
    known = parameters_of(parser)
    start = {name: Parameter(name, None, None, about, False) for name, about in _START.items()}
    asked = [one._replace(default=known[one.key].default) if one.key in known else one for one in start.values()]
    there = {"config", "print_config", *known}
    found = [_section("", "--", [one for one in asked if one.key in there])]
    first = ["evaluation"] if command == "test" else ["codes"] if command == "predict" else []
    for group in [*first, "data", "model"]:
        found.append(_group(group, known))
        if group == "model":
            found.append(_of_sae())
    callbacks = "ResampleDeadLatents, MonitorFeatures, GroundBenchmark and others; --trainer.callbacks.help NAME"
    trainer = {name: about.format(callbacks=callbacks) for name, about in _TRAINER.items()}
    found.append(_section("Trainer", "--trainer.", _in_our_words("trainer", trainer, known)))
    if command == "fit":
        found.append(_section("Checkpoints", "--checkpoint.", _in_our_words("checkpoint", _CHECKPOINT, known)))
    found += [_group(group, known) for group in ("export", "progress", "assumed")]
    return [one for one in found if one.options]


def _group(name: str, known: dict[str, Parameter]) -> Section:
    """A group's own options, and a line for each group inside it."""
    prefix = f"{name}."
    own = [one for key, one in known.items() if key.startswith(prefix) and "." not in key[len(prefix) :]]
    rows = [one._replace(key=one.key[len(prefix) :]) for one in own if one.key != "evaluation.run_folder"]
    inner: dict[str, list[str]] = {}
    for key in known:
        head, _, rest = key[len(prefix) :].partition(".")
        if key.startswith(prefix) and rest:
            inner.setdefault(head, []).append(rest)
    rows += [Parameter(f"{head}.…", None, None, ", ".join(names), False) for head, names in inner.items()]
    return _section(_GROUPS.get(name, name), f"--{prefix}", rows)


def _of_sae() -> Section:
    title = "SAE: a TideSAE unless --model.sae names another class, whose options --model.sae.help NAME lists"
    return _section(title, "--model.sae.init_args.", class_parameters(TideSAE, 1).values())


def _in_our_words(group: str, words: dict[str, str], known: dict[str, Parameter]) -> list[Parameter]:
    rows = []
    for name, about in words.items():
        if (found := known.get(f"{group}.{name}")) is not None:
            rows.append(found._replace(key=name, help=about, hint=None))
    return rows


def _section(title: str, prefix: str, rows: Iterable[Parameter]) -> Section:
    return Section(title, prefix, [(one.key, one.help.rstrip(".") + _default(one)) for one in rows])


def _default(one: Parameter) -> str:
    """What stands behind the meaning: choices that it does not name, and the default."""
    said = []
    words = "" if one.hint is None else in_words(one.hint)
    if words.startswith("one of"):
        said.append(words.removeprefix("one of ").replace(" or null", ""))
    default: Any = one.default
    if isinstance(default, dict) and "class_path" in default:
        default = default["class_path"].rpartition(".")[2]
    if isinstance(default, float):
        default = f"{default:.4g}"
    if default is not None and default != "==SUPPRESS==":
        said.append(f"default {str(default).lower() if isinstance(default, bool) else default}")
    return f" ({'; '.join(said)})" if said else ""
