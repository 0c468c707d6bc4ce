"""Each term of ours that README uses, and where it is defined; exit code 1 if one is undefined.

    python -m tools.documentation.terms

Terms are those of docs/reference/glossary.md, whatever README emphasises, and every name in backticks. A term is
defined in README where the sentence in which it first stands explains it (emphasised, or with its explanation in
brackets, or "X is …"), else in the glossary, which README has then to link to; a name in backticks is a command, a
config, a key, a figure of metrics.json, a path, or something that Python imports.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
GLOSSARY = "docs/reference/glossary.md"
_ENDING = r"(?:s|es|ed)?"


class Term(NamedTuple):
    """A term that README uses.

    Fields:
        text: as the glossary or README has it.
        line: of README, on which it first stands.
        defined: where; None if nowhere.
    """

    text: str
    line: int
    defined: str | None


def glossary_terms(page: str) -> list[str]:
    """What a page of definitions defines; several names of one thing are separated by commas."""
    heads = re.findall(r"^(\S.*)\n:   ", page, re.MULTILINE)
    return [name.strip() for head in heads for name in head.split(",")]


def used_terms(readme: str, glossary: str, names: set[str]) -> Iterator[Term]:
    """The terms that a text uses, by where they first stand.

    Args:
        readme: the text.
        glossary: the page of definitions.
        names: what may stand in backticks without a definition.
    """
    prose = _without_code(readme)
    known = glossary_terms(glossary)
    linked = "reference/glossary" in readme
    found: list[Term] = []
    for term in known:
        pattern = re.compile(
            rf"(?<![\w/.-]){re.escape(term)}{_ENDING}(?![\w/-])", 0 if term.isupper() else re.IGNORECASE
        )
        if first := pattern.search(prose):
            line = _line(prose, first.start())
            where = f"README.md:{line}" if _explained(_sentence(prose, first.start()), first[0]) else None
            found.append(Term(term, line, where or (GLOSSARY if linked else None)))
    everything = {term.lower() for term in known}
    for emphasised in re.finditer(r"(?<![*\w])\*([^*\n]{2,40})\*(?!\*)", prose):
        term = emphasised[1]
        if term.lower() not in everything and len(term.split()) <= 3 and not term.endswith("."):
            line = _line(prose, emphasised.start())
            explained = _explained(_sentence(prose, emphasised.start()), emphasised[0])
            found.append(Term(term, line, f"README.md:{line}" if explained else None))
    found.extend(
        Term(f"`{name[1]}`", _line(prose, name.start()), None)
        for name in re.finditer(r"`([^`\n]+)`", prose)
        if not _is_name(name[1], names) and name[1].lower() not in everything
    )
    yield from sorted(found, key=lambda term: term.line)


def known_names() -> set[str]:
    """What a name in backticks may be: commands, configs, keys, figures."""
    from tide_lightning.commands import COMMANDS, LIGHTNING, LOOKS

    names = {*COMMANDS, *LIGHTNING, *LOOKS, "tide", "make"}
    names |= {str(path.relative_to(ROOT / "configs").with_suffix("")) for path in ROOT.glob("configs/**/*.yaml")}
    for page in ROOT.glob("docs/**/*.md"):  # keys and figures begin a table's or a list's lines
        for begin in re.findall(r"^[|-] ((?:`[^`]+`(?:, )?)+)", page.read_text(), re.MULTILINE):
            names |= set(re.findall(r"`([^`]+)`", begin))
    for path in [*ROOT.glob("tide_lightning/**/*.py"), *ROOT.glob("datamodules/*.py"), *ROOT.glob("callbacks/*.py")]:
        text = path.read_text()
        names |= set(re.findall(r"^\s+(\w+): (?=\S)", text, re.MULTILINE))  # arguments, in signatures and docstrings
        names |= set(re.findall(r"^\s*(?:class|def) (\w+)", text, re.MULTILINE))
    return names


def _is_name(text: str, names: set[str]) -> bool:
    words = text.split()
    first = words[0].lstrip("-").split("=")[0]
    parts = re.split(r"[.\[(:/]", first)
    return (
        text in names
        or first in names
        or (ROOT / words[0]).exists()
        or all(part in names or part.isdigit() or not part for part in parts)
        or words[0] in {"pip", "python", "git", "source", "tensorboard"}
        or bool(re.fullmatch(r"[\w./*<>-]*\.(?:json|html|md|png|yaml|txt|parquet|safetensors|py)", text))
        or text.startswith(("runs/", ".venv", "report/", "saes/", "checkpoints/"))
    )


def _explained(sentence: str, term: str) -> bool:
    """Whether a sentence says what the term in it is."""
    bare = re.escape(term.strip("*"))
    ways = (
        rf"\*+{bare}\*+",  # *term*: typographic for "is hereby defined"
        rf"{bare}\W*\([^)]+\)",  # term (what it is)
        rf"\([^)]*{bare}[^)]*\)",  # what it is (term)
        rf"{bare}\W* (?:is|are|means?|says?|rewrites?|turns?) (?:an?|the|what|how|whether|where|each|one|that)\b",
        rf"(?:called|named|or)[ *]+{bare}",
        rf"{bare}: ",
        rf"\[[^\]]*{bare}[^\]]*\]\(",  # a link
    )
    return any(re.search(way, sentence) for way in ways)


def _without_code(text: str) -> str:
    """The prose of a page, its lines kept: no fenced blocks, no comments, no addresses of images."""
    blank = lambda found: "\n" * found[0].count("\n")  # noqa: E731
    text = re.sub(r"^```.*?^```", blank, text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"<!--.*?-->", blank, text, flags=re.DOTALL)


def _sentence(text: str, at: int) -> str:
    begin = max(text.rfind(mark, 0, at) for mark in (". ", ".\n", "\n\n", "| "))
    ends = [end for mark in (". ", ".\n", "\n\n") if (end := text.find(mark, at)) >= 0]
    return " ".join(text[begin + 1 : min(ends, default=len(text)) + 1].split())


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def main() -> int:
    """Print the list."""
    terms = list(used_terms(README.read_text(), (ROOT / GLOSSARY).read_text(), known_names()))
    for term in terms:
        print(f"README.md:{term.line:<4} {term.text:32} {term.defined or 'UNDEFINED'}")
    undefined = [term.text for term in terms if term.defined is None]
    if undefined:
        print(f"undefined: {', '.join(undefined)}")
        print(f"Explain each where it first stands, or define it in {GLOSSARY} and link to that page.")
    return 1 if undefined else 0


if __name__ == "__main__":
    sys.exit(main())
