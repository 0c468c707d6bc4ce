"""Pages that are written from signatures hold what can be written on a command line; built pages ask nobody else."""

from __future__ import annotations

import inspect
from pathlib import Path

from tide_lightning.commands import every_command
from tide_lightning.saes import SAE, TideSAE
from tools.documentation.outside import outside_requests
from tools.documentation.pages import commands_page, keys_page


def test_every_command_is_described() -> None:
    page = commands_page()
    for name in every_command():
        assert f"## tide {name}\n" in page
    assert "| `codes.format` | `Literal['parquet', 'safetensors']` | `parquet` | parquet (for pandas" in page
    assert "| `find` | `str` |" in page  # of steer


def test_every_key_has_its_default_and_meaning() -> None:
    page = keys_page()
    _shape, *others, _common = inspect.signature(TideSAE).parameters
    for name in [*others, *list(inspect.signature(SAE).parameters)[1:]]:
        assert f"\n| `{name}` | " in page
    assert "| `samples_per_batch` | `int` | `32` | samples in a training batch, over all ranks together. |" in page
    assert "| `heldout.num_test_samples` | `int` | `512` |" in page


def test_what_a_page_fetches_from_elsewhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "own.html").write_text(
        '<link rel="canonical" href="https://example.org/"><script src="a.js"></script><a href="https://example.org">x</a>'
    )
    assert outside_requests(tmp_path) == []
    (tmp_path / "other.html").write_text(
        '<img src="//example.org/x.png"><script src="https://example.org/x.js"></script>'
    )
    (tmp_path / "page.css").write_text(
        "@font-face { src: url('https://example.org/x.woff') } a { background: url(x.png) }"
    )
    assert outside_requests(tmp_path) == [
        "other.html: //example.org/x.png",
        "other.html: https://example.org/x.js",
        "page.css: https://example.org/x.woff",
    ]
