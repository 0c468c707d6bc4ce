from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tide_lightning.diffusion import load_denoiser


def test_words_the_tokenizer_does_not_know_are_accepted_and_listed(
    pretrained: Path, caplog: pytest.LogCaptureFixture
) -> None:
    denoiser = load_denoiser(str(pretrained))
    with caplog.at_level(logging.WARNING):
        denoiser.encode_prompts(["a red ball"])
        assert not caplog.records
        conditioning = denoiser.encode_prompts(["a Frumious red bandersnatch, frumious"])
        denoiser.encode_prompts(["a red bandersnatch"])  # each word is told once
    assert len(conditioning) == 1
    [record] = caplog.records
    assert "frumious, bandersnatch" in record.getMessage()
