"""What a fit takes of a machine: its GPU, in bf16 where it can, and the one line that says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tide_lightning.accelerators import Gpu, gpu_here, take
from tide_lightning.cli import main

NEW, OLD = Gpu("NVIDIA H200", has_bf16=True), Gpu("Tesla V100", has_bf16=False)
CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.mark.parametrize(
    ("accelerator", "precision", "gpu", "taken"),
    [
        ("auto", None, NEW, ("cuda", "bf16-mixed", "on a GPU (NVIDIA H200) in bf16-mixed")),
        ("auto", None, OLD, ("cuda", "32-true", "on a GPU (Tesla V100) in 32-true")),
        ("auto", "32-true", NEW, ("cuda", "32-true", "on a GPU (NVIDIA H200) in 32-true")),
        ("auto", None, None, ("cpu", "32-true", "on the CPU in 32-true: PyTorch sees no GPU")),
        ("auto", "bf16-mixed", None, ("cpu", "bf16-mixed", "on the CPU in bf16-mixed: PyTorch sees no GPU")),
        ("cpu", None, NEW, ("cpu", "32-true", "")),
        ("gpu", None, NEW, ("gpu", "bf16-mixed", "on a GPU (NVIDIA H200) in bf16-mixed")),
        ("gpu", "bf16-mixed", NEW, ("gpu", "bf16-mixed", "")),
        ("gpu", None, None, ("gpu", "32-true", "")),  # Lightning says that there is none
    ],
)
def test_what_is_taken(accelerator: str, precision: str | None, gpu: Gpu | None, taken: tuple[str, str, str]) -> None:
    assert take(accelerator, precision, gpu) == taken


def test_a_fit_says_what_it_runs_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a machine with a GPU this test says so: the line is the one of `take`."""
    monkeypatch.chdir(tmp_path)
    short = ["--config=debug", "--trainer.max_steps=1", "--trainer.accelerator=auto"]
    assert main(["fit", *short]) == 0
    line = take("auto", None, gpu_here()).line
    assert [said for said in capsys.readouterr().out.splitlines() if said.startswith("fit  on ")] == [f"fit  {line}"]
    assert main(["fit", *short, "--trainer.accelerator=cpu", "--run_name=quiet"]) == 0
    assert "fit  on " not in capsys.readouterr().out
    config = yaml.safe_load((tmp_path / "runs" / "debug" / "latest" / "config.yaml").read_text())
    assert config["trainer"]["accelerator"] == "auto", "a run's config goes to other machines"


def test_packaged_configs_take_what_is_there_unless_something_else_is_meant() -> None:
    found = {
        path.stem: settings["trainer"]["accelerator"]
        for path in CONFIGS.glob("*.yaml")
        if "accelerator" in (settings := yaml.safe_load(path.read_text("utf-8"))).get("trainer", {})
    }
    named = {name for name, accelerator in found.items() if accelerator != "auto"}
    assert named == {"debug", "dit", "flux", "pixart", "pixart-sigma", "sana", "sd3", "sdxl", "wan"}
    assert {name for name in named if found[name] == "cpu"} == {"debug"}, "the same bits everywhere"
