"""Checkpoints are whole or absent, whatever happens while they are written; what is damaged is not loaded."""

from __future__ import annotations

import os
import random
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch

from tide_lightning.errors import UserError
from tide_lightning.files import write_bytes
from tide_lightning.training.checkpoints import WholeCheckpointIO, what_is_wrong

CONTENT = {"state_dict": {"W": torch.arange(5000.0), "b": torch.ones(7)}, "global_step": 3}


def save(path: Path, content: dict[str, Any] | None = None) -> bytes:
    WholeCheckpointIO().save_checkpoint(content or CONTENT, path)
    return path.read_bytes()


def test_every_flipped_byte_that_counts_is_seen(tmp_path: Path) -> None:
    """A flip that is not seen, in the padding between records, changes nothing that is loaded."""
    path, draw = tmp_path / "last.ckpt", random.Random(0)
    whole = save(path)
    for _ in range(150):
        place, bit = draw.randrange(len(whole)), 1 << draw.randrange(8)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        os.utime(path, ns=(draw.randrange(2**60), draw.randrange(2**60)))
        if what_is_wrong(path) is None:
            loaded = WholeCheckpointIO().load_checkpoint(path, weights_only=True)
            assert torch.equal(loaded["state_dict"]["W"], CONTENT["state_dict"]["W"])  # type: ignore[index]
            assert torch.equal(loaded["state_dict"]["b"], CONTENT["state_dict"]["b"])  # type: ignore[index]
            assert loaded["global_step"] == 3
        else:
            with pytest.raises(UserError, match="use another checkpoint"):
                WholeCheckpointIO().load_checkpoint(path, weights_only=True)


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.999])
def test_a_file_that_was_cut_off_is_seen(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "last.ckpt"
    whole = save(path)
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    assert what_is_wrong(path) == "not a checkpoint, or cut off"


def test_what_goes_wrong_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    before = save(path)

    class Unwritable:
        def __reduce__(self) -> Any:
            raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="cannot be written: No space left on device"):
        save(path, {**CONTENT, "callbacks": Unwritable()})
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["last.ckpt"]
    with pytest.raises(UserError, match="cannot be written"):
        write_bytes(path / "inside", b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / ".last.ckpt.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"last\.ckpt cannot be written: No space left on device"):
        save(tmp_path / "last.ckpt")
    assert not list(tmp_path.iterdir())


def write_for_ever(path: Path, written: Connection) -> None:
    torch.set_num_threads(1)  # a forked process has OpenMP's state but not its threads
    for number in range(10**6):
        save(path, {"state_dict": {"W": torch.full((500_000,), float(number))}, "global_step": number})
        written.send(number)


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    """Also where TMPDIR lies on another file system: nothing is written but beside the target."""
    path, draw, fork = tmp_path / "last.ckpt", random.Random(1), get_context("fork")
    for _ in range(10):
        ours, theirs = fork.Pipe(duplex=False)
        writer = fork.Process(target=write_for_ever, args=(path, theirs))
        writer.start()
        written = ours.recv()
        time.sleep(0.05 * draw.random())
        writer.kill()
        writer.join()
        assert what_is_wrong(path) is None
        loaded = WholeCheckpointIO().load_checkpoint(path, weights_only=True)
        assert loaded["global_step"] >= written
        assert (loaded["state_dict"]["W"] == loaded["global_step"]).all()
        assert {item.name for item in tmp_path.iterdir()} <= {"last.ckpt", ".last.ckpt.part"}
