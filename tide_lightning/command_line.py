"""What `tide` makes of its arguments before they are parsed: configs by name, the run meant, code beside it."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from tide_lightning.errors import UserError
from tide_lightning.near import did_you_mean
from tide_lightning.runs import find_run, is_from_the_hub, newest_run, run_of_checkpoint, to_write_in
from tide_lightning.trust import check_classes, check_files, check_writing
from tide_lightning.yaml_text import check_yaml, read_yaml

FOLLOWING = ("validate", "test", "predict")
"""Subcommands that look at a finished run."""

FLAGS = ("--measure", "--here", "--trust")
"""Options that need no value."""


def raise_flags(args: list[str], flags: tuple[str, ...] = FLAGS) -> list[str]:
    """Give flags that stand alone their value."""
    followed = [*args[1:], "--"] if args else []
    return [
        f"{arg}=true" if arg in flags and following not in ("true", "false") else arg
        for arg, following in zip(args, followed, strict=True)
    ]


def packaged_configs() -> dict[str, Path]:
    """The configs that come with the package, by name."""
    folder = Path(str(files("tide_lightning"))) / "configs"
    return {str(path.relative_to(folder).with_suffix("")): path for path in sorted(folder.rglob("*.yaml"))}


def resolve_configs(args: list[str]) -> list[str]:
    """Replace `--config NAME` by the path of the packaged config, unless a file of that name is there.

    What is no YAML is refused here: a parser would spin for ever over an alias that refers to itself.
    """
    resolved = list(args)
    for option in args:
        if "&" in option and "*" in option:  # values are YAML, too
            check_yaml(option.partition("=")[2] or option, option.partition("=")[0])
    for place, value in _values(args, "--config", "-c"):
        path = config_path(value)
        read_yaml(path, f"--config {value}")
        if "=" in args[place]:
            resolved[place] = f"{args[place].split('=', 1)[0]}={path}"
        else:
            resolved[place + 1] = str(path)
    return resolved


def code_folders(args: list[str]) -> list[Path]:
    """Where class paths may name the user's own files: the working directory, and the folders of the configs given."""
    return [Path(), *(Path(value).parent for _, value in _values(args, "--config", "-c"))]


def follow_run(args: list[str]) -> list[str]:
    """Put the config and last checkpoint of the run that is meant before what the user wrote.

    The run is the one named by `--run`, the one that `--ckpt_path` lies in, the newest of the name in the user's
    own config, or the newest of all. What the user wrote comes later and so wins.
    """
    if not args or args[0] not in FOLLOWING or _asks_only(args):
        return args
    from tide_lightning.training.checkpoints import last_checkpoint  # and with it PyTorch

    trusted = _last(args, "--trust") == "true"
    subcommand, *rest = (arg for arg in args if not arg.startswith("--trust="))
    root = Path(_last(rest, "--runs") or "runs")
    run_given, checkpoint = _last(rest, "--run"), _last(rest, "--ckpt_path")
    run: Path | None
    if run_given:
        run = to_write_in(find_run(Path(run_given), root), root)
    elif checkpoint and checkpoint != "last":
        run = run_of_checkpoint(Path(checkpoint))
        if run is None:
            return args
    else:
        name = _last(rest, "--run_name") or _run_name_in_config(rest)
        run = newest_run(root, name)
        if run is None:
            where = (root / name if name else root).absolute()  # whoever is in another folder shall see it
            raise UserError(f"{where}: no run there to {subcommand}; make one with `tide fit --config …`")
    if is_from_the_hub(run) and not trusted:
        _check_stranger(run)
    follow = ["--config", str(run / "config.yaml")]
    if checkpoint is None or checkpoint == "last":
        found = last_checkpoint(run)
        if found is not None:
            rest = [*rest, "--ckpt_path", str(found)]
        elif checkpoint is None and any((run / "saes").glob("*/cfg.json")):  # adopted, or published without
            follow += ["--model.pretrained", str(run / "saes")]
        else:
            raise UserError(f"{run / 'checkpoints'}: no checkpoint there; has the fit got that far?")
    return [subcommand, *follow, *rest, "--run", str(run)]


def needs_config(args: list[str]) -> None:
    """Say how to begin where a command that needs a config is given none."""
    command, rest = args[0], args[1:]
    if command in FOLLOWING or _asks_only(rest) or any(arg.startswith(("--config", "-c", "--data")) for arg in rest):
        return
    if rest and not rest[0].startswith("-"):
        raise UserError(f"{rest[0]!r} stands alone; did you mean `tide {command} --config {rest[0]}`?")
    raise UserError(
        f"tide {command} needs a config: try `tide {command} --config quickstart`, on a miniature model that comes "
        f"along. There are {', '.join(packaged_configs())}, or your own YAML file; see `tide {command} --help`"
    )


def _asks_only(args: list[str]) -> bool:
    """Whether a question is asked instead of something done."""
    return any(arg in ("--help", "-h", "--help_all", "--print_config") or arg.endswith(".help") for arg in args)


def _check_stranger(run: Path) -> None:
    """Refuse a run from the hub whose config would import, read or write what is not its own."""
    config = read_yaml(run / "config.yaml", str(run / "config.yaml"))
    if isinstance(config, dict):
        check_classes(config, run)
        check_writing(config, run)
        if isinstance(config.get("data"), dict):
            check_files(config["data"], run)


def config_path(value: str) -> Path:
    """The file that is meant by a path or the name of a packaged config."""
    path, known = Path(value), packaged_configs()
    if "\0" in value:
        raise UserError(f"--config {value!r}: no path may hold a NUL")
    if path.is_file():
        return path
    if value in known:
        return known[value]
    raise UserError(
        f"--config {value}: neither a file nor one of the packaged configs{did_you_mean(value, known)} "
        f"There are {', '.join(known)}"
    )


def _run_name_in_config(args: list[str]) -> str | None:
    values = _values(args, "--config", "-c")
    if not values:
        return None
    config = read_yaml(Path(values[-1][1]), f"--config {values[-1][1]}")
    return str(config.get("run_name", "tide")) if isinstance(config, dict) else "tide"


def _values(args: list[str], *names: str) -> list[tuple[int, str]]:
    """Where each option of these names stands, and its value."""
    found = []
    for place, arg in enumerate(args):
        if arg in names and place + 1 < len(args):
            found.append((place, args[place + 1]))
        elif "=" in arg and arg.split("=", 1)[0] in names:
            found.append((place, arg.split("=", 1)[1]))
    return found


def _last(args: list[str], name: str) -> str | None:
    values = _values(args, name)
    return values[-1][1] if values else None
