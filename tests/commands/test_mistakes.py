"""A setting that cannot be meant: its whole key, what may have been meant, and what there is, in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tide_lightning.cli import main

RESAMPLE = {"class_path": "ResampleDeadLatents", "init_args": {"every_n_step": 3}}
CONFIGS = {
    "misspelt": {"modle": {"lr": 3}},
    "in-sae": {"model": {"sae": {"init_args": {"d_sea": 4}}}},
    "in-saes": {"model": {"saes": {"a": {"class_path": "TideSAE", "init_args": {"refinment": 1}}}}},
    "in-callback": {"trainer": {"callbacks": [RESAMPLE]}},
    "no-class": {"model": {"sae": {"class_path": "TidalSAE"}}},
    "no-module": {"model": {"sae": {"class_path": "nowhere.TideSAE"}}},
    "in-images": {"data": {"images": {"class_path": "ImageFolder", "init_args": {"foldr": "x"}}}},
    "no-folder": {"data": {"images": {"class_path": "ImageFolder", "init_args": {"folder": "nowhere", "size": 64}}}},
    "nested": {"data": {"loading": {"dtyp": "auto"}}},
}


def complaint(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    capsys.readouterr()
    assert main(["fit", "--config=debug", *args]) == 2
    told = capsys.readouterr().err
    assert told.startswith("tide: error: ")
    assert told.count("\n") == 1
    assert "typing" not in told
    assert "Union" not in told
    assert "Namespace" not in told
    return told


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("misspelt", "modle: there is no such option; did you mean model? There are seed_everything,"),
        (
            "in-sae",
            "model.sae.init_args.d_sea: there is no such option; did you mean d_sae? There are expansion_f",
        ),
        ("in-saes", "model.saes.a.init_args.refinment: there is no such option; did you mean refinements?"),
        (
            "in-callback",
            "trainer.callbacks[0].init_args.every_n_step: there is no such option; did you mean every_n_s",
        ),
        ("no-class", "model.sae: there is no class 'TidalSAE'; did you mean TideSAE"),
        ("no-module", "'nowhere.TideSAE' cannot be imported"),
        ("in-images", "data.images.init_args.foldr: there is no such option; did you mean folder?"),
        ("no-folder", "image folder nowhere: no such folder"),
        ("nested", "data.loading.dtyp: there is no such option; did you mean data.loading.dtype?"),
    ],
)
def test_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], config: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(yaml.safe_dump(CONFIGS[config]))
    assert said in complaint(capsys, "--config=mine.yaml")
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--data.sites=transformer_blocks.3"], "stands where a list belongs; write [transformer_blocks.3]"),
        (["--data.sites", "transformer_blocks.3"], "stands where a list belongs; write [transformer_blocks.3]"),
        (["--data.colour=red"], "data.colour: there is no such option. There are pretrained, sites,"),
        (["--data.guidance_scale=3"], "did you mean data.trajectories.guidance_scale?"),
        (["--model.lr=fast"], "model.lr: 'fast' is not a number"),
        (["--lr=3"], "lr: there is no such option; did you mean model.lr?"),
        (["--d_sae=512"], "d_sae: there is no such option; did you mean model.sae.init_args.d_sae?"),
        (["--trainer.max_step=3"], "did you mean trainer.max_steps or "),
        (["--model.sae.k=many"], "model.sae.init_args.k: 'many' is not a number"),
        (["--model.sae=TideSAE", "--model.sae.init_args.kk=1"], "model.sae.init_args.kk: there is no such option"),
        (["--model.sae.init_args.known_part=men"], "'men' is not one of mean, mean_t,"),
        (["--data.images=nowhere"], "data.images: there is no class 'nowhere'. There are"),
        (["--data.images=/nowhere/there"], "data.images: '/nowhere/there' stands where a class belongs"),
        (["--data.samples_per_batch=1.5"], "data.samples_per_batch: 1.5 is not a whole number"),
        (["--data.loading=bf16"], "data.loading: 'bf16' holds options: write them below it. There are dtype,"),
        (["--data.heldout="], "data.heldout is empty"),
        (["--trainer.callbacks+=Nothing"], "trainer.callbacks[1]: there is no class 'Nothing'"),
        (["--trainer.precision=bf17"], "'bf17' is not one of 64, 32, 16, transformer-engine"),
        (["stray"], "'stray' stands alone"),
    ],
)
def test_on_the_command_line(capsys: pytest.CaptureFixture[str], args: list[str], said: str) -> None:
    assert said in complaint(capsys, *args)


def test_d_sae_says_how_many_latents(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "--config=debug", "--model.sae.init_args.d_sae=512", "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["model"]["sae"]["init_args"]["d_sae"] == 512
