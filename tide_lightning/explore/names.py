"""What a run's latents are called: one name and one score for each, wherever it is shown.

`tide atlas` gives the names, from held-out images, and leaves them in the run's folder; `tide find`, `tide steer` and
`tide play` say the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tide_lightning.diffusion import folder_name
from tide_lightning.errors import UserError
from tide_lightning.files import write_bytes
from tide_lightning.saes.storage import read_cfg

_FILE = "names.json"
_SCHEMA = 1

Key = tuple[str, int]
"""A latent: the key of its SAE and its number."""


class Name(NamedTuple):
    """What a latent is called.

    Fields:
        text: the factor's value (or two of them), or the word of captions, that best tells its images from others.
        tells: how surely: the chance that it peaks higher in an image with it than in one without (AUROC), measured on
            images on which the name was not chosen. .5 is luck.
    """

    text: str
    tells: float

    def __str__(self) -> str:
        return f"{self.text} ({self.tells:.2f})"

    @property
    def word(self) -> str:
        """What a prompt says to ask for it: of two values the first."""
        return self.text.rpartition(": ")[2].partition(" or ")[0]


def in_words(factor: str | None, text: str) -> str:
    """What a latent is called after: a value with its factor, or a word of captions."""
    return f"{factor}: {text}" if factor else text


def write_names(folder: Path, names: Mapping[Key, Name], sites: Sequence[str]) -> Path:
    """Put names of some sites into a run's folder; those of its other sites stay."""
    kept = {key: name for key, name in read_names(folder).items() if key[0] not in sites}
    written: dict[str, dict[str, Any]] = {}
    for (site, latent), name in {**kept, **names}.items():
        of_site = written.setdefault(site, {"weights": _weights(folder, site), "latents": {}})
        of_site["latents"][str(latent)] = [name.text, round(name.tells, 3)]
    text = json.dumps({"schema": _SCHEMA, "sites": written}, separators=(",", ":"), sort_keys=True)
    return write_bytes(folder / _FILE, f"{text}\n".encode())


def read_names(folder: Path) -> dict[Key, Name]:
    """The names in a run's folder; none where no atlas was built of the SAEs that lie there now."""
    path = folder / _FILE
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["schema"] != _SCHEMA:
            raise ValueError(f"schema {found['schema']}")
        return {
            (str(site), int(latent)): Name(str(text), float(tells))
            for site, one in found["sites"].items()
            if one["weights"] == _weights(folder, site)
            for latent, (text, tells) in one["latents"].items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: no names of latents ({error}); build the atlas again, or remove the file") from error


def _weights(folder: Path, site: str) -> str | None:
    """The hash of a site's weights; None where there are none."""
    where = folder / "saes" / folder_name(site)
    return read_cfg(where).get("sha256") if where.is_dir() else None
