"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tide_lightning.planning.estimate import Assumed, estimate
from tide_lightning.planning.machines import Machine
from tide_lightning.planning.plan import Plan
from tide_lightning.planning.sites import RUNGS, SiteFigures
from tide_lightning.tokens import SiteShape


def print_sites(shapes: Mapping[str, SiteShape], figures: Mapping[str, SiteFigures] | None = None) -> None:
    """The sites with their shapes and, where they were measured, their statistics."""
    table = _table("site", "d_in", "grid", "tokens", "d_input")
    for site, shape in shapes.items():
        num_tokens = 1
        for size in shape.grid:
            num_tokens *= size
        grid = " x ".join(map(str, shape.grid))
        table.add_row(escape(site), str(shape.d_in), grid, *map(str, (num_tokens, shape.d_input)))
    console = _console()
    console.print(table)
    if figures is None:
        return
    table = _table("site", "tokens", "scale", "mean / scale", *(rung.replace("_", "\n", 1) for rung in RUNGS[1:]))
    for site, found in figures.items():
        explained = [found.explained[rung] for rung in RUNGS[1:]]
        shares = ["" if share is None else f"{share:.3f}" for share in explained]
        table.add_row(escape(site), f"{found.tokens:,}", f"{found.scale:.4g}", f"{found.mean:.2f}", *shares)
    console.print(table)
    console.print("Shares of the held-out variance that rungs of the known part explain, fitted on calibration tokens.")


def print_plan(plan: Plan, machines: Sequence[Machine], assumed: Assumed) -> None:
    """What a run needs, and how long it takes on each machine."""
    console = _console()
    source = {(True, False): "noise", (False, True): "denoise"}.get((plan.noised > 0, plan.walked > 0), "both")
    work = _table("", "parameters", "GFLOP a kept token", "share")
    whole = plan.denoiser_operations + plan.sae_operations
    for name, parameters, operations in (
        (f"denoiser, source {source}", plan.denoiser.parameters, plan.denoiser_operations),
        (_count(len(plan.saes), "SAE"), plan.parameters, plan.sae_operations),
    ):
        work.add_row(name, f"{parameters:,}", f"{operations / plan.kept / 1e9:.4g}", f"{operations / whole:.1%}")
    console.print(work)
    console.print(
        f"A step: {plan.noised + plan.walked} samples on {_count(plan.ranks, 'rank')}, {plan.kept:,} tokens kept a "
        f"site. Denoiser in {plan.dtype}, SAEs' products in {plan.sae_dtype}.",
        soft_wrap=True,
    )
    memory = _table(f"memory of a rank ({'sharded' if plan.sharded else 'DDP'})", "GB")
    for name, num_bytes in plan.memory().items():
        if num_bytes:
            memory.add_row(name, f"{num_bytes / 1e9:.3f}")
    memory.add_row("in all", f"{sum(plan.memory().values()) / 1e9:.3f}")
    memory.add_row("(calibration's sums, before the first step)", f"{plan.calibration / 1e9:.3f}")
    console.print(memory)
    times = _table("machine", "denoiser", "SAEs", "ranks", "step", "tokens/s", "hours", "memory")
    for machine in machines:
        found = estimate(plan, machine, assumed)
        times.add_row(
            machine.name,
            *(f"{1e3 * seconds:.1f} ms" for seconds in (found.denoiser, found.saes, found.communication, found.step)),
            f"{found.tokens_per_second:,.0f}",
            f"{found.hours:.2f}" if plan.steps >= 0 else "no end",
            "fits" if found.fits else "too small",
        )
    console.print(times)
    if plan.ranks > 1:
        console.print(f"Each rank sends {plan.sent_bytes / 1e9:.3f} GB a step.")
    console.print(
        f"Assumed: products reach {assumed.utilisation:.0%} of the peak, passes over memory {assumed.streaming:.0%} of "
        f"its bandwidth, links {assumed.linking:.0%}; nothing overlaps. Not counted: text encoders and VAE, which run "
        "once for each prompt and image; validation; compilation; launching kernels, which bounds small models.",
        soft_wrap=True,
    )


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold")
    for head in others:
        table.add_column(head, justify="right", no_wrap=True)
    return table


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=120)  # a log file has no width


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
