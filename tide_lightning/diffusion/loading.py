"""Load a denoiser from a hub id, a folder, a folder inside an installed package, or by code of your own."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tide_lightning.class_paths import import_named
from tide_lightning.diffusion.conditioning import Conditioning
from tide_lightning.diffusion.denoiser import Denoiser
from tide_lightning.diffusion.families import FAMILIES
from tide_lightning.diffusion.own import OwnDenoiser, run_eagerly
from tide_lightning.diffusion.pretrained import Origin, dtype_argument, explained, quiet
from tide_lightning.diffusion.stored_prompts import StoredPrompts
from tide_lightning.errors import UserError

LOSS_WEIGHTS = "_loss_weights"
"""The key of model_index.json under which a pipeline may say how it was trained."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_denoiser(
    pretrained: str,
    *,
    family: str | None = None,
    dtype: str = "float32",
    revision: str | None = None,
    variant: str | None = None,
    local_files_only: bool = False,
    latent_size: Sequence[int] | None = None,
    prompt_cache: str | None = None,
    compile: bool = False,
    loss_weights: str | None = None,
) -> Denoiser:
    """Load a frozen denoiser, on the CPU.

    Args:
        pretrained: a diffusers pipeline: a hub id, a folder, or `package:<dotted.package>/<folder>`.
        family: class path of a Denoiser; unless given, the pipeline's own class tells. A subclass of OwnDenoiser makes
            of `pretrained` what it likes.
        dtype: precision of transformer and text encoders; the VAE stays in float32.
        revision: branch, tag or commit on the hub.
        variant: file name variant, such as fp16.
        local_files_only: use the hub's local cache only.
        latent_size: rows and columns of a latent (a video's frames before them); the model's own unless given.
        prompt_cache: a folder that keeps a pipeline's prompt embeddings; text encoders are loaded when one is missing.
        compile: compile the transformer's blocks one by one; sites inside a block cannot be read then. Own code that
            compiles its blocks itself runs uncompiled without it.
        loss_weights: how its training weighed errors over t: uniform, or min_snr:GAMMA; unless given what the
            pipeline's model_index.json says under `_loss_weights`, or uniform, but for flows, where it stays unknown.
    """
    chosen = None if family is None else _named_family(family)
    if chosen is not None and issubclass(chosen, OwnDenoiser):
        with torch.random.fork_rng(devices=[]):
            denoiser: Denoiser = chosen(pretrained, dtype=_DTYPES[dtype], latent_size=latent_size)
        if not compile:
            run_eagerly(denoiser.module)
    else:
        origin = Origin(pretrained, revision, variant, local_files_only)
        late = [part for part in origin.parts if part.startswith("text_encoder")] if prompt_cache else []
        denoiser = _from_pipeline(chosen or _family(origin), origin, late, _DTYPES[dtype], latent_size)
        if prompt_cache:
            key = [type(denoiser).__name__, origin.address, revision, dtype]
            encode = LateTextEncoders(denoiser, origin, late, _DTYPES[dtype])
            denoiser.encode_prompts_by(StoredPrompts(Path(prompt_cache).expanduser(), key, encode))
        denoiser.trained_with(origin.index.get(LOSS_WEIGHTS))
    if compile:
        _compile_blocks(denoiser)
    return denoiser.trained_with(loss_weights)


def describe_denoiser(
    pretrained: str,
    *,
    family: str | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    latent_size: Sequence[int] | None = None,
) -> Denoiser:
    """The denoiser without weights, on the meta device: its modules, sites, widths and shapes."""
    chosen = None if family is None else _named_family(family)
    if chosen is not None and issubclass(chosen, OwnDenoiser):
        with torch.random.fork_rng(devices=[]):
            described = chosen(pretrained, with_weights=False, latent_size=latent_size)
        run_eagerly(described.module)
        return described
    origin = Origin(pretrained, revision, None, local_files_only, shapes_alone=True)
    chosen = chosen or _family(origin)
    import diffusers

    config = origin.read_json(f"{chosen.component}/config.json")
    scheduler_config = origin.read_json("scheduler/scheduler_config.json")
    with explained(pretrained), quiet(), torch.random.fork_rng(devices=[]):
        scheduler = getattr(diffusers, origin.parts["scheduler"][1]).from_config(scheduler_config)
        with torch.device("meta"):
            module = getattr(diffusers, origin.parts[chosen.component][1]).from_config(config)
    return chosen(module.to("meta"), scheduler, latent_size=latent_size)


