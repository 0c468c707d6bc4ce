"""Whole training steps beside the product that no step avoids, and beside other libraries' and plain PyTorch's.

TopK is what all compute; the default has a batch's budget, a refinement and a pursuit, and no counterpart.
"""

from __future__ import annotations

from benchmarks.gpu_check.section import Section
from benchmarks.implementations import OursPursuing, available
from benchmarks.step import Row, Shape, deviations
from benchmarks.step import measure as measure_steps

GOALS = {8192: (5, 14), 32768: (4, 12)}
"""Products that a TopK step and a step of the default may take, by the tokens of a batch."""


def measure(section: Section) -> None:
    """Ours at both sizes first, then the others at the smaller one."""
    makers = available()
    for name in {"sparsify", "dictionary_learning", "sae_lens", "overcomplete"} - set(makers):
        section.could_not(f"a step of {name}", "it cannot be imported here")
    notes = dict.fromkeys(makers, "")
    for name in list(makers):
        with section.trying(f"{name}: the same loss and gradients as the dense formula"):
            chosen = {"dense": makers["dense"], name: makers[name]}
            deviation = deviations(chosen, section.device)[name]
            if name == "tide-lightning":
                section.holds("the dense formula's loss and gradients", deviation is None, deviation or "")
            elif deviation is not None:
                notes[name] = deviation
            elif name == "sparsify" and section.device.type == "cuda":
                notes[name] = "in bf16 by itself, within its roundings of the dense formula"
    ours = {"tide-lightning": makers["tide-lightning"], "default": OursPursuing}
    shapes = [Shape(48, 512, 8, 256, 0.0)] if section.is_small else [Shape(1152, 18432, 64, n, 0.0) for n in GOALS]
    dtype, rounds = ("float32", 2) if section.is_small else ("bfloat16", 12)
    found: dict[str, Row] = {}
    for shape in shapes:
        with section.trying(f"steps at {shape.batch} tokens"):
            for row in measure_steps(ours, shape, dtype, section.device, rounds):
                found.setdefault(row["impl"], row)
                _tell(section, row, GOALS.get(shape.batch))
    for name in (name for name in makers if name not in ours):
        with section.trying(f"a step of {name}"):
            [row] = measure_steps({name: makers[name]}, shapes[0], dtype, section.device, rounds)
            found[name] = row
            section.found(f"{name}, {shapes[0].batch} tokens", row["step_over_encoder"], "products", notes[name])
    _compare(section, found)


def _tell(section: Section, row: Row, goals: tuple[int, int] | None) -> None:
    is_default = row["impl"] == "default"
    name = f"{'the default' if is_default else 'TopK'}, {row['batch']} tokens"
    note = f"{row['ms']:.2f} ms, {row['peak_bytes'] / 1e9:.2f} GB at most"
    if goals is None:
        section.found(name, row["step_over_encoder"], "products", note)
    else:
        section.at_most(name, row["step_over_encoder"], goals[is_default], "products", note)


def _compare(section: Section, found: dict[str, Row]) -> None:
    if {"default", "tide-lightning"} <= set(found):
        more = (found["default"]["peak_bytes"] - found["tide-lightning"]["peak_bytes"]) / 1e9
        section.at_most("the default's memory over TopK's", more, 2.0, "GB")
    others = {name: row["ms"] for name, row in found.items() if name not in ("default", "tide-lightning", "dense")}
    if "tide-lightning" in found and "dense" in found:
        section.found("TopK, times as fast as dense", found["dense"]["ms"] / found["tide-lightning"]["ms"])
    if "tide-lightning" in found and others:
        fastest = min(others, key=others.__getitem__)
        times = others[fastest] / found["tide-lightning"]["ms"]
        if section.is_small:
            section.found("times as fast as the fastest other library", times, note=fastest)
        else:
            section.at_least("times as fast as the fastest other library", times, 2.0, note=fastest)
