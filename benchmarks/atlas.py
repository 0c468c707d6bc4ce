"""How an atlas of many latents behaves: time to draw and write it, to open it in a browser, to search it.

    python -m benchmarks.atlas --latents 20000

Codes are made up: every latent fires at its own rate, more for some captions than for others.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from PIL import Image
from playwright.sync_api import sync_playwright

from tide_lightning.explore.atlas.chart import draw_chart
from tide_lightning.explore.atlas.meaning import gather_traits
from tide_lightning.explore.atlas.neighbours import FiringSample
from tide_lightning.explore.atlas.pages import write_pages
from tide_lightning.explore.atlas.statistics import SiteStatistics
from tide_lightning.grounds.toybox import Scenes
from tide_lightning.saes import SparseCode

_BINS, _GRID, _GROUP = 8, (16, 16), 16


def main() -> None:
    """Print the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=int, default=20_000)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--width", type=int, default=256, help="channels of the site")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        page = _timed("drawn and written", lambda: _write(Path(folder), given.latents, given.samples, given.width))
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        print(f"{'on disk':<28}{size / 2**20:8.1f} MB")
        _browse(page)


def _write(folder: Path, num_latents: int, num_samples: int, width: int) -> Path:
    scenes = Scenes("test", num_samples)
    index = list(range(num_samples))
    captions, labels = scenes.prompts(index), scenes.factors(index)
    statistics = SiteStatistics(num_latents, _GRID, num_samples, _BINS, 6, torch.device("cpu"))
    firing = FiringSample(num_latents, 0.05, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    tokens = _GROUP * _GRID[0] * _GRID[1]
    for first in range(0, num_samples, _GROUP):
        for at in range(_BINS):
            latents = (torch.rand(tokens, 16, generator=generator) ** 2 * num_latents).long()
            values = torch.rand(tokens, 16, generator=generator)
            code = SparseCode(values, latents, num_latents)
            statistics.add(code, (at + 0.5) / _BINS)
            firing.add(code)
        statistics.end_group(first, _GROUP)
    directions = torch.randn(num_latents, width, generator=generator)
    traits = gather_traits(captions, labels, torch.device("cpu"))
    chart = draw_chart("block", statistics, traits, directions, firing, {"block": firing})
    pictures = [Image.new("RGB", (64, 64), (number % 256, 90, 120)) for number in index]
    return write_pages(folder, "made up", [chart], traits, captions, pictures, "made-up codes")


def _browse(page: Path) -> None:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page()

        def opened() -> None:
            tab.goto(page.as_uri())
            tab.wait_for_selector("body[data-ready]")

        def listed_again() -> None:
            tab.fill("#words", "")
            tab.select_option("#sort", "rare")

        def feature_opened() -> None:
            tab.click("#cards .card")
            tab.wait_for_selector("#feature:not([hidden])")

        _timed("opened", opened)
        _timed("searched for a word", lambda: tab.fill("#words", "red"))
        _timed("all again, rare ones first", listed_again)
        _timed("a feature opened", feature_opened)
        browser.close()


T = TypeVar("T")


def _timed(name: str, do: Callable[[], T]) -> T:
    begun = time.perf_counter()
    result = do()
    print(f"{name:<28}{time.perf_counter() - begun:8.2f} s", flush=True)
    return result


if __name__ == "__main__":
    main()
