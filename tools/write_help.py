"""Write what `--help` prints of the commands that take YAML: `python -m tools.write_help`, after options change."""

from __future__ import annotations

import json
from pathlib import Path

from tide_lightning.commands import LIGHTNING, LOOKS
from tide_lightning.commands import help as short
from tide_lightning.commands.described import sections_of
from tools.parsers import parser_of


def main() -> None:
    """Write it where `tide_lightning.commands.help` reads it."""
    told = {command: sections_of(command, parser_of(command)) for command in LIGHTNING | LOOKS}
    text = json.dumps(told, ensure_ascii=False).replace('], ["', '],\n["')  # a line an option
    Path(short.__file__).with_name(short.STORED).write_text(f"{text}\n", "utf-8")


if __name__ == "__main__":
    main()
