"""No word of ours stands in README without being explained."""

from __future__ import annotations

from tools.documentation.terms import GLOSSARY, README, ROOT, glossary_terms, known_names, used_terms

PAGE = """# Glossary

site
:   A place of the network.

TopK, BatchTopK
:   Sparsity.
"""


def defined(text: str) -> dict[str, str | None]:
    return {term.text: term.defined for term in used_terms(text, PAGE, {"fit", "data", "sites"})}


def test_the_glossary_is_read() -> None:
    assert glossary_terms(PAGE) == ["site", "TopK", "BatchTopK"]


def test_a_term_is_defined_where_it_first_stands_or_in_the_glossary() -> None:
    assert defined("Each site is read.") == {"site": None}
    assert defined("Each site (a place of the network) is read.") == {"site": "README.md:1"}
    assert defined("Sites are what is read.") == {"site": "README.md:1"}
    assert defined("We read a site.\n\nA site is a place.") == {"site": None}
    assert defined("We read a site. [Words](docs/reference/glossary.md)") == {"site": GLOSSARY}
    assert defined("```\ntide sites\n```\n") == {}


def test_a_name_in_backticks_has_to_exist() -> None:
    assert defined("Set `data.sites`, then `fit`.") == {}
    assert defined("Set `data.nowhere`.") == {"`data.nowhere`": None}


def test_readme_uses_no_undefined_term() -> None:
    terms = list(used_terms(README.read_text(), (ROOT / GLOSSARY).read_text(), known_names()))
    assert len(terms) > 5
    undefined = [f"README.md:{term.line}: {term.text}" for term in terms if term.defined is None]
    assert not undefined, f"explain where it first stands, or in {GLOSSARY}, and link to that page: {undefined}"
