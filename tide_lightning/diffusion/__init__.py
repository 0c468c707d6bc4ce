"""The frozen diffusion transformer: loading, sites, trajectories."""

from tide_lightning.diffusion.calls import around_calls
from tide_lightning.diffusion.conditioning import Conditioning
from tide_lightning.diffusion.contexts import token_context
from tide_lightning.diffusion.denoiser import Denoiser
from tide_lightning.diffusion.folding import Folding
from tide_lightning.diffusion.generic import GenericTransformer
from tide_lightning.diffusion.hooks import record, splice
from tide_lightning.diffusion.layouts import Layout
from tide_lightning.diffusion.loading import denoiser_of, describe_denoiser, load_denoiser
from tide_lightning.diffusion.own import OwnDenoiser
from tide_lightning.diffusion.replicas import Replicas
from tide_lightning.diffusion.schedule import Schedule
from tide_lightning.diffusion.sensitivity import Forward, sensitivity
from tide_lightning.diffusion.sites import Site, folder_name, resolve_sites, unlabelled
from tide_lightning.diffusion.trajectories import StaggeredTrajectories, guided_prediction, sample, sample_images
from tide_lightning.diffusion.trajectory_noise import TrajectoryNoise

__all__ = [
    "Conditioning",
    "Denoiser",
    "Folding",
    "Forward",
    "GenericTransformer",
    "Layout",
    "OwnDenoiser",
    "Replicas",
    "Schedule",
    "Site",
    "StaggeredTrajectories",
    "TrajectoryNoise",
    "around_calls",
    "denoiser_of",
    "describe_denoiser",
    "folder_name",
    "guided_prediction",
    "load_denoiser",
    "record",
    "resolve_sites",
    "sample",
    "sample_images",
    "sensitivity",
    "splice",
    "token_context",
    "unlabelled",
]
