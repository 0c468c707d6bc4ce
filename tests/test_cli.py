"""`tide` as a user meets it: through its command line, on the toybox."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import tide_lightning
from tide_lightning.cli import main
from tide_lightning.runs import leave_runs, new_run, newest_run, point_latest
from tide_lightning.saes import TideSAE

TINY = [
    "--config=debug",
    "--trainer.max_steps=4",
    "--trainer.log_every_n_steps=1",
    "--checkpoint.every_n_train_steps=2",
    "--data.batches_per_epoch=4",
]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tide(*args: str) -> int:
    return main(list(args))


def complaint(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """What `tide` says on standard error when it refuses: exactly one line, exit code 2."""
    capsys.readouterr()
    assert main(list(args)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tide: error:")]
    assert len(lines) == 1
    return lines[0]


def weights(run: Path) -> dict[str, torch.Tensor]:
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    state: dict[str, torch.Tensor] = checkpoint["state_dict"]
    return state


def test_fit_then_test_fill_the_run_folder(work: Path) -> None:
    assert tide("fit", *TINY) == 0
    latest = work / "runs" / "debug" / "latest"
    assert latest.is_symlink()
    assert (latest / "config.yaml").is_file()
    assert list(latest.glob("events.out.tfevents.*"))
    assert (latest / "checkpoints" / "last.ckpt").is_file()
    sae = TideSAE.from_pretrained(latest / "saes" / "transformer_blocks.3")
    assert sae.d_sae == 4 * sae.d_in

    assert tide("test") == 0
    metrics = json.loads((latest / "metrics.json").read_text())
    assert metrics["schema"] == 1
    assert set(metrics["sites"]) == {"transformer_blocks.3"}
    assert (latest / "report" / "index.html").is_file()
    assert len(list((work / "runs" / "debug").iterdir())) == 2  # the run and `latest`: a test makes no run of its own


def test_every_fit_has_its_own_folder_and_a_resumed_one_goes_on_in_place(work: Path) -> None:
    runs = work / "runs" / "debug"
    assert tide("fit", *TINY, "--trainer.max_steps=2") == 0
    first = (runs / "latest").resolve()
    assert tide("fit", *TINY, "--ckpt_path=last") == 0
    assert (runs / "latest").resolve() == first
    assert tide("fit", *TINY) == 0
    second = (runs / "latest").resolve()
    assert second != first
    assert sorted(path.name for path in runs.iterdir()) == sorted(["latest", first.name, second.name])
    steps = torch.load(first / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert steps == 4


def test_training_stopped_moved_and_resumed_equals_training_in_one_go(work: Path) -> None:
    # A learning rate without decay: its schedule depends on max_steps, which the first part cuts short.
    same = [*TINY, "--model.decay_fraction=0", "--data.source=both"]
    assert tide("fit", *same, "--run_name=whole") == 0
    assert tide("fit", *same, "--run_name=parts", "--trainer.max_steps=2") == 0
    (work / "runs").rename(work / "moved")
    assert tide("fit", *same, "--runs=moved", "--run_name=parts", "--ckpt_path=last") == 0
    whole, parts = (weights(work / "moved" / name / "latest") for name in ("whole", "parts"))
    assert not list((work / "moved").rglob("last-*"))  # the one that others continue from is the last
    assert whole.keys() == parts.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, parts[name]), name


def test_the_command_line_wins_over_the_run_it_follows(work: Path) -> None:
    assert tide("fit", *TINY) == 0
    latest = work / "runs" / "debug" / "latest"
    before = (latest / "config.yaml").read_text()
    assert tide("test", "--data.heldout.num_test_samples=16", "--budget=60") == 0
    metrics = json.loads((latest / "metrics.json").read_text())
    assert metrics["sites"]["transformer_blocks.3"]["tokens"] == 16 * 64
    assert (latest / "config.yaml").read_text() == before
    assert metrics["budget"]["minutes"] == 60
    assert metrics["budget"]["cut"] == {}


def test_a_checkpoint_holds_no_weight_of_the_denoiser(work: Path) -> None:
    assert tide("fit", *TINY) == 0
    state = weights(work / "runs" / "debug" / "latest")
    owners = {name.split(".")[0] for name in state}
    assert owners <= {"saes", "clocks", "metrics", "tokens_seen", "is_calibrated"}
    config = yaml.safe_load((work / "runs" / "debug" / "latest" / "config.yaml").read_text())
    assert config["data"]["pretrained"] == "package:tide_lightning.grounds.toybox/pipeline"


def test_bfloat16_mixed_trains(work: Path) -> None:
    assert tide("fit", *TINY, "--trainer.precision=bf16-mixed") == 0
    state = weights(work / "runs" / "debug" / "latest")
    assert all(value.isfinite().all() for value in state.values() if value.is_floating_point())
    assert not [name for name, value in state.items() if value.dtype == torch.bfloat16]


def test_what_earlier_steps_tell_is_known_along_trajectories(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also when images are sampled and spliced; and off trajectories an estimate takes its place."""
    previous = "--model.sae.init_args.known_part=previous_step"
    assert "data.source denoise" in complaint(capsys, "fit", *TINY, previous)
    assert tide("fit", *TINY, previous, "--data.source=denoise") == 0
    latest = work / "runs" / "debug" / "latest"
    few = "--evaluation.num_images=4"
    assert tide("test", few, "--data.heldout.test_source=denoise", "--data.heldout.num_test_samples=20") == 0
    walked = json.loads((latest / "metrics.json").read_text())
    assert tide("test", few) == 0
    noised = json.loads((latest / "metrics.json").read_text())
    known = {name: found["floors"]["transformer_blocks.3"] for name, found in (("w", walked), ("n", noised))}
    assert known["w"]["known"]["explained_variance"] > known["w"]["mean_t_position"]["explained_variance"] + 0.1
    assert known["n"]["known"]["explained_variance"] > known["n"]["mean_t_position"]["explained_variance"]
    assert "loss_original" not in walked["fidelity"]  # there is no clean image to predict
    assert noised["fidelity"]["sites"]["transformer_blocks.3"]["loss_increase"] > 0
    for found in (walked, noised):
        assert found["fidelity"]["end_to_end"]["sites"]["transformer_blocks.3"]["mse"] > 0


