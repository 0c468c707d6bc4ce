"""The commands of `tide`, by name. Nothing is imported here: each command imports what it uses when it is given."""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """A command that is a function ("module:name") and no more, with a line about it.

    Its signature is its command line. Parameters without a default are positional, `*runs: str` takes one or more, a
    `bool` with default False is a flag that needs no value; the docstring is the help.
    """

    function: str
    help: str


LIGHTNING = {
    "fit": "Train SAEs at the sites that a config names.",
    "validate": "Measure a run's reconstruction on its validation tokens.",
    "test": "Measure a run on held-out samples; write metrics.json and a report.",
    "predict": "Write the codes of held-out samples to disk.",
}
"""Methods of Lightning's trainer, which take a run's YAML."""

LOOKS = {
    "sites": "Print the sites of a config, with their shapes.",
    "plan": "Print what a fit would cost.",
}
"""What a config means: these train nothing and write nothing."""

COMMANDS: dict[str, Command] = {
    "adopt": Command("tide_lightning.sharing.adopting:adopt", "Make a run of other people's SAEs."),
    "atlas": Command("tide_lightning.explore.atlas.build:atlas", "Show every latent: images, times, words."),
    "compare": Command("tide_lightning.evaluation.comparison.command:compare", "Set tested runs beside each other."),
    "erase": Command("tide_lightning.explore.erasure_command:erase_concept", "Suppress a concept; see the cost."),
    "export": Command("tide_lightning.sharing.exporting:export", "Write SAEs for other libraries."),
    "find": Command("tide_lightning.explore.find_command:find", "Find latents by words, prompts or images."),
    "play": Command("tide_lightning.explore.play.command:play", "Open a local page to search and steer latents."),
    "publish": Command("tide_lightning.sharing.publishing:publish", "Publish a run on the hub, with a model card."),
    "steer": Command("tide_lightning.explore.steer_command:steer_run", "Steer latents; see what changes."),
    "style": Command("tide_lightning.explore.style_command:transfer", "Draw a prompt in another's style."),
    "tensorboard": Command("tide_lightning.board:tensorboard", "Show all runs in TensorBoard, each once."),
}


def every_command() -> dict[str, str]:
    """A line about each command, by its name."""
    return LIGHTNING | LOOKS | {name: command.help for name, command in COMMANDS.items()}
