"""What `tide` says where no command is named: `--help`, `--version`, and mistakes. It imports nothing heavy."""

from __future__ import annotations

from tide_lightning import __version__
from tide_lightning.commands import every_command
from tide_lightning.errors import UserError
from tide_lightning.near import did_you_mean

_CHAPTERS = {
    "Train and measure": ("fit", "validate", "test", "predict", "tensorboard", "compare"),
    "Before a fit": ("sites", "plan"),
    "Look at latents and steer with them": ("find", "atlas", "steer", "play", "style", "erase"),
    "Share": ("adopt", "export", "publish"),
}

_BEGIN = """\
First steps, on a miniature model that comes along (no GPU, no download):
  tide find quickstart red                search SAEs that come with the package
  tide fit --config quickstart            train your own, in minutes; then: tide test"""


def explain(args: list[str]) -> None:
    """Answer `--help` and `--version`; anything else is a mistake."""
    name = args[0] if args else ""
    if name == "--version":
        print(f"tide {__version__}")
    elif name in ("--help", "-h", "help"):
        print(overview())
    elif not name:
        raise UserError(f"name a command ({', '.join(every_command())}), or see `tide --help`")
    elif name.startswith("-"):
        raise UserError(f"{name} stands where a command belongs: tide COMMAND {name} …; see `tide --help`")
    else:
        known = every_command()
        raise UserError(f"there is no command {name!r}{did_you_mean(name, known)} There are {', '.join(known)}")


def overview() -> str:
    """All commands by what they are for."""
    lines = every_command()
    listed = {name for names in _CHAPTERS.values() for name in names}
    chapters = {**_CHAPTERS, "Others": tuple(name for name in lines if name not in listed)}
    text = ["usage: tide COMMAND [OPTIONS]", "", "Sparse autoencoders for diffusion transformers.", ""]
    for title, names in chapters.items():
        if names:
            text += [title, *(f"  {name:<13}{lines[name]}" for name in names), ""]
    return "\n".join([*text, "tide COMMAND --help explains a command; tide --version tells the version.", "", _BEGIN])
