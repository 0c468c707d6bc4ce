"""Prompts by split: what the transformer may have seen, and what it certainly has not."""

import warnings
import zlib
from pathlib import Path
from typing import Final

import torch

from tide_lightning.grounds.toybox.captions import (
    Mentions,
    caption_scenes,
    is_reserved,
    parse,
    shows_held_out,
    unknown_words,
)
from tide_lightning.grounds.toybox.world import Split, draw_scenes

_FOLDER: Final = Path(__file__).parent / "prompts"
_PIECE: Final = 1024


def prompts(n: int, seed: int = 0, split: Split = "train", num_objects: int | None = None) -> list[str]:
    """Prompts of the grammar, the same for the same arguments; a longer list begins with the shorter one.

    Outside "test" no prompt is reserved or shows a held-out pair. In "test" none was ever used in training:
    each is a reserved caption or shows a (shape, colour) pair that training never saw.
    """
    kept: list[str] = []
    seen: set[str] = set()
    start = 0
    while len(kept) < n:
        index = torch.arange(start, start + _PIECE)
        start += _PIECE
        labels, _ = draw_scenes(split, index, seed)
        for caption in caption_scenes(labels, index, split=split, seed=seed):
            said = parse(caption)
            if split == "test" and not _is_unused(caption, said):
                continue
            if num_objects is not None and len(said.objects) != num_objects:
                continue
            # Training prompts repeat as captions do; a test counts each prompt once.
            if split == "test" and caption in seen:
                continue
            seen.add(caption)
            kept.append(caption)
    return kept[:n]


def _is_unused(caption: str, said: Mentions) -> bool:
    """Whether training never had a caption; of those with a held-out pair only a third, lest they prevail."""
    if shows_held_out(said):
        return zlib.crc32(caption.encode()) % 3 == 0
    return is_reserved(caption, said.num_factors)


def held_out_prompts(n: int = 512, seed: int = 0) -> list[str]:
    """Single-object prompts never used in training, held-out (shape, colour) pairs among them."""
    return prompts(n, seed, "test", num_objects=1)


def prompt_file(split: Split) -> Path:
    """A text file of prompts, one a line: "train" has 2048, "test" the first 512 held-out prompts."""
    path = _FOLDER / f"{split}.txt"
    if not path.exists():
        raise ValueError(f"there is no prompt file for {split!r}: take 'train' or 'test'")
    return path


def warn_unknown_words(prompt_list: list[str]) -> list[str]:
    """Warn once about words that the toybox has never heard, and return them.

    Such prompts are accepted: the tokenizer reads each of these words as the unknown token.
    """
    words = list(dict.fromkeys(word for p in prompt_list for word in unknown_words(p)))
    if words:
        warnings.warn(
            f"the toybox does not know these words and reads them as unknown: {', '.join(words)}",
            stacklevel=2,
        )
    return words


def write_prompt_files(folder: Path = _FOLDER) -> None:
    """Write the text files that ship with the package."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.txt").write_text("\n".join(prompts(2048)) + "\n")
    (folder / "test.txt").write_text("\n".join(held_out_prompts(512)) + "\n")
