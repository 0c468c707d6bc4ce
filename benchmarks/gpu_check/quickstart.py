"""The quickstart's first steps on the GPU, and on the CPU beside it."""

from __future__ import annotations

import torch

from benchmarks.gpu_check.section import Section
from benchmarks.gpu_check.watching import fit

ARGUMENTS = ["--config", "quickstart"]
STEPS_A_SECOND = 60


def measure(section: Section) -> None:
    """As many steps on both."""
    device, named = section.device, "--run_name"
    if section.is_small:
        small = ["--trainer.max_steps", "12", "--data.num_calibration_samples", "64"]
        watch = fit(section.folder, device, *ARGUMENTS, *small, named, "cpu", is_alone=True, **_ends(section, 0.3))
        section.found("steps of the quickstart", 1 / watch.step_seconds(), "a second")
        return
    watch = fit(section.folder, device, *ARGUMENTS, named, "gpu", is_alone=True, **_ends(section, 0.3))
    section.at_least("steps of the quickstart", 1 / watch.step_seconds(), STEPS_A_SECOND, "a second")
    cpu = torch.device("cpu")
    with section.trying("the quickstart on the CPU"):
        beside = fit(section.folder, cpu, *ARGUMENTS, named, "cpu", is_alone=True, **_ends(section, 0.4))
        section.found("steps on this machine's CPU", 1 / beside.step_seconds(), "a second")
        steps = min(len(watch.losses), len(beside.losses))
        if steps < 20:
            section.could_not("losses beside the CPU's", f"only {steps} steps")
            return
        last = slice(steps - steps // 4, steps)
        ours, theirs = sum(watch.losses[last]), sum(beside.losses[last])
        note = f"mean of steps {last.start} to {last.stop}: other random numbers, the same distribution"
        section.at_most("loss beside the CPU's, off by", abs(ours / theirs - 1), 0.1, note=note)


def _ends(section: Section, share: float) -> dict[str, float]:
    """After a share of the time that is left, or after 600 steps."""
    return {"seconds": share * section.left(), "steps": 600}
