from __future__ import annotations

from pathlib import Path

import torch

from tide_lightning.datamodules import ActivationDataModule, LoadingOptions
from tide_lightning.diffusion.precision import native_dtype


def test_auto_takes_what_the_device_is_good_at(pretrained: Path) -> None:
    data = ActivationDataModule(
        str(pretrained), ["transformer_blocks.0"], prompts=["a ball", "a cube"], loading=LoadingOptions(dtype="auto")
    )
    data.setup()
    expected = native_dtype(torch.device("cpu"))
    assert data.denoiser.dtype == getattr(torch, expected)
    has_bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # private, so the library reads the capability instead
    assert expected == ("bfloat16" if has_bfloat16 else "float32")


def test_the_fingerprint_tells_weights_and_not_precisions(pretrained: Path) -> None:
    def fingerprint(dtype: str) -> str:
        data = ActivationDataModule(
            str(pretrained),
            ["transformer_blocks.0"],
            prompts=["a ball", "a cube"],
            loading=LoadingOptions(dtype=dtype),  # type: ignore[arg-type]
        )
        return data.denoiser.fingerprint()

    assert fingerprint("float32") == fingerprint("bfloat16")
    data = ActivationDataModule(str(pretrained), ["transformer_blocks.0"], prompts=["a ball", "a cube"])
    with torch.no_grad():
        next(data.denoiser.module.parameters()).mul_(1.5)
    assert data.denoiser.fingerprint() != fingerprint("float32")
