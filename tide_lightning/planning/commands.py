"""`tide sites` and `tide plan`: what a run's configuration means, before it runs. Nothing is trained or written."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Protocol

from torch.utils.data import Dataset

from tide_lightning.datamodules import ActivationDataModule
from tide_lightning.errors import UserError
from tide_lightning.planning.estimate import Assumed
from tide_lightning.planning.machines import GPUS, gpu, this_machine
from tide_lightning.planning.plan import plan_run
from tide_lightning.planning.printing import print_plan, print_sites
from tide_lightning.planning.sites import measure_sites
from tide_lightning.tokens import SiteShape
from tide_lightning.training import TideModule, total_steps


class UnreadImages(Dataset[dict[str, object]]):
    """Stands for images that are not there: as many as a data set may well have, none of which is looked at."""

    def __len__(self) -> int:
        return 2**20

    def __getitem__(self, index: int) -> dict[str, object]:
        raise UserError("--measure runs the denoiser on images, and data.images are not there")


class TrainerSettings(Protocol):
    """What a plan reads of the trainer's configuration."""

    max_steps: int
    max_epochs: int | None
    precision: object
    strategy: object
    devices: int | str | list[int]
    num_nodes: int
    accumulate_grad_batches: int


def sites(data: ActivationDataModule, measure: bool = False) -> None:
    """Print the sites with their shapes.

    Args:
        data: names the sites.
        measure: also run the denoiser over the calibration samples, and print what the activations are like and
            how much of their variance each rung of the known part explains.
    """
    shapes = {site: SiteShape.of(sizes) for site, sizes in data.site_shapes.items()}
    print_sites(shapes, measure_sites(data, shapes) if measure else None)


def plan(
    data: ActivationDataModule,
    module: TideModule,
    trainer: TrainerSettings,
    ranks: int | None = None,
    machines: str | list[str] | None = None,
    here: bool = False,
    assumed: Assumed = Assumed(),  # noqa: B008 - immutable
) -> None:
    """Print what a fit will cost: memory, operations, time on named GPUs, communication.

    Args:
        data: not set up.
        module: may be without weights.
        trainer: as configured.
        ranks: GPUs in all; the trainer's devices times num_nodes unless given.
        machines: GPUs to reckon with, one, or several with commas between (H100,L4); all those known unless given.
        here: measure this machine (a second), and reckon with it too.
        assumed: what part of their peaks machines reach.
    """
    names = machines.split(",") if isinstance(machines, str) else machines
    chosen = list(GPUS.values()) if names is None else [gpu(name.strip()) for name in names]
    if here:
        assert data.trainer is not None
        chosen.append(this_machine(data.trainer.strategy.root_device))
    steps = total_steps(data.batches_per_epoch, trainer.max_steps, trainer.max_epochs, trainer.accumulate_grad_batches)
    planned = plan_run(
        data,
        module,
        steps=-1 if steps == inf else int(steps),
        ranks=_num_devices(trainer.devices) * trainer.num_nodes if ranks is None else ranks,
        precision=str(trainer.precision or "32-true"),
        sharded="ModelParallelStrategy" in str(trainer.strategy),
    )
    print_plan(planned, chosen, assumed)


def _num_devices(devices: int | str | Sequence[int]) -> int:
    """How many a trainer is told to use; 1 where it shall find out ("auto", -1)."""
    if isinstance(devices, list):
        return len(devices)
    if "," in str(devices):
        return len([name for name in str(devices).split(",") if name])
    return max(1, int(str(devices))) if str(devices).lstrip("-").isdigit() else 1
