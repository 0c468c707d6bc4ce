"""A run of untrained SAEs on the toybox, and a real headless Chromium (tests that need it are skipped without)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch
import yaml
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from tide_lightning.diffusion import describe_denoiser, folder_name
from tide_lightning.explore import Run, open_run
from tide_lightning.saes import TideSAE
from tide_lightning.tokens import SiteShape

PIPELINE = "package:tide_lightning.grounds.toybox/pipeline"
SITES = ["transformer_blocks.3", "transformer_blocks.7"]
D_SAE = 256

expect.set_options(timeout=60_000)  # of a machine that does other work as well

_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def write_run(folder: Path, keys: list[str], pretrained: str = PIPELINE, **data: Any) -> Path:
    """A run folder as a fit leaves it, with SAEs that were not trained."""
    denoiser = describe_denoiser(pretrained, family=None if pretrained == PIPELINE else data.get("family"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for key in keys:
            place = key.partition("@")[0]
            shape = denoiser.site_shapes(denoiser.resolve_sites([place]))[place]
            sae = TideSAE(SiteShape(**vars(shape)), expansion_factor=D_SAE / shape.d_in, k=8)
            sae.save_pretrained(folder / "saes" / folder_name(key), site=key)
    sites = list(dict.fromkeys(key.partition("@")[0] for key in keys))
    config = {"seed_everything": 0, "data": {"pretrained": pretrained, "sites": sites, **data}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder


def scenes(split: str, num_scenes: int) -> dict[str, Any]:
    """The toybox's scenes as a config names them."""
    return {
        "class_path": "tide_lightning.grounds.toybox.Scenes",
        "init_args": {"split": split, "num_scenes": num_scenes},
    }


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny" / "20260101-000000"
    return write_run(folder, SITES, images=scenes("train", 64), heldout={"images": scenes("test", 64)}, seed=0)


@pytest.fixture(scope="session")
def run(run_folder: Path) -> Run:
    return open_run(run_folder, device="cpu")


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("there is no Chromium here")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=_ARGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page 1200 pixels wide on which nothing may go wrong: no console error, no request to the outside."""
    wrong: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            wrong.append(message.text)

    def see(request: Request) -> None:
        address = urlsplit(request.url)
        if address.scheme not in ("file", "data", "blob") and address.hostname != "127.0.0.1":
            wrong.append(f"request to {request.url}")

    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page = context.new_page()
    page.set_default_timeout(10_000)
    page.on("console", hear)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", see)
    yield page
    context.close()
    assert not wrong
