"""Pages that set SAEs beside one another show what the summaries beside them hold, and the best rivals of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import ablation, alternatives
from benchmarks.pages import over_seeds, read
from benchmarks.pareto import ASIDE, OURS
from benchmarks.pareto_details import by_factor, causes
from benchmarks.pareto_tables import comparison

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(
    ("page", "summary"), [("results/pareto.md", "pareto.json"), ("tutorials/photographs.md", "photos-pareto.json")]
)
def test_a_page_shows_what_was_measured(page: str, summary: str) -> None:
    (seeds,) = read(DOCS / "results" / "summaries" / summary)["pieces"].values()
    names = list(dict.fromkeys(name for rows in seeds.values() for name in rows))
    text = (DOCS / page).read_text()
    assert comparison(seeds, names, OURS, ASIDE) in text
    if any("factors" in row for rows in seeds.values() for row in rows.values()):
        assert by_factor(seeds, OURS) in text
        assert causes(seeds, OURS) in text


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


def test_each_factor_and_each_push_has_a_line() -> None:
    told = {
        "always_yes": 0.3,
        "best_channel": 0.4,
        "best_latent": 0.6,
        "latents_5": 0.7,
        "latents_20": 0.8,
        "dense": 0.9,
    }
    seen = {"success": 0.5, "success_judge_b": 0.25, "confirmed": 0.2, "stability_mean": 0.9}
    ours: dict[str, Any] = {
        "f1": 0.6,
        "factors": {"class": told},
        "pushes": {"none": seen, "latent": seen | {"success": 0.75}},
    }
    rivals = {"a": ours | {"f1": 0.5}, "b": ours | {"f1": 0.55, "factors": {"class": told | {"best_latent": 0.5}}}}
    seeds: dict[str, dict[str, Any]] = {"0": {"tide": ours} | rivals, "1": {"tide": ours, "c": {"f1": 0.9}}}
    head, _, line = by_factor(seeds, "tide").splitlines()
    assert head.endswith("| all channels | one latent of b |")
    assert line == "| class | 0.300 | 0.400 | 0.600 | 0.700 | 0.800 | 0.900 | 0.500 |"
    lines = causes(seeds, "tide").splitlines()[2:]
    assert [each.split(" | ")[0] for each in lines] == [
        "| no push",
        *(f"| the best latent of {name}" for name in ("tide", "a", "b")),
    ]
    assert lines[1] == "| the best latent of tide | 75% | 25% | 20% | 90% |"
