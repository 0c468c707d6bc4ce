"""Where an SAE lies: in a folder, a run's folder or a repository of the hub, and there perhaps one of several."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from tide_lightning.errors import UserError

_DESCRIPTIONS = ["*cfg.json", "*config.json"]
"""What is fetched of a repository before it is known in which of its folders the SAE lies."""


def find_place(source: str | Path, site: str | None = None, revision: str | None = None) -> Path:
    """The folder of an SAE, or the file where its layout has but one.

    Args:
        source: a folder, a file or a hub id.
        site: the site, or the sub-folder, where there are several SAEs; those of a run lie in its folder `saes`.
        revision: of the hub repository.
    """
    if site is not None and (Path(site).is_absolute() or ".." in Path(site).parts):
        raise UserError(f"site {site!r}: name one that lies inside {source}")
    try:
        place = Path(source)
        if not place.exists():
            place = _snapshot(str(source), [*_DESCRIPTIONS, *_inside(site)] if site else None, revision)
        if site is None:
            return place
        found = _of_site(place, site)
        if found is None:
            raise UserError(f"{source}: no SAE of {site} there{choices(place)}")
        if place != Path(source) and site not in found.parts:  # it was found by what its description says
            _snapshot(str(source), [f"{found.relative_to(place).as_posix()}/*"], revision)
    except OSError as error:
        raise UserError(f"{str(source)[:200]}: {error.strerror or error}") from error
    return found


def choices(place: Path) -> str:
    """The sites of a folder that holds several SAEs, as the end of a message."""
    found = sorted({path.parent.name for path in [*place.glob("*/*cfg.json"), *place.glob("saes/*/cfg.json")]})
    found += sorted(path.stem for path in place.glob("sae_*_*.pt"))
    return f"; choose a site: {', '.join(found[:20])}{', …' if len(found) > 20 else ''}" if found else ""


def _inside(site: str) -> list[str]:
    """Where in a repository a site's files may lie."""
    return [f"{site}/*", f"saes/{site}/*", site, f"{site}.pt"]


def _of_site(place: Path, site: str) -> Path | None:
    for candidate in (place / site, place / "saes" / site, place / f"{site}.pt"):
        if candidate.is_file() or (candidate.is_dir() and any(candidate.iterdir())):
            return candidate
    for path in sorted([*place.glob("*/cfg.json"), *place.glob("saes/*/cfg.json")]):
        with suppress(ValueError, RecursionError, AttributeError):
            if json.loads(path.read_text(encoding="utf-8")).get("site") == site:
                return path.parent
    return None


def _snapshot(repository: str, patterns: list[str] | None, revision: str | None) -> Path:
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(f"{repository}: neither a folder nor a hub repository that can be reached") from error
