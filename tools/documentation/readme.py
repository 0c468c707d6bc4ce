"""What README tells people to type: its fenced blocks, and which of them a test leaves out, and why.

A comment before a block leaves it out, or single lines of it by how they begin:

    <!-- not run: REASON -->
    <!-- not run `tide play`: REASON -->
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
SHELLS = {"", "bash", "sh", "shell", "console"}
_COMMENT = re.compile(r"<!-- not run(?: `(?P<beginning>[^`]+)`)?: (?P<reason>.+?) -->")


@dataclass
class Block:
    """A fenced block.

    Args:
        language: what stands behind the fence.
        line: the first line of its text in README.
        text: what is in it.
        left_out: the reason for which the block is not run; none where it is.
        without: reasons, by how the lines that are not run begin.
    """

    language: str
    line: int
    text: str
    left_out: str | None = None
    without: dict[str, str] = field(default_factory=dict)

    @property
    def script(self) -> str:
        """The block as a shell script, without the lines that are left out."""
        commands = re.sub(r" *\\\n\s*", " ", self.text).splitlines()
        kept = [line.removeprefix("$ ") for line in commands if not any(line.startswith(one) for one in self.without)]
        return "\n".join(kept)


def blocks(text: str) -> list[Block]:
    """All fenced blocks of a page, with what the comments right before them say."""
    found: list[Block] = []
    comments: list[re.Match[str]] = []
    opened: Block | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if opened is None and line.startswith("```"):
            opened = Block(line[3:].strip(), number + 1, "")
            for one in comments:
                if one["beginning"] is None:
                    opened.left_out = one["reason"]
                else:
                    opened.without[one["beginning"]] = one["reason"]
        elif opened is not None and line.startswith("```"):
            found.append(opened)
            opened, comments = None, []
        elif opened is not None:
            opened.text += line + "\n"
        elif comment := _COMMENT.fullmatch(line.strip()):
            comments.append(comment)
        elif line.strip():
            comments = []
    return found
