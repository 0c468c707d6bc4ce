"""`tide publish` as far as a hub: huggingface_hub's own client against a server on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.explore.conftest import write_run
from tests.sharing.hub_server import Hub, hub_server

ROOT = Path(__file__).parents[2]
SITE = "transformer_blocks.3"
LOAD = f"""
import sys, torch
from tide_lightning.cli import main
from tide_lightning.saes import SAE
code = main(sys.argv[1:])
if code:
    sys.exit(code)
ours, theirs = SAE.from_pretrained("run/saes/{SITE}"), SAE.from_pretrained("someone/saes", site="{SITE}")
same = all(torch.equal(tensor, theirs.state_dict()[name]) for name, tensor in ours.state_dict().items())
print("the same weights came back:", same)
"""


def publish(folder: Path, hub: Hub, *arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the client reads its settings when it is imported."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf"), "HF_TOKEN": "hf_" + "x" * 30}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LOAD, "publish", "run", "someone/saes", "--license=apache-2.0", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_run_is_published_and_loads_by_its_id(tmp_path: Path) -> None:
    write_run(tmp_path / "run", [SITE], prompts="prompts.txt")
    with hub_server() as hub:
        done = publish(tmp_path, hub, "--private")
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-2:] == [
            f"{hub.url}/someone/saes: published",
            "the same weights came back: True",
        ]
        files = hub.files["someone/saes"]
        assert {"README.md", "config.yaml", f"saes/{SITE}/cfg.json", f"saes/{SITE}/sae.safetensors"} <= files.keys()
        assert files[f"saes/{SITE}/sae.safetensors"] == (tmp_path / "run/saes" / SITE / "sae.safetensors").read_bytes()
        assert json.loads(files[f"saes/{SITE}/cfg.json"])["class"] == "TideSAE"
        assert hub.private["someone/saes"]
        assert hub.asked[0] == "POST /api/repos/create"
        assert len([asked for asked in hub.asked if "/commit/" in asked]) == 1
        assert "Bearer hf_" + "x" * 30 in hub.tokens


def test_what_the_hub_refuses_is_told_in_one_line(tmp_path: Path) -> None:
    write_run(tmp_path / "run", [SITE], prompts="prompts.txt")
    with hub_server() as hub:
        hub.refuses = True
        done = publish(tmp_path, hub)
    assert done.returncode == 2
    (line,) = (line for line in done.stderr.splitlines() if "tide: error" in line)
    assert line.startswith("tide: error: someone/saes: the hub refused it: ")
    assert "Traceback" not in done.stderr
    assert "hf_x" not in done.stderr


def test_a_hub_that_cannot_be_reached_is_told_in_one_line(tmp_path: Path) -> None:
    write_run(tmp_path / "run", [SITE], prompts="prompts.txt")
    with hub_server() as hub:
        pass  # gone
    done = publish(tmp_path, hub)
    assert done.returncode == 2, done.stderr
    assert "tide: error: someone/saes: " in done.stderr
    assert "Traceback" not in done.stderr
