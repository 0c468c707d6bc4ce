"""A run's plan: how much there is to do, in which precision, on how many ranks."""

from __future__ import annotations

from dataclasses import dataclass

from tide_lightning.datamodules import ActivationDataModule
from tide_lightning.diffusion import Site, unlabelled
from tide_lightning.errors import UserError
from tide_lightning.planning.work import DenoiserWork, SAEWork, denoiser_work, sae_work
from tide_lightning.saes import HELD_OUT
from tide_lightning.training import TideModule

SIZES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Plan:
    """What a step of all ranks together does.

    Args:
        denoiser: one sample's forward.
        saes: each SAE's step, by its key.
        tokens: tokens of a step for each SAE, over all ranks.
        widths: d_in of each site.
        calibration_tokens: of all calibration samples for each SAE.
        noised: noised samples in a step, one stopped forward each.
        walked: samples on trajectories in a step.
        halves: forwards that each of these takes.
        forward_batch: samples in one forward of a rank, both halves counted.
        latents: bytes of the clean latents that are kept on each rank.
        image_tokens: of one sample.
        dtype: precision of the denoiser.
        sae_dtype: precision of the SAEs' products.
        steps: optimiser steps of the run; -1 for no end.
        ranks: processes.
        sharded: whether each rank holds a share of the latents only.
    """

    denoiser: DenoiserWork
    saes: dict[str, SAEWork]
    tokens: dict[str, int]
    widths: dict[str, int]
    calibration_tokens: dict[str, int]
    noised: int
    walked: int
    halves: int
    forward_batch: int
    latents: int
    image_tokens: int
    dtype: str
    sae_dtype: str
    steps: int
    ranks: int
    sharded: bool = False

    @property
    def kept(self) -> int:
        """Tokens of a step for each site (of the most, where sites differ)."""
        return max(self.tokens.values())

    @property
    def denoiser_operations(self) -> int:
        """Of a step's forwards."""
        return self.noised * self.denoiser.stopped + self.walked * self.halves * self.denoiser.forward

    @property
    def sae_operations(self) -> int:
        """Of a step of all SAEs."""
        return sum(work.operations * self.tokens[key] for key, work in self.saes.items())

    @property
    def parameters(self) -> int:
        """Trained, of all SAEs."""
        return sum(work.parameters for work in self.saes.values())

    def memory(self) -> dict[str, int]:
        """Bytes on each rank, by part."""
        size, share = SIZES[self.dtype], -(-self.kept // self.ranks)
        shared = 4 * 200  # patch and provenance of a token
        held = -(-self.parameters // self.ranks) if self.sharded else self.parameters
        gathered = max(work.parameters for work in self.saes.values()) if self.sharded else 0
        return {
            "denoiser's weights": size * self.denoiser.parameters,
            "denoiser's forward (about)": 12 * size * self.forward_batch * self.image_tokens * self.denoiser.width,
            "SAEs' weights": 4 * held,
            "their gradients": 4 * held,
            "Adam's moments": 8 * held,
            "one SAE, gathered, and its gradient": 8 * gathered,
            "DDP's buckets": 4 * held if self.ranks > 1 and not self.sharded else 0,
            "known parts": sum(work.buffers for work in self.saes.values()),
            "clean latents": self.latents,
            "a step's tokens (about)": share * (sum((size + 6 * 4) * d for d in self.widths.values()) + shared),
        }

    @property
    def calibration(self) -> int:
        """Bytes on each rank before the first step, when gradients and moments are not there yet.

        Each SAE's sums, one more for the tokens held out, and these tokens, of which activations are most.
        """
        sums = [work.calibration for work in self.saes.values()]
        held_out = sum(
            num_tokens // (HELD_OUT * self.ranks) * SIZES[self.dtype] * self.widths[unlabelled(key)]
            for key, num_tokens in self.calibration_tokens.items()
        )
        return sum(sums) + max(sums) + held_out

    @property
    def gradient_bytes(self) -> int:
        """That ranks add up in a step: gradients, and a counter for each latent."""
        return sum(4 * work.parameters + 8 * work.latents for work in self.saes.values())

    @property
    def sent_bytes(self) -> float:
        """That each rank sends in a step, in rings: gradients added up and handed round; weights gathered twice."""
        rings = 3 if self.sharded else 2
        return rings * (self.ranks - 1) / self.ranks * self.gradient_bytes


def plan_run(
    data: ActivationDataModule, module: TideModule, *, steps: int, ranks: int, precision: str, sharded: bool = False
) -> Plan:
    """The plan of a fit, from shapes alone; the module may be on the meta device."""
    if ranks < 1:
        raise UserError(f"ranks must be at least 1, not {ranks}")
    denoiser = data.describe()
    sites: dict[str, Site] = {str(site): site for site in denoiser.resolve_sites(data.site_patterns)}
    num_kept = data.tokens_kept(denoiser)
    walked = {"noise": 0, "both": data.samples_per_batch // 2, "denoise": data.samples_per_batch}[data.source]
    noised = data.samples_per_batch - walked
    samples = noised + walked * (2 if data.trajectories.halves == "both" else 1)
    guided = denoiser.guidance == "classifier_free" and data.trajectories.guidance_scale > 1
    halves = 2 if guided else 1
    rounds = -(-data.num_calibration_samples // data.samples_per_batch)
    batch = data.forward_batch_size or -(-data.samples_per_batch // ranks)
    return Plan(
        denoiser=denoiser_work(denoiser, list(sites.values())),
        saes={key: sae_work(module.sae(key)) for key in module.sites},
        tokens={key: samples * num_kept[unlabelled(key)] for key in module.sites},
        widths=denoiser.site_widths(list(sites.values())),
        calibration_tokens={key: rounds * samples * num_kept[unlabelled(key)] for key in module.sites},
        noised=noised,
        walked=walked,
        halves=halves,
        forward_batch=batch * (halves if walked else 1),
        latents=data.latent_bytes(denoiser),
        image_tokens=denoiser.num_tokens,
        dtype="bfloat16" if data.loading.dtype == "auto" else data.loading.dtype,
        sae_dtype="bfloat16" if "bf16" in precision else "float16" if precision.startswith("16") else "float32",
        steps=steps,
        ranks=ranks,
        sharded=sharded,
    )
