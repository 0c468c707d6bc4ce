"""Hugging Face datasets: prompts streamed from a column, images by index. Needs the extra `datasets`."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from tide_lightning.datamodules.images import image_tensor
from tide_lightning.datamodules.tables import require_columns
from tide_lightning.errors import UserError

MAX_STREAMED = 100_000
"""Prompts taken from a stream that is not told where to stop."""

_ADDRESS = re.compile(
    r"hf:(?P<dataset>[^@\[\]]+?)(?:@(?P<split>[\w.\-]+))?(?:\[:(?P<count>\d+)\])?:(?P<column>[^:@\[\]]+)"
)


def stream_column(address: str) -> list[str]:
    """The first texts of a dataset's column, read as a stream, so that nothing else is downloaded.

    Args:
        address: `hf:OWNER/NAME@SPLIT[:COUNT]:COLUMN`, as in `hf:owner/captions@train[:20000]:caption`; a local folder
            may stand for OWNER/NAME. The split is `train` and COUNT 100,000 unless given.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise UserError(
            f"prompts {address!r}: write hf:OWNER/NAME@SPLIT[:COUNT]:COLUMN (split and count may be left out)"
        )
    rows = _load(match["dataset"], match["split"] or "train", streaming=True)
    count, column = int(match["count"] or MAX_STREAMED), match["column"]
    texts: list[str] = []
    for row in rows.take(count):
        require_columns(f"dataset {match['dataset']}", [column], list(row))
        texts.append(str(row[column] or ""))
    return texts


class HubImages(Dataset[dict[str, Any]]):
    """Images with captions from a Hugging Face dataset, for `data.images`.

    Args:
        dataset: hub id or local folder.
        size: side that images are cropped and scaled to.
        split: of the dataset.
        image: column of images.
        caption: column of captions; null for none, which trains on the empty prompt.
        max_images: take no more than the first; 0 for all.
    """

    def __init__(
        self,
        dataset: str,
        size: int,
        split: str = "train",
        image: str = "image",
        caption: str | None = "text",
        max_images: int = 0,
    ) -> None:
        self._name, self._size, self._image, self._caption = dataset, size, image, caption
        rows = _load(dataset, split, streaming=False)
        require_columns(f"dataset {dataset}", [image, *([caption] if caption else [])], rows.column_names)
        self._rows = rows.select(range(min(max_images, len(rows)))) if max_images else rows
        self._captions = self._rows.select_columns([caption]) if caption else None

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        try:
            picture = self._rows[index][self._image]
        except Exception as error:  # the decoder's own, of whichever library
            raise UserError(f"dataset {self._name}: image {index} does not decode: {error}") from error
        return {"image": image_tensor(picture, self._size), "prompt": self.prompts([index])[0]}

    def prompts(self, indices: list[int]) -> list[str]:
        """Captions, without decoding an image."""
        if self._captions is None:
            return [""] * len(indices)
        return [str(self._captions[index][self._caption] or "") for index in indices]


def _load(name: str, split: str, streaming: bool) -> Any:
    try:
        import datasets
    except ImportError:
        raise UserError(f"dataset {name} needs the package datasets: pip install 'tide-lightning[datasets]'") from None
    try:
        return datasets.load_dataset(name, split=split, streaming=streaming)
    except Exception as error:  # FileNotFoundError, ConnectionError, ValueError and a dozen of its own
        lines = str(error).strip().splitlines()
        raise UserError(f"cannot load dataset {name} ({split}): {lines[0] if lines else error!r}") from error