def test_validate_and_predict_follow_the_newest_run(work: Path) -> None:
    assert tide("fit", *TINY) == 0
    assert tide("validate") == 0
    assert tide("predict") == 0


@pytest.mark.parametrize("beside", [".", "elsewhere"])
def test_class_paths_name_files_beside_the_config(work: Path, beside: str) -> None:
    module = f"my_images_{'here' if beside == '.' else beside}"
    folder = work / beside
    folder.mkdir(exist_ok=True)
    code = "from tide_lightning.grounds.toybox import Scenes\n\n\nclass Mine(Scenes): ...\n"
    (folder / f"{module}.py").write_text(code)
    images = {"class_path": f"{module}.Mine", "init_args": {"split": "train", "num_scenes": 64}}
    (folder / "mine.yaml").write_text(yaml.safe_dump({"data": {"images": images}}))
    before = list(sys.path)

    assert tide("fit", *TINY, f"--config={folder / 'mine.yaml'}", "--trainer.max_steps=1") == 0

    assert type(sys.modules[module].Mine()).__name__ == "Mine"
    assert sys.path == before


def test_what_a_class_complains_of_is_told_in_one_line(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = {"class_path": "ImageFolder", "init_args": {"folder": "nowhere", "size": 64}}
    (work / "mine.yaml").write_text(yaml.safe_dump({"data": {"images": images}}))

    assert complaint(capsys, "fit", *TINY, "--config=mine.yaml") == "tide: error: image folder nowhere: no such folder"


@pytest.mark.parametrize(("name", "pursuits"), [("all-blocks", 3), ("encoder-only", 0)])
def test_what_stands_on_top_of_the_quickstart(capsys: pytest.CaptureFixture[str], name: str, pursuits: int) -> None:
    """Such a config keeps what it does not name."""
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "--config=quickstart", f"--config={name}", "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["run_name"] == name
    assert config["data"]["samples_per_batch"] == 16
    arguments = config["model"]["sae"]["init_args"]
    assert (arguments["refinements"], arguments["pursuits"]) == (1, pursuits)


def test_what_is_nested_is_composed_key_by_key(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("more.yaml").write_text("data: {heldout: {num_test_samples: 7}, trajectories: {halves: both}}\n")
    with pytest.raises(SystemExit):
        main(
            [
                "fit",
                "--config=quickstart",
                "--config=more.yaml",
                "--data.trajectories.guidance_scale=3",
                "--print_config",
            ]
        )
    data = yaml.safe_load(capsys.readouterr().out)["data"]
    assert data["heldout"]["num_test_samples"] == 7
    assert data["heldout"]["num_validation_samples"] == 128
    assert data["heldout"]["images"]["init_args"]["split"] == "test"
    assert data["trajectories"] == {"num_inference_steps": 20, "guidance_scale": 3.0, "halves": "both"}
    assert data["loading"]["dtype"] == "auto"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--config=nowhere"], "neither a file nor one of the packaged configs"),
        (["--data.sites=[transformer_blocs.3]"], "transformer_blocks"),
        (["--data.colour=red"], "colour"),
        (["--data.guidance_scale=3"], "did you mean data.trajectories.guidance_scale?"),
        (["--config=old.yaml"], "did you mean data.heldout or data.images?"),
        (["--config=empty.yaml"], "data.heldout is empty"),
        (["--data.trajectories.num_inference_steps=0"], "num_inference_steps must be at least 1, not 0"),
        (["--model.lr=fast"], "lr"),
        (["--model.sae.init_args.k=100000"], "d_sae = 512"),
        (["--trainer.accelerator=gpu"], "gpu"),
        (["--ckpt_path=last", "--run_name=new"], "leave it out to start"),
        (["--ckpt_path=nowhere.ckpt"], "no such file"),
        (["--data.pretrained=nowhere/at-all"], "nowhere/at-all"),
        (["--model.lr=-1"], "model.lr = -1"),
        (["--config=alone.yaml"], "alone.yaml: run_name is empty: write what it is, or leave it out"),
        (["--config=null.yaml"], "matmul_precision is empty: take highest"),
        (["--model.lr=.nan"], "model.lr: nan is not a number"),
        (["--checkpoint=.nan"], "nan"),
        (["--trainer.precision=16-true"], "overflows"),
        (["--trainer.precision=64"], "bf16-mixed"),
        (["--trainer.precision=bf16-true"], "an Adam step below 6e-5 vanishes"),
        (["--trainer.precision=16-mixed", "--trainer.gradient_clip_val=1"], "take bf16-mixed"),
        (["--run_name=a/b"], "name one folder below --runs"),
        (["--run_name=.."], "name one folder below --runs"),
        (["--run_name=" + 300 * "x"], "name one folder below --runs"),
        (["--data.prompts=a\0b"], "NUL"),
        (["--config=latin.yaml"], "not UTF-8 (byte 10"),
        (["--config=loop.yaml"], "an alias refers to itself"),
        (["--config=bomb.yaml"], "multiply to more than 100,000"),
        (["--config=deep.yaml"], "nested too deeply"),
        (["--data.images=" + 3000 * "["], "nested too deeply"),
        (["--data.sites=[&a [*a]]"], "an alias refers to itself"),
        (["--data.prompts=missing.txt"], "missing.txt"),
        (["--data.images.init_args.split=null"], "cannot be built: there is no split None: take one of train, "),
        (["--data.tokens_per_sample=65"], "tokens_per_sample"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    work: Path, capsys: pytest.CaptureFixture[str], args: list[str], said: str
) -> None:
    Path("old.yaml").write_text("data: {heldout_images: {class_path: tide_lightning.grounds.toybox.Scenes}}\n")
    Path("null.yaml").write_text("matmul_precision:\nrun_name: debug\n")
    Path("alone.yaml").write_text("run_name:\n")
    Path("empty.yaml").write_text("data:\n  heldout:\n")
    (work / "latin.yaml").write_bytes("run_name: über".encode("latin-1"))
    (work / "loop.yaml").write_text("data: &a {sites: [*a]}")
    names = [f"a{number}" for number in range(9)]
    lines = ["a: &a0 [x]", *(f"{b}_: &{b} [{', '.join(8 * ['*' + a])}]" for a, b in pairwise(names))]
    (work / "bomb.yaml").write_text("\n".join(lines))
    (work / "deep.yaml").write_text("data: " + 5000 * "[" + 5000 * "]")
    assert said.lower() in complaint(capsys, "fit", *TINY, *args).lower()
    assert not (work / "runs").exists(), "a refused command writes nothing"


def test_a_folder_that_may_not_be_written_is_told_in_one_line(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "file").touch()
    assert "cannot be created: not a directory" in complaint(capsys, "fit", *TINY, "--runs=file/runs").lower()


def test_runs_of_one_second_have_a_folder_each_and_the_tenth_is_newer_than_the_ninth(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Noon(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Noon:
            return cls(2026, 1, 1, 12)

    monkeypatch.setattr("tide_lightning.runs.datetime", Noon)
    runs = []
    for _ in range(11):
        runs.append(new_run(work, "name"))
        (runs[-1] / "config.yaml").touch()
        point_latest(runs[-1])
        leave_runs()
    assert len(set(runs)) == 11
    assert [run.name for run in runs[:2]] == ["20260101-120000", "20260101-120000-2"]
    other = work / "other" / "20260101-120000-9"
    other.mkdir(parents=True)
    point_latest(other)
    assert newest_run(work) == runs[-1]
    nothing = new_run(work / "deep" / "runs", "name")
    assert nothing.is_dir()
    leave_runs()
    assert not (work / "deep").exists()


def test_nothing_to_test_is_told_in_one_line(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{work / 'runs'}: no run there to test" in complaint(capsys, "test")
    assert "no run folder" in complaint(capsys, "test", "--run=elsewhere")


def test_a_checkpoint_of_other_sizes_is_refused_and_stays_as_it_is(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tide("fit", *TINY) == 0
    checkpoint = work / "runs" / "debug" / "latest" / "checkpoints" / "last.ckpt"
    before = checkpoint.read_bytes()
    said = complaint(capsys, "fit", *TINY, "--ckpt_path=last", "--model.sae.init_args.expansion_factor=8")
    assert "W_dec" in said
    assert "512" in said
    assert checkpoint.read_bytes() == before


def test_a_checkpoint_whose_optimiser_has_one_group_for_all_saes_is_refused(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = (
        "--model.saes={a: {class_path: tide_lightning.saes.TideSAE, init_args: {k: 4}}, b: tide_lightning.saes.TideSAE}"
    )
    assert tide("fit", *TINY, two) == 0
    last = work / "runs" / "debug" / "latest" / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    groups = content["optimizer_states"][0]["param_groups"]
    groups[0]["params"] += groups.pop()["params"]
    torch.save(content, last)
    said = complaint(capsys, "fit", *TINY, two, "--ckpt_path=last", "--trainer.max_steps=6")
    assert "the checkpoint's optimiser has 1 group(s) for 2 SAEs" in said


def test_a_damaged_checkpoint_is_passed_over_for_an_older_whole_one(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tide("fit", *TINY, "--checkpoint.save_top_k=-1") == 0
    folder = work / "runs" / "debug" / "latest" / "checkpoints"
    assert not list(folder.glob(".*"))
    last, whole = folder / "last.ckpt", (folder / "last.ckpt").read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for damaged, said in ((whole[:5000], "not a checkpoint, or cut off"), (bytes(flipped), "is damaged")):
        last.write_bytes(damaged)
        (folder / ".last.ckpt.part").write_bytes(damaged)
        capsys.readouterr()
        assert tide("test", "--evaluation.num_images=0", "--data.heldout.num_test_samples=16") == 0
        told = capsys.readouterr().err
        assert said in told
        assert "going on from epoch=0-step=4.ckpt" in told
        assert said in complaint(capsys, "test", f"--ckpt_path={last}")
    assert tide("fit", *TINY, "--trainer.max_steps=6", "--ckpt_path=last") == 0
    assert torch.load(last, weights_only=True)["global_step"] == 6
    assert not list(folder.glob(".*"))
    for path in folder.glob("*.ckpt"):
        path.write_bytes(b"")
    assert "no checkpoint is whole" in complaint(capsys, "test")


def test_what_a_fit_killed_at_its_end_has_not_written_is_written_when_it_is_resumed(work: Path) -> None:
    """Nothing is left to train then."""
    assert tide("fit", *TINY) == 0
    (folder,) = (work / "runs" / "debug" / "latest" / "saes").iterdir()
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "sae.safetensors").unlink()
    (folder / ".cfg.json.part").write_bytes(b"{")
    last = work / "runs" / "debug" / "latest" / "checkpoints" / "last.ckpt"
    reached = last.read_bytes()
    last.rename(last.with_name("epoch=0-step=4.ckpt"))
    assert tide("fit", *TINY, "--ckpt_path=last") == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole
    assert last.read_bytes() == reached


def test_a_traceback_is_shown_on_request(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDE_DEBUG", "1")
    with pytest.raises(tide_lightning.errors.UserError):
        main(["fit", *TINY, "--ckpt_path=nowhere.ckpt"])
