"""Two steps of `tide fit` and a `tide test`, as small as they get."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tide_lightning.cli import main

_DATA: dict[str, Any] = {
    "source": "both",
    "samples_per_batch": 4,
    "tokens_per_sample": 4,
    "num_calibration_samples": 8,
    "noised": {"num_generated": 4},
    "heldout": {"num_validation_samples": 4, "num_test_samples": 4},
}
_TRAJECTORIES = {"num_inference_steps": 2}
_SAE = {"class_path": "tide_lightning.saes.TideSAE", "init_args": {"expansion_factor": 2, "k": 4}}
_TRAINER = {
    "max_steps": 2,
    "log_every_n_steps": 1,
    "accelerator": "cpu",
    "devices": 1,
    "strategy": "auto",
    "precision": "32-true",
    "callbacks": [],
}


def fit_and_test(name: str, data: dict[str, Any], *configs: str) -> Path:
    """The run folder, in the working directory; `configs` come before what makes the run small."""
    data = _DATA | data | {"trajectories": _TRAJECTORIES | data.get("trajectories", {})}
    config = {"run_name": name, "data": data, "model": {"sae": _SAE}, "trainer": _TRAINER}
    Path("small.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", *(f"--config={file}" for file in [*configs, "small.yaml"])]) == 0
    assert main(["test", "--evaluation.num_images=2"]) == 0
    return Path("runs") / name / "latest"
