from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.datamodules.conftest import MakeData
from tests.datamodules.test_state import equal, rows, saved
from tide_lightning.datamodules import DiskCache, Shard
from tide_lightning.errors import UserError
from tide_lightning.tokens import TokenBatch

SITE = "transformer_blocks.0"
Batch = dict[str, TokenBatch]


@pytest.fixture
def cache(tmp_path: Path) -> DiskCache:
    return DiskCache(str(tmp_path / "cache"), batches_per_shard=2)


def shards(cache: DiskCache, purpose: str = "train") -> list[Path]:
    return sorted((Path(cache.folder) / purpose).glob("*.safetensors"))


class Forwards:
    """Counts the forwards of a denoiser's module."""

    def __init__(self, module: nn.Module) -> None:
        self.count = 0
        module.register_forward_pre_hook(self._add)

    def _add(self, *_: object) -> None:
        self.count += 1


@pytest.mark.parametrize("source", ["noise", "denoise", "both"])
def test_a_cache_changes_no_bit_and_saves_the_forwards(make_data: MakeData, cache: DiskCache, source: str) -> None:
    plain = list(make_data(source=source).train_loader(Shard()))
    assert equal(list(make_data(source=source, cache=cache).train_loader(Shard())), plain)
    assert len(shards(cache)) == 2  # the fifth batch fills no shard

    data = make_data(source=source, cache=cache)
    batches = iter(data.train_loader(Shard()))
    forwards = Forwards(data.denoiser.module)
    again = [next(batches) for _ in range(4)]
    assert forwards.count == 0
    assert equal(again, plain[:4])
    # Behind its end the denoiser takes over, up to the rounding of trajectories that are walked again.
    expected, found = rows(plain[4:]), rows([next(batches)])
    assert expected.keys() == found.keys()
    for key, x in expected.items():
        torch.testing.assert_close(found[key], x, atol=1e-4, rtol=1e-4)


def test_sites_share_on_disk_what_they_share_in_memory(make_data: MakeData, cache: DiskCache) -> None:
    alone, both = (
        DiskCache(f"{cache.folder}/1", batches_per_shard=2),
        DiskCache(f"{cache.folder}/2", batches_per_shard=2),
    )
    list(make_data(sites=[SITE], cache=alone).train_loader(Shard()))
    list(make_data(cache=both).train_loader(Shard()))
    extra = shards(both)[0].stat().st_size - shards(alone)[0].stat().st_size
    assert extra < 2 * 32 * 32 * 4 + 2048  # two batches of 32 activations of width 32, and the longer header


@pytest.mark.parametrize(("source", "after"), [("noise", 3), ("denoise", 1), ("denoise", 2), ("denoise", 5)])
def test_resumes_exactly_from_wherever_it_was(make_data: MakeData, cache: DiskCache, source: str, after: int) -> None:
    plain = list(make_data(source=source, batches_per_epoch=8).train_loader(Shard()))

    def resumed(state: dict[str, Any], **changes: Any) -> list[Batch]:
        loader = make_data(source=source, batches_per_epoch=8 - after, **changes).train_loader(Shard())
        loader.load_state_dict(saved(state))
        return list(loader)

    filling = make_data(source=source, cache=cache, batches_per_epoch=after).train_loader(Shard())
    list(filling)
    assert equal(resumed(filling.state_dict(), cache=cache), plain[after:])
    reading = make_data(source=source, cache=cache, batches_per_epoch=after).train_loader(Shard())
    list(reading)
    for elsewhere in ({"cache": cache}, {}):
        found, expected = rows(resumed(reading.state_dict(), **elsewhere)), rows(plain[after:])
        assert found.keys() == expected.keys()
        for key, x in expected.items():
            torch.testing.assert_close(found[key], x, atol=1e-4, rtol=1e-4)


def test_calibration_is_kept_too(make_data: MakeData, cache: DiskCache) -> None:
    first = list(make_data(source="both", cache=cache).calibration_batches())
    data = make_data(source="both", cache=cache)
    again = data.calibration_batches()
    forwards = Forwards(data.denoiser.module)
    assert equal(list(again), first)
    assert forwards.count == 0
    assert len(shards(cache, "calibration")) == 1


