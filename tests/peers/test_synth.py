"""SynthSAEBench on a small scale: every trainer runs on sae-lens' data, and its scores are those of the codes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import synth
from benchmarks.pages import read

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs

SMALL = ["--num_features", "24", "--d_in", "12", "--k", "3", "--steps", "40", "--batch_size", "64"]


def test_every_trainer_is_scored_and_rows_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "synth.json"
    arguments = [*SMALL, "--test_tokens", "500", "--seeds", "0", "--regimes", "half as many", "--json", str(path)]
    synth.main(arguments)
    rows = read(path)["regimes"]["half as many"]["0"]
    assert set(rows) == set(synth.TRAINERS)
    assert all(0 < row["mcc"] <= 1 and 0 <= row["f1"] <= 1 and row["l0"] <= 12 for row in rows.values())
    capsys.readouterr()
    synth.main(arguments)
    assert "seed 0" not in capsys.readouterr().out  # nothing is measured twice
    with pytest.raises(SystemExit, match="name another"):
        synth.main([*arguments, "--k", "4"])


def test_our_codes_are_scored_as_they_are() -> None:
    size = synth.Size(num_features=24, d_in=12, k=3, steps=1, batch_size=64)
    data = synth.Features(size, 0)
    scored = synth.TRAINERS["TopK"](data, size, 24, 0)
    x = data.activations()
    codes = scored.encode(x)
    assert int((codes != 0).sum(1).max()) <= 3
    torch.testing.assert_close(scored.decode(codes), scored.sae.decode(scored.sae.encode(x)))
    assert scored.W_dec.shape == (24, 12)
