"""How good generated images are: Fréchet distances in a feature space, and CLIP scores, through torchmetrics.

Both are kept as sums, so any number of ranks finds the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3
from torchmetrics.multimodal.clip_score import CLIPScore

from tide_lightning.errors import UserError

NO_FEATURES = "no features of images are named: evaluation.features takes a module, Inception for one"
NO_CLIP = "no CLIP weights are named: evaluation.clip takes a folder or hub id"


class Inception(nn.Module):
    """InceptionV3's 2048 features, those of the usual FID; needs the package torch-fidelity.

    Args:
        weights: its file of weights; fetched by torch-fidelity unless given.
    """

    num_features = 2048

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        try:
            self.network = NoTrainInceptionV3("inception-v3-compat", ["2048"], weights)
        except ModuleNotFoundError as error:
            raise UserError(
                "evaluation.features Inception: needs torch-fidelity; pip install torch-fidelity"
            ) from error
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"evaluation.features Inception: no weights at {weights or 'the address'}: {error}"
            ) from error

    def forward(self, images_N3HW: Tensor) -> Tensor:
        """Features [N, 2048] of images in [0, 1]."""
        features: Tensor = self.network((images_N3HW * 255).byte())
        return features


class _Features(nn.Module):
    """Stands where torchmetrics would have a network: features were extracted before, once for all distances."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


class _Clip(nn.Module):
    """CLIP whose embeddings are plain tensors, as torchmetrics takes them, whatever the release of transformers."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        pooled = self.model.vision_model(pixel_values=pixel_values).pooler_output
        embedded: Tensor = self.model.visual_projection(pooled)
        return embedded

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        pooled = self.model.text_model(input_ids=input_ids, attention_mask=attention_mask).pooler_output
        embedded: Tensor = self.model.text_projection(pooled)
        return embedded


def load_clip(source: str) -> tuple[Any, Any]:
    """CLIP and its processor from a folder or a hub id."""
    from transformers import CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer  # says much when imported

    try:
        processor = CLIPProcessor(CLIPImageProcessor.from_pretrained(source), CLIPTokenizer.from_pretrained(source))
        return _Clip(CLIPModel.from_pretrained(source).eval()), processor
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"evaluation.clip {source}: no CLIP can be loaded from there: {reason}") from error


class ImageQuality:
    """Accumulates the images of several cases.

    Args:
        cases: their names; the first is the original, to which the others are compared.
        features: makes features [N, F] of images [N, 3, H, W] in [0, 1]; None measures no Fréchet distance.
        clip: folder or hub id of a CLIP; None measures no score.
        device: where both run.
    """

    def __init__(
        self, cases: Sequence[str], features: nn.Module | None, clip: str | None, device: torch.device
    ) -> None:
        self.original = cases[0]
        self.features = None if features is None else features.to(device).eval()
        self._device = device
        loaded = None if clip is None else load_clip(clip)
        self._clip = {} if loaded is None else {case: CLIPScore(lambda: loaded).to(device) for case in cases}
        self._to_real = self._distances(cases)
        self._to_original = self._distances(cases[1:])

    @torch.no_grad()
    def update(self, case: str, images_N3HW: Tensor, prompts: Sequence[str]) -> None:
        """Add a case's images in [-1, 1] with their prompts; every case's of the same prompts."""
        images = _unit(images_N3HW).to(self._device)
        if self._clip:
            self._clip[case].update((images * 255).round().byte(), list(prompts))
        if self.features is None:
            return
        found = self._extract(images)
        self._to_real[case].update(found, real=False)
        if case != self.original:
            self._to_original[case].update(found, real=False)
        for distance in self._to_original.values() if case == self.original else ():
            distance.update(found, real=True)

    @torch.no_grad()
    def update_real(self, images_N3HW: Tensor) -> None:
        """Add real images in [-1, 1]."""
        if self.features is not None:
            found = self._extract(_unit(images_N3HW).to(self._device))
            for distance in self._to_real.values():
                distance.update(found, real=True)

    def compute(self, num_images: int, num_real: int) -> dict[str, dict[str, float]]:
        """For each case `frechet` (to real images), `frechet_to_original` and `clip_score`; call on every rank.

        Args:
            num_images: of each case, over all ranks.
            num_real: over all ranks; a distance takes two images.
        """
        found: dict[str, dict[str, float]] = {}
        for name, distances, least in (
            ("frechet", self._to_real, min(num_images, num_real)),
            ("frechet_to_original", self._to_original, num_images),
        ):
            for case, distance in distances.items() if least > 1 else ():
                found.setdefault(case, {})[name] = max(0.0, float(distance.compute()))  # rounding goes below
        for case, score in self._clip.items():
            found.setdefault(case, {})["clip_score"] = float(score.compute())
        return found

    def absent(self) -> dict[str, str]:
        """What is not measured, and why."""
        missing = {} if self.features is not None else {"frechet": NO_FEATURES}
        return missing if self._clip else {**missing, "clip_score": NO_CLIP}

    def _extract(self, images: Tensor) -> Tensor:
        assert self.features is not None
        found: Tensor = self.features(images).flatten(1).double()
        return found

    def _distances(self, cases: Sequence[str]) -> dict[str, FrechetInceptionDistance]:
        if self.features is None:
            return {}
        num_features = int(self.features.num_features)  # type: ignore[arg-type]
        distances = {}
        for case in cases:
            distances[case] = FrechetInceptionDistance(_Features(num_features), normalize=True).to(self._device)
            for real in (True, False):  # none yet: it wants to have seen some on every rank, and one may get none
                distances[case].update(torch.zeros(0, num_features, dtype=torch.float64, device=self._device), real)
        return distances


def _unit(images: Tensor) -> Tensor:
    return (images.float() / 2 + 0.5).clamp(0, 1)
