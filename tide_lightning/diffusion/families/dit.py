"""DiT: class labels in place of prompts, adaptive norms that read timestep and class."""

from __future__ import annotations

from collections.abc import Mapping

from tide_lightning.diffusion.class_labels import ClassConditional


class DiT(ClassConditional):
    """diffusers' DiTTransformer2DModel in a DiTPipeline."""

    @property
    def num_classes(self) -> int:  # type: ignore[override]  # read from the model here, declared elsewhere
        """ImageNet's, in published DiTs."""
        return int(self.config.num_embeds_ada_norm)

    @property
    def class_names(self) -> Mapping[str, int]:
        """As the pipeline has them."""
        names: dict[str, int] = self.pipeline.labels
        return names
