"""The denoiser of the photographs: a class-conditional DiT on pixels, its tokens 8 x 8 patches of 4 x 4 pixels.

Its weights come with the repository and not with the installed package (docs/tutorials/photographs.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import DDIMScheduler, DiTTransformer2DModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tide_lightning.diffusion import Conditioning, OwnDenoiser
from tide_lightning.diffusion.families.dit import adaptive_norm
from tide_lightning.diffusion.grid import Grid
from tide_lightning.diffusion.pretrained import package_path
from tide_lightning.errors import UserError
from tide_lightning.grounds.photos.classes import CLASSES
from tide_lightning.grounds.photos.sources import SIDE

SHIPPED = "package:tide_lightning.grounds.photos/dit"
"""Where the trained denoiser is in the repository."""


class PhotoDiT(OwnDenoiser):
    """diffusers' DiTTransformer2DModel on pixels, told one of ten classes or none, predicting v.

    `pretrained` is a folder that the transformer was saved to, or `package:<dotted.package>/<folder>`.
    """

    num_channels: int = 3
    default_latent_size: Grid = (SIDE, SIDE)
    patch_shape: Grid = (4, 4)
    num_classes: int = len(CLASSES)

    @property
    def class_names(self) -> Mapping[str, int]:
        """CIFAR-10's."""
        return {name: number for number, name in enumerate(CLASSES)}

    def make_module(self) -> DiTTransformer2DModel:
        """As config.json of the folder says."""
        folder = self._folder()
        if not (folder / "config.json").is_file():
            raise UserError(
                f"{folder} holds no config.json: PhotoDiT takes a folder that a DiTTransformer2DModel fills"
            )
        return build_transformer(dict(DiTTransformer2DModel.load_config(folder)))

    def weights(self) -> Mapping[str, Tensor]:
        """Of all the folder's safetensors files, each of which holds a part."""
        paths = sorted(self._folder().glob("*.safetensors"))
        if not paths:
            raise UserError(
                f"{self._folder()} holds no weights: those of the photographs' denoiser come with the repository, not"
                " with the installed package; work in a checkout, or train your own (docs/tutorials/photographs.md)"
            )
        weights: dict[str, Tensor] = {}
        for path in paths:
            try:
                weights |= load_file(path)
            except (SafetensorError, OSError):
                raise UserError(f"{path} is damaged or incomplete") from None
        return weights

    def make_scheduler(self) -> DDIMScheduler:
        """Linear betas, v, steps that begin at the noisiest timestep."""
        return build_scheduler()

    @property
    def transformer(self) -> DiTTransformer2DModel:
        """The module, by its own type."""
        return self.module

    def forward(self, x_t: Tensor, raw_t: Tensor, conditioning: Conditioning) -> Tensor:
        """Call the transformer as diffusers' DiT is called."""
        output: Tensor = self.module(**self.arguments(x_t, raw_t, conditioning), return_dict=False)[0]
        return output

    def entry_modulation(self, block: int | None, raw_t: Tensor) -> tuple[Tensor, Tensor]:
        """For no class: adaptive norms read the class too."""
        return adaptive_norm(self, block, raw_t)

    def _folder(self) -> Path:
        given = self.pretrained
        folder = package_path(given) if given.startswith("package:") else Path(given).expanduser()
        if not folder.is_dir():
            raise UserError(f"pretrained {given!r}: no such folder; the shipped one is {SHIPPED}")
        return folder


def build_transformer(config: Mapping[str, Any] | None = None) -> DiTTransformer2DModel:
    """An untrained transformer: 10 blocks of width 256, unless a config says otherwise."""
    if config is not None:
        transformer: DiTTransformer2DModel = DiTTransformer2DModel.from_config(config)
        return transformer
    return DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=64,
        in_channels=3,
        out_channels=3,
        num_layers=10,
        sample_size=SIDE,
        patch_size=4,
        num_embeds_ada_norm=len(CLASSES),
        norm_num_groups=1,
    )


def build_scheduler() -> DDIMScheduler:
    """Its conventions are what the transformer was trained in."""
    return DDIMScheduler(
        beta_start=1e-4, beta_end=0.02, prediction_type="v_prediction", clip_sample=False, timestep_spacing="trailing"
    )
