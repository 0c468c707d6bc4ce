"""The report of `tide test` in a real browser, of figures that were put together for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Page, expect

from tests.explore.accessible import assert_accessible
from tide_lightning.evaluation.end_to_end import EndToEnd
from tide_lightning.evaluation.report import write_report
from tide_lightning.evaluation.sections import Section, Table
from tide_lightning.evaluation.verdict import verdict

SITE = "transformer_blocks.3"


def metrics(loss: float) -> dict[str, Any]:
    """Of one site, whose splicing costs so much of the loss."""
    bins = [{"low": t / 4, "high": (t + 1) / 4, "explained_variance": 0.9 - t / 10, "l0": 12 + t} for t in range(4)]
    by_t = [
        {"low": one["low"], "high": one["high"], "loss_increase": loss * one["high"], "loss_increase_known": 3.0}
        for one in bins
    ]
    losses = {"loss_increase": loss, "loss_increase_even": loss, "loss_increase_known": 3.0, "by_timestep": by_t}
    histogram = {"log10_low": -6, "log10_high": 0, "latents": [0, 4, 9, 2]}
    site = {"tokens": 4096, "explained_variance": 0.87, "l0": 14.0, "alive_fraction": 0.75, "by_timestep": bins}
    return {
        "sites": {SITE: site | {"firing_frequency": histogram, "never_fired_fraction": 0.1}},
        "fidelity": {"sites": {SITE: losses}, "samples": 64},
    }


@pytest.fixture
def address(tmp_path: Path) -> str:
    images = torch.rand(3, 3, 3, 16, 16) * 2 - 1
    seen = EndToEnd({}, ["original", SITE, "known part alone"], ["a red cube", "a ball", "a ring"], images)
    table = Table(["counted", "how often"], [["cubes", "2"]], "", {"how often": "in all images"})
    section = Section("counts", "Counted", {}, [table])
    return write_report(tmp_path, "one/two", metrics(0.25), seen, "seed: 0", [section]).as_uri()


def test_it_begins_with_a_verdict_pictures_and_what_comes_next(page: Page, address: str) -> None:
    page.goto(address)
    first = page.locator("section").first
    expect(first.get_by_role("heading")).to_have_text("In short")
    expect(first).to_contain_text("This run is good, judged by the denoiser's loss")
    expect(first).to_contain_text("raises it by 25.0% in the mean over all times")
    expect(first.get_by_role("img")).to_have_count(2)
    expect(first.locator("code").first).to_have_text("tide atlas one/two")
    expect(page.get_by_role("heading", name="The denoiser loses most at t = 0.88 (+25%)")).to_be_visible()
    expect(page.locator("dl.columns").get_by_text("how often")).to_be_visible()


def test_it_is_accessible_and_fits_a_phone(page: Page, address: str) -> None:
    page.goto(address)
    assert_accessible(page)
    page.set_viewport_size({"width": 390, "height": 900})
    cells = page.locator("table").first.locator("td")
    assert all(box["x"] + box["width"] <= 390 for box in (cell.bounding_box() for cell in cells.all()) if box)


@pytest.mark.parametrize(("loss", "word"), [(0.05, "good"), (0.31, "fair"), (2.0, "poor")])
def test_the_verdict_is_of_the_worst_site(loss: float, word: str) -> None:
    found = metrics(loss)
    found["fidelity"]["sites"]["another"] = {"loss_increase_even": 0.01}
    told = verdict(found)
    assert told.word == word
    assert f"the worst of 2 sites, {SITE}," in told.lines[0]
    assert "25.0% of the latents are dead" in told.lines[-1]
    assert verdict({"sites": found["sites"]}).word == ""
