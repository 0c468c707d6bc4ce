"""Pages that set SAEs beside one another show what the summaries beside them hold, and the best rivals of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import ablation, alternatives
from benchmarks.pages import over_seeds, read
from benchmarks.pareto import ASIDE, OURS
from benchmarks.pareto_tables import comparison

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(
    ("page", "summary"), [("results/pareto.md", "pareto.json"), ("tutorials/photographs.md", "photos-pareto.json")]
)
def test_a_page_shows_what_was_measured(page: str, summary: str) -> None:
    (seeds,) = read(DOCS / "results" / "summaries" / summary)["pieces"].values()
    names = list(dict.fromkeys(name for rows in seeds.values() for name in rows))
    assert comparison(seeds, names, OURS, ASIDE) in (DOCS / page).read_text()


@pytest.mark.parametrize(
    ("summary", "names", "head"),
    [
        ("ablation.json", list(ablation.VARIANTS), "variant"),
        ("alternatives.json", alternatives.WAYS, "way to train"),
    ],
)
def test_the_ablation_shows_what_was_measured(summary: str, names: list[str], head: str) -> None:
    rows = read(DOCS / "results" / "summaries" / summary)
    assert over_seeds(rows, names, ablation.COLUMNS, head) in (DOCS / "results" / "ablation.md").read_text()


def test_the_best_rival_of_each_kind_is_shown_and_whichever_leads_a_column() -> None:
    def row(loss: float, f1: float) -> dict[str, Any]:
        return {"loss_increase_even": loss, "f1": f1}

    rows = {"tide": row(0.1, 0.5), "a": row(5, 0.4), "b": row(4, 0.3), "c-known": row(1, 0.4), "d-known": row(2, 0.6)}
    rows |= {"e-known": row(3, 0.5), "pca-k": row(0.05, 0.9)}
    table, said = comparison({"0": rows}, list(rows), "tide", {"pca-k"}).split("\n\n")
    assert [line.split()[1] for line in table.splitlines()[2:]] == ["tide", "c-known", "d-known", "b", "pca-k"]
    assert said == "tide adds 10 % to the loss; the best rival as in its paper 400 %, about our known part 100 %."
