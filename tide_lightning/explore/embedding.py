"""CLIP and SigLIP: images and texts in one space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from tide_lightning.errors import UserError

_BATCH = 32


class ImageText:
    """An image-text model of transformers, a CLIP or SigLIP by its folder or hub id."""

    def __init__(self, source: str) -> None:
        from transformers import AutoModel, AutoProcessor  # says much when imported

        try:
            self._model = AutoModel.from_pretrained(source).eval()
            self._processor = AutoProcessor.from_pretrained(source)
        except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"{source}: no image-text model can be loaded from there: {reason}") from error
        if not (hasattr(self._model, "get_image_features") and hasattr(self._model, "get_text_features")):
            raise UserError(f"{source}: a {type(self._model).__name__} does not compare images with texts; take a CLIP")

    @torch.no_grad()
    def images(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Unit embeddings [N, E]."""
        parts = []
        for start in range(0, len(pictures), _BATCH):
            inputs = self._processor(images=list(pictures[start : start + _BATCH]), return_tensors="pt")
            parts.append(_unit(self._model.get_image_features(pixel_values=inputs["pixel_values"])))
        return torch.cat(parts)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Unit embeddings [N, E]; SigLIP was trained on texts padded to full length, CLIP does not mind."""
        inputs = self._processor(text=list(texts), padding="max_length", truncation=True, return_tensors="pt")
        named = {name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs}
        return _unit(self._model.get_text_features(**named))


def _unit(features: Any) -> Tensor:
    """Transformers 5 wraps embeddings in an output, earlier releases do not."""
    embedded: Tensor = features if isinstance(features, Tensor) else features.pooler_output
    return torch.nn.functional.normalize(embedded.float(), dim=1)
