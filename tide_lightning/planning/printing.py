"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from tide_lightning.planning.estimate import Assumed, estimate
from tide_lightning.planning.machines import Machine
from tide_lightning.planning.plan import Plan
from tide_lightning.planning.sites import RUNGS, SiteFigures
from tide_lightning.planning.units import in_bytes, in_operations, in_time, share
from tide_lightning.terminal import console, print_table, say
from tide_lightning.tokens import SiteShape


def print_sites(shapes: Mapping[str, SiteShape], figures: Mapping[str, SiteFigures] | None = None) -> None:
    """The sites with their shapes and, where they were measured, their statistics."""
    target = console()
    rows = [
        [site, str(shape.d_in), " x ".join(map(str, shape.grid)), str(prod(shape.grid)), str(shape.d_input)]
        for site, shape in shapes.items()
    ]
    print_table(target, ["site", "d_in", "grid", "tokens", "d_input"], rows)
    if figures is None:
        return
    rows = []
    for site, found in figures.items():
        shares = [found.explained[rung] for rung in RUNGS[1:]]
        cells = ["" if share is None else f"{share:.3f}" for share in shares]
        rows.append([site, f"{found.tokens:,}", f"{found.scale:.4g}", f"{found.mean:.2f}", *cells])
    head = ["site", "tokens", "scale", "mean / scale", *(rung.replace("_", "\n", 1) for rung in RUNGS[1:])]
    note = "Shares of the held-out variance that rungs of the known part explain, fitted on calibration tokens."
    print_table(target, head, rows, note)


def print_plan(plan: Plan, machines: Sequence[Machine], assumed: Assumed) -> None:
    """What a run needs, and how long it takes on each machine."""
    target = console()
    source = {(True, False): "noise", (False, True): "denoise"}.get((plan.noised > 0, plan.walked > 0), "both")
    whole = plan.denoiser_operations + plan.sae_operations
    rows = [
        [name, f"{parameters:,}", in_operations(operations / plan.kept), share(operations / whole)]
        for name, parameters, operations in (
            (f"denoiser, source {source}", plan.denoiser.parameters, plan.denoiser_operations),
            (_count(len(plan.saes), "SAE"), plan.parameters, plan.sae_operations),
        )
    ]
    note = (
        f"A step: {plan.noised + plan.walked} samples on {_count(plan.ranks, 'rank')}, {plan.kept:,} tokens kept a "
        f"site. Denoiser in {plan.dtype}, SAEs' products in {plan.sae_dtype}."
    )
    print_table(target, ["", "parameters", "for a kept token", "share"], rows, note)
    parts = {name: num_bytes for name, num_bytes in plan.memory().items() if num_bytes}
    parts |= {"in all": sum(parts.values()), "(calibration, before the first step)": plan.calibration}
    rows = [[name, in_bytes(num_bytes)] for name, num_bytes in parts.items()]
    print_table(target, [f"memory of a rank ({'sharded' if plan.sharded else 'DDP'})", "size"], rows)
    rows = []
    for machine in machines:
        found = estimate(plan, machine, assumed)
        seconds = (found.denoiser, found.saes, found.communication, found.step)
        run = in_time(3600 * found.hours) if plan.steps >= 0 else "no end"
        fits = "fits" if found.fits else "too small"
        cells = [*map(in_time, seconds), f"{found.tokens_per_second:,.0f}", run, fits]
        rows.append([machine.name, *cells])
    print_table(target, ["machine", "denoiser", "SAEs", "ranks", "step", "tokens/s", "run", "memory"], rows)
    if plan.ranks > 1:
        say(target, f"Each rank sends {in_bytes(plan.sent_bytes)} a step.")
    say(
        target,
        f"Assumed: products reach {assumed.utilisation:.0%} of the peak, passes over memory {assumed.streaming:.0%} of "
        f"its bandwidth, links {assumed.linking:.0%}; nothing overlaps. Not counted: text encoders and VAE, which run "
        "once for each prompt and image; validation; compilation; launching kernels, which bounds small models.",
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