def denoiser_of(pipeline: Any, latent_size: Sequence[int] | None = None) -> Denoiser:
    """The denoiser of a diffusers pipeline that is loaded already; it shares all parts with it.

    Args:
        pipeline: one of a supported family.
        latent_size: rows and columns of a latent (a video's frames before them); the model's own unless given.
    """
    name = type(pipeline).__name__
    if name not in FAMILIES:
        raise UserError(f"a {name} is not supported; supported are {', '.join(FAMILIES)}")
    family = FAMILIES[name]
    return family(getattr(pipeline, family.component), pipeline.scheduler, pipeline, latent_size)


class LateTextEncoders:
    """Encodes prompts with text encoders that are not loaded before the first prompt is asked for."""

    def __init__(self, denoiser: Denoiser, origin: Origin, parts: Sequence[str], dtype: torch.dtype) -> None:
        self._denoiser, self._origin, self._parts, self._dtype = denoiser, origin, list(parts), dtype

    def __call__(self, prompt: str) -> Conditioning:
        """The prompt's conditioning."""
        if self._parts:
            self._load()
        return self._denoiser.encode_prompt(prompt)

    def _load(self) -> None:
        folder, pipeline = self._origin.download(), self._denoiser.pipeline
        for part in self._parts:
            library, name = self._origin.parts[part]
            with explained(self._origin.pretrained), quiet(), torch.random.fork_rng(devices=[]):
                kind = getattr(importlib.import_module(library), name)
                variant = {"variant": self._origin.variant, dtype_argument(): self._dtype}
                encoder = kind.from_pretrained(folder / part, **variant).eval().requires_grad_(False)
            pipeline.register_modules(**{part: encoder.to(self._denoiser.device)})
        self._parts = []


def _from_pipeline(
    family: type[Denoiser],
    origin: Origin,
    late: Sequence[str],
    dtype: torch.dtype,
    latent_size: Sequence[int] | None,
) -> Denoiser:
    """Everything of a pipeline but the parts that come late."""
    from diffusers import DiffusionPipeline

    folder = origin.download(late)
    # The VAE in half precision overflows in several families.
    dtypes = {"default": dtype, "vae": torch.float32}
    arguments = {"variant": origin.variant, "local_files_only": True, dtype_argument(): dtypes, **dict.fromkeys(late)}
    with explained(origin.pretrained), quiet(), torch.random.fork_rng(devices=[]):
        pipeline = DiffusionPipeline.from_pretrained(folder, **arguments)
    return family(getattr(pipeline, family.component), pipeline.scheduler, pipeline, latent_size)


def _family(origin: Origin) -> type[Denoiser]:
    name = origin.index.get("_class_name")
    if name not in FAMILIES:
        raise UserError(
            f"pretrained {origin.pretrained!r} is a {name or 'nameless pipeline'}; supported are {', '.join(FAMILIES)};"
            " for others set family (docs/tutorials/your-dit.md)"
        )
    return FAMILIES[name]


def _named_family(path: str) -> type[Denoiser]:
    """The Denoiser that a class path names."""
    found = import_named(path, "family")
    if not (isinstance(found, type) and issubclass(found, Denoiser)):
        raise UserError(f"family {path!r} is no subclass of tide_lightning.diffusion.Denoiser")
    return found


def _compile_blocks(denoiser: Denoiser) -> None:
    # Each block's forward, not its __call__: hooks on blocks stay outside the compiled code and cost no recompilation.
    for name, block in denoiser.module.named_modules():
        if re.fullmatch(r"(.*\.)?(\w*transformer_blocks|blocks)\.\d+", name):
            block.forward = torch.compile(block.forward)