@pytest.mark.parametrize(
    ("source", "made_by", "read_by"), [("noise", 1, 2), ("denoise", 2, 1), ("both", 2, 4), ("both", 4, 2)]
)
def test_another_number_of_ranks_reads_it(
    make_data: MakeData, cache: DiskCache, source: str, made_by: int, read_by: int
) -> None:
    changes: dict[str, Any] = {"source": source, "batches_per_epoch": 4, "cache": cache}
    made = [b for rank in range(made_by) for b in make_data(**changes).train_loader(Shard(rank, made_by))]
    assert len(shards(cache)) == 2 * made_by
    found = []
    for rank in range(read_by):
        data = make_data(**changes)
        loader = data.train_loader(Shard(rank, read_by))
        forwards = Forwards(data.denoiser.module)
        found += list(loader)
        assert list(found[-1]) == list(made[0])  # sites in their order
        assert forwards.count == 0
    assert {len(batch[SITE]) for batch in found} == {8 * 4 // read_by}
    expected = rows(made)
    assert rows(found).keys() == expected.keys()
    assert all(torch.equal(x, expected[key]) for key, x in rows(found).items())


def test_a_missing_shard_is_made_again(make_data: MakeData, cache: DiskCache) -> None:
    changes: dict[str, Any] = {"source": "denoise", "batches_per_epoch": 6, "cache": cache}
    list(make_data(**changes).train_loader(Shard()))
    names = [path.name for path in shards(cache)]
    shards(cache)[1].unlink()
    list(make_data(**changes).train_loader(Shard()))
    assert [path.name[:6] for path in shards(cache)] == [name[:6] for name in names]


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_shard_is_named(make_data: MakeData, cache: DiskCache, damage: str) -> None:
    list(make_data(cache=cache).train_loader(Shard()))
    path = shards(cache)[1]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content[:-100] if damage == "cut" else content)
    with pytest.raises(UserError, match=rf"cache shard .*{path.name} is damaged .*: delete it"):
        list(make_data(cache=cache).train_loader(Shard()))
    path.unlink()
    assert equal(list(make_data(cache=cache).train_loader(Shard())), list(make_data().train_loader(Shard())))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sites": [SITE]}, "sites is"),
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"tokens_per_sample": 5}, r"tokens_per_sample is \[4\] there and \[5\] here"),
        ({"source": "both"}, "source is noise there and both here"),
        ({"loading": {"dtype": "bfloat16"}}, "dtype is float32 there and bfloat16 here"),
        ({"prompts": ["a red ball", "a blue cube"]}, "corpus is"),
    ],
)
def test_a_cache_of_something_else_is_refused(
    make_data: MakeData, cache: DiskCache, changes: dict[str, Any], said: str
) -> None:
    list(make_data(cache=cache).train_loader(Shard()))
    before = [path.name for path in shards(cache)]
    with pytest.raises(UserError, match=f"holds other activations: {said}.*name another folder"):
        list(make_data(cache=cache, **changes).train_loader(Shard()))
    assert [path.name for path in shards(cache)] == before


def test_a_cache_of_another_denoiser_is_refused(make_data: MakeData, cache: DiskCache) -> None:
    list(make_data(cache=cache).train_loader(Shard()))
    other = make_data(cache=cache)
    with torch.no_grad():
        other.denoiser.module.get_parameter("proj_out.bias").add_(1)
    with pytest.raises(UserError, match="holds other activations: denoiser is"):
        other.train_loader(Shard())


def test_it_grows_no_further_than_allowed(
    make_data: MakeData, cache: DiskCache, caplog: pytest.LogCaptureFixture
) -> None:
    list(make_data(cache=cache).train_loader(Shard()))
    size = shards(cache)[0].stat().st_size
    small = DiskCache(f"{cache.folder}-small", max_gib=1.5 * size / 2**30, batches_per_shard=2)
    plain = list(make_data(batches_per_epoch=8).train_loader(Shard()))
    with caplog.at_level(logging.WARNING):
        assert equal(list(make_data(cache=small, batches_per_epoch=8).train_loader(Shard())), plain)
    assert len(shards(small)) == 1
    assert [record for record in caplog.messages if "max_gib is used up after 1 shards" in record] == caplog.messages


def test_a_full_disk_loses_nothing(
    make_data: MakeData, cache: DiskCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The disk is full from the second shard on: the run goes on, the first shard stays, no half file is left."""
    plain = list(make_data(batches_per_epoch=8).train_loader(Shard()))
    loader = make_data(cache=cache, batches_per_epoch=8).train_loader(Shard())
    batches = iter(loader)
    found = [next(batches), next(batches)]

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with caplog.at_level(logging.WARNING):
        found += list(batches)
    assert equal(found, plain)
    assert len(shards(cache)) == 1
    assert [path.suffix for path in (Path(cache.folder) / "train").iterdir()] == [".safetensors"]
    assert "000001-0of1" in caplog.text
    assert "No space left on device" in caplog.text


def test_folders_that_cannot_be_used(make_data: MakeData, cache: DiskCache, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"cannot use the cache in .*file"):
        make_data(cache=DiskCache(str(tmp_path / "file"))).train_loader(Shard())
    Path(cache.folder).mkdir()
    for content in ('{"schema"', "3"):
        (Path(cache.folder) / "cache.json").write_text(content)
        with pytest.raises(UserError, match=r"cache\.json is damaged"):
            make_data(cache=cache).train_loader(Shard())
    with pytest.raises(UserError, match="max_gib must be above 0"):
        make_data(cache=DiskCache(cache.folder, max_gib=0))
