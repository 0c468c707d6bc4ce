"""Codes that `tide predict` wrote are read back as they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from lightning import Callback, LightningModule, Trainer

from tests.saes.synthetic import tokens
from tests.training.fitting import SITES, make_data, make_module, make_trainer
from tide_lightning.callbacks import WriteCodes, read_codes
from tide_lightning.callbacks.code_files import Format, open_writer
from tide_lightning.errors import UserError
from tide_lightning.saes import SparseCode
from tide_lightning.tokens import TokenBatch

pytestmark = pytest.mark.filterwarnings(
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning",  # Lightning's own, with torch 2.13
)

FORMATS: tuple[Format, ...] = ("parquet", "safetensors")


def some(num_tokens: int, seed: int) -> tuple[TokenBatch, SparseCode]:
    """Tokens with codes, some of whose latents were selected at value 0."""
    draw = torch.Generator().manual_seed(seed)
    values = torch.rand(num_tokens, 5, generator=draw) - 0.3
    indices = torch.rand(num_tokens, 50, generator=draw).argsort(1)[:, :5]
    return tokens(num_tokens, seed=seed), SparseCode(values.relu(), indices, 50)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("flat", [False, True])
def test_round_trip_of_several_batches(
    tmp_path: Path, format: Format, flat: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tide_lightning.callbacks.code_files._ROW_GROUP_TOKENS", 16)  # several row groups
    path = tmp_path / f"codes.{format}"
    batches = [some(number, seed) for seed, number in enumerate((12, 7, 20, 1))]
    writer = open_writer(path, "blocks.3:mlp", 50)
    for batch, code in batches:
        writer.write(batch, SparseCode.from_dense(code.to_dense()) if flat else code)
    assert not path.exists()
    writer.close()
    assert [file.name for file in tmp_path.iterdir()] == [path.name]

    found = read_codes(path)
    whole = TokenBatch.concatenate([batch for batch, _ in batches])
    dense = torch.cat([code.to_dense() for _, code in batches])
    assert torch.equal(found.code.to_dense(), dense)
    assert torch.equal(found.code.l0(), (dense > 0).sum(1))
    assert (found.code.values > 0).all()
    for name in ("sample", "t", "raw_t", "half", "source"):
        assert torch.equal(getattr(found, name), getattr(whole, name)), name
    assert torch.equal(found.position.long(), whole.position)
    assert found.site == "blocks.3:mlp"


def test_parquet_says_what_it_is_to_any_reader(tmp_path: Path) -> None:
    writer = open_writer(tmp_path / "codes.parquet", "blocks.3", 50)
    batch, code = some(6, 0)
    writer.write(batch, code)
    writer.close()
    table = pq.read_table(tmp_path / "codes.parquet")
    assert table.schema.metadata == {b"schema": b"1", b"site": b"blocks.3", b"num_latents": b"50"}
    row = table.slice(2, 1).to_pylist()[0]
    fires = code.values[2] > 0
    assert row["indices"] == code.indices[2][fires].tolist()
    assert row["values"] == code.values[2][fires].tolist()
    assert row["position"] == batch.position[2].tolist()
    assert set(row) == {"sample", "t", "raw_t", "position", "half", "source", "indices", "values"}


@pytest.mark.parametrize("format", FORMATS)
def test_predict_writes_each_sites_codes(
    pretrained: Path, tmp_path: Path, format: Format, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_data(pretrained)
    module = make_module(data)
    trainer = make_trainer(tmp_path, 1, [WriteCodes(format)])
    assert not trainer.predict(module, datamodule=data)  # nothing is kept in memory
    assert f"written  {tmp_path / 'run' / 'codes'}: " in capsys.readouterr().out
    for site in SITES:
        found = read_codes(tmp_path / "run" / "codes" / site)
        expected = [batch.tokens[site] for batch in data.predict_dataloader()]
        whole = TokenBatch.concatenate(expected)
        with torch.no_grad():
            code = module.sae(site).encode(whole.x, whole.context)
        torch.testing.assert_close(found.code.to_dense(), code.to_dense())
        assert torch.equal(found.sample, whole.sample)
        assert torch.equal(found.position.long(), whole.position)
        assert torch.equal(found.t, whole.t)


class FailLate(Callback):
    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if args[2] == 1:
            raise RuntimeError("here")


@pytest.mark.parametrize("format", FORMATS)
def test_a_predict_that_fails_leaves_old_files_alone_and_nothing_half_done(
    pretrained: Path, tmp_path: Path, format: Format
) -> None:
    data = make_data(pretrained, heldout={"num_test_samples": 24})
    module, folder = make_module(data), tmp_path / "codes"
    make_trainer(tmp_path, 1, [WriteCodes(format, str(folder))]).predict(module, datamodule=data)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert len(before) == len(SITES)
    with pytest.raises(RuntimeError, match="here"):
        make_trainer(tmp_path, 1, [WriteCodes(format, str(folder)), FailLate()]).predict(module, datamodule=data)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_joins_the_files_of_all_ranks(tmp_path: Path) -> None:
    for rank in (0, 1):
        writer = open_writer(tmp_path / f"rank-{rank}-of-2.safetensors", "blocks.3", 50)
        writer.write(*some(4 + rank, rank))
        writer.close()
    assert read_codes(tmp_path).code.num_tokens == 9
    (tmp_path / "rank-1-of-2.safetensors").unlink()
    with pytest.raises(UserError, match="not the files of one run"):
        read_codes(tmp_path)


def test_says_what_is_wrong_with_a_path(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no codes there"):
        read_codes(tmp_path / "nowhere")
    for format in FORMATS:
        broken = tmp_path / f"broken.{format}"
        broken.write_bytes(b"not codes at all")
        with pytest.raises(UserError, match=f"broken.{format}: cannot be read"):
            read_codes(broken)
    later = tmp_path / "later.safetensors"
    header = json.dumps({"__metadata__": {"schema": "2"}}).encode()
    later.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(UserError, match="schema 2; this version reads 1"):
        read_codes(later)


def test_refuses_a_format_that_it_does_not_know() -> None:
    with pytest.raises(UserError, match="parquet, safetensors"):
        WriteCodes("csv")  # type: ignore[arg-type]
