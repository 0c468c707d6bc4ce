"""Run folders from strangers, opened and tested: none of their code runs, no file outside is read."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import huggingface_hub
import yaml

from benchmarks.faults.configs import TEXTS, VALUES
from benchmarks.faults.fits import Reference, fresh
from benchmarks.faults.trial import Child, Trial, judged
from tide_lightning.errors import UserError
from tide_lightning.explore import open_run

GOAL, SECONDS = 60, 300
SECRET = "a secret that no run has to know"


class Stranger(NamedTuple):
    """The run that a stranger's folder is made of, and what its config.yaml says."""

    run: Path
    config: dict[str, Any]


def prepare(reference: Reference, folder: Path) -> Stranger:
    """A run."""
    run = reference.run
    return Stranger(run, yaml.safe_load((run / "config.yaml").read_text("utf-8")))


def attempt(stranger: Stranger, draw: Random, folder: Path) -> Trial:
    """Put a trap into a run folder and open it."""
    fresh(folder)
    run = folder / "stranger" / "1"
    shutil.copytree(stranger.run, run, ignore=shutil.ignore_patterns("checkpoints", "events*"))
    ran = folder / "it-ran"
    for place in (run, folder):
        (place / "trap.py").write_text(f"open({str(ran)!r}, 'w').close()\n", encoding="utf-8")
    (folder / "secret.txt").write_text(f"{SECRET}\n" * 40, encoding="utf-8")
    config: dict[str, Any] = yaml.safe_load(yaml.safe_dump(stranger.config))
    kind = draw.choice(["class", "class", "prompts", "value", "text"])
    text, what = None, kind
    if kind == "class":
        what = _class_trap(config, draw)
    elif kind == "prompts":
        place = draw.choice([config["data"], config["data"]["heldout"]])
        place["prompts"] = draw.choice([str(folder / "secret.txt"), "../../secret.txt", "secret.txt", "/etc/passwd"])
        config["data"]["images"] = draw.choice([None, config["data"]["images"]])
        what = f"prompts: {place['prompts']}"
    elif kind == "value":
        key = draw.choice(sorted(config["data"]))
        config["data"][key] = draw.choice(VALUES)
        what = f"data.{key}: {config['data'][key]!r:.60}"
    else:
        text = draw.choice(TEXTS)
        what = f"a text {text!r:.50}"
    (run / "config.yaml").write_text(yaml.safe_dump(config) if text is None else text, encoding="utf-8")
    command = draw.choice(["open", "open", "test"])
    said = folder / "said"
    if command == "open":
        opened = Child([], folder, command=lambda _: _open(run, said))
    else:
        short = ["--evaluation.num_images=0", "--data.heldout.num_test_samples=4"]
        opened = Child(["test", "--run=some/body", *short], folder, lambda: _on_the_hub(run, folder))
    ended = opened.wait(60)
    trial = judged(ended, f"{command}: {what}")
    if ran.exists():
        return Trial("wrong", f"{command}: {what}: its code ran")
    if said.exists() and SECRET in said.read_text("utf-8"):
        return Trial("wrong", f"{command}: {what}: it read the secret")
    return trial._replace(sort=f"{command} {kind}")


def _class_trap(config: dict[str, Any], draw: Random) -> str:
    trap = {"class_path": "trap.Trap", "init_args": {}}
    where = draw.choice(["family", "images", "heldout", "callback", "sae", "logger", "plugin", "judge"])
    if where == "family":
        config["data"]["family"] = "trap.Trap"
    elif where == "images":
        config["data"]["images"] = trap
    elif where == "heldout":
        config["data"]["heldout"]["images"] = draw.choice([trap, "trap.Trap"])
    elif where == "callback":
        config["trainer"]["callbacks"] = [trap]
    elif where == "sae":
        config["model"]["sae"] = draw.choice([trap, "trap.Trap"])
    elif where == "judge":
        config["evaluation"]["features"] = trap
    else:
        config["trainer"]["plugins" if where == "plugin" else "logger"] = trap
    return f"a class in {where}"


def _open(run: Path, said: Path) -> int:
    """What `tide find` and the others do first, told as they tell it."""
    try:
        opened = open_run(run, device="cpu")
        said.write_text("\n".join([*opened.captions, *map(str, opened.saes)]), encoding="utf-8")
    except UserError as error:
        print(f"tide: error: {error}", file=sys.stderr)
        return 2
    return 0


def _on_the_hub(run: Path, folder: Path) -> None:
    """As if somebody had published this run, and the hub's cache had it; their module lies in the working directory."""
    repository, commit = folder / "hub" / "models--some--body", "0" * 40
    shutil.copytree(run, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit, encoding="utf-8")
    huggingface_hub.constants.HF_HUB_CACHE = str(folder / "hub")
