"""`tide export`: a run's SAEs in the layout of another library, and an index of what was written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import tide_lightning
from tide_lightning.diffusion import folder_name
from tide_lightning.errors import UserError
from tide_lightning.explore.requests import parse_names
from tide_lightning.explore.run import Run, open_run
from tide_lightning.files import check_writable, write_json
from tide_lightning.saes import SAE
from tide_lightning.saes.exchange.writing import Exportable, Format, encoder_alone, exportable, folded, write_as
from tide_lightning.saes.whole import write_pair
from tide_lightning.sharing.cost import Cost
from tide_lightning.waiting import track

KNOWN = (
    "known(t, place, f) = by_time(t) + by_place(t)[place] + f weight(t); by_time and weight are linear in t between "
    "the centres of equal bins of [0, 1] and constant outside, by_place is linear between the times `knots` (0 where "
    "it has one place); place counts the grid row by row, f is what `reads` names (where there is an estimator and f "
    "is not known, f = [input, 1] estimator(t))"
)


def export(
    run: str,
    folder: str,
    format: Format = "saelens",
    sites: str = "",
    at: str = "",
    samples: int = 64,
    device: str = "cpu",
    trust: bool = False,
) -> None:
    """Write a run's SAEs so that other tools can load them.

    Args:
        run: a run folder, a run's name below runs/ or a hub id.
        folder: where to; each SAE gets a folder in it, and index.json says which is what.
        format: saelens (SAELens 6), sparsify (TopK only) or plain (matrices).
        sites: which, separated by commas; all unless given.
        at: times for SAEs that depend on t, separated by commas, as 0.1,0.5,0.9; each gets an SAE of its own.
        samples: held-out samples for measuring what is lost, where refinement or pursuit has to be left out.
        device: where that is measured.
        trust: let the run's config import classes that are not this package's, and read prompts from elsewhere.
    """
    check_writable(Path(folder), is_folder=True)
    opened = open_run(run, device, trust=trust)
    saes = opened.chosen(parse_names(sites) or None)
    can = {site: exportable(sae) for site, sae in saes.items()}
    times = _times(at)
    for site, possible in can.items():
        if possible.by_time and not times:
            raise UserError(f"{site}: its SAE is another one at each time t: name some by --at 0.1,0.5,0.9")
    costs = _costs(opened, {site: sae for site, sae in saes.items() if can[site].without}, samples)
    index: dict[str, list[dict[str, Any]]] = {}
    for site, sae in saes.items():
        index[site] = []
        for t in times if can[site].by_time else [None]:
            place = Path(folder_name(site)) / ("" if t is None else f"t_{t:g}")
            metadata = _metadata(opened, site, can[site], t, costs.get(site))
            write_as(format, Path(folder) / place, folded(sae, t), metadata)
            index[site].append({"folder": place.as_posix(), "t": t})
        if can[site].of_rest:
            _write_known(Path(folder) / folder_name(site), sae)
        print(f"{site}: {_told(can[site], len(index[site]), costs.get(site))}")
    head = {"format": format, "tide_lightning": tide_lightning.__version__}
    print(f"{write_json(Path(folder) / 'index.json', {**head, 'sites': index})}: what was written")


def _times(at: str) -> list[float]:
    try:
        times = [float(part) for part in at.split(",") if part.strip()]
    except ValueError as error:
        raise UserError(f"--at {at}: give numbers, separated by commas") from error
    if not all(0 <= t <= 1 for t in times):
        raise UserError(f"--at {at}: times go from 0 to 1, which is pure noise")
    return times


def _costs(run: Run, saes: Mapping[str, SAE], samples: int) -> dict[str, dict[str, float]]:
    """What each SAE loses without refinement and pursuit."""
    if not saes:
        return {}
    if samples < 1:
        raise UserError(f"--samples {samples}: at least 1")
    run.data.heldout = replace(run.data.heldout, num_test_samples=samples)
    measured = [Cost(site, sae, encoder_alone(sae), run.data) for site, sae in saes.items()]
    for batch in track(run.data.test_dataloader(), "Measuring the encoders' own codes"):
        for cost in measured:
            cost.update(batch.to(run.device))
    return {site: cost.compute() for site, cost in zip(saes, measured, strict=True)}


def _metadata(
    run: Run, site: str, possible: Exportable, t: float | None, cost: Mapping[str, float] | None
) -> dict[str, object]:
    """What of the SAE goes along, under names that SAELens knows where it has them."""
    found: dict[str, object] = {"hook_name": site, "model_name": run.config["data"]["pretrained"]}
    found |= {"made_by": f"tide-lightning {tide_lightning.__version__}", "t": t}
    found["activation"] = "what is left when known.safetensors is taken out" if possible.of_rest else "the site's own"
    if possible.without:
        found |= {"left_out": list(possible.without), "cost_of_leaving_out": dict(cost or {})}
    return found


def _write_known(folder: Path, sae: SAE) -> None:
    """The known part beside an SAE of what it leaves."""
    known = sae.known
    cfg = {"rung": known.rung, "reads": known.feature, "grid": list(known.grid), "num_bins": known.num_bins}
    tensors = {name: getattr(known, name) for name in ("by_time", "by_place", "knots", "weight")}
    tensors |= {"estimator": known.estimator} if known.is_estimated else {}
    write_pair(folder, "known.json", {**cfg, "formula": KNOWN}, "known.safetensors", tensors)


def _told(possible: Exportable, number: int, cost: Mapping[str, float] | None) -> str:
    parts = [f"{number} SAEs, one for each time" if possible.by_time else "one SAE"]
    if possible.of_rest:
        parts.append("of what known.safetensors leaves of the activation")
    if cost is None:
        return ", ".join([*parts, "exact"])
    left_out = " and ".join(possible.without)
    parts.append(f"without {left_out}: FVU {cost['fvu_part']:.4f} instead of {cost['fvu_whole']:.4f}")
    if "loss_increase_part" in cost:
        parts.append(f"loss {cost['loss_increase_part']:+.1%} instead of {cost['loss_increase_whole']:+.1%}")
    parts.append(f"{cost['shared_support']:.0%} of active latents shared")
    return ", ".join(parts)
