"""What an atlas measures, on constructed codes and on a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tests.diffusion import pipelines
from tests.explore.conftest import D_SAE, SITES, write_run
from tests.explore.synthetic import write_atlas
from tide_lightning.cli import main
from tide_lightning.explore.atlas.meaning import gather_traits, rank_traits
from tide_lightning.explore.atlas.neighbours import FiringSample, by_direction, by_firing
from tide_lightning.explore.atlas.sheets import heat_sheet
from tide_lightning.explore.atlas.statistics import SiteStatistics
from tide_lightning.saes import SparseCode

CPU = torch.device("cpu")


@pytest.mark.parametrize("group_size", [1, 3, 8])
def test_statistics_are_those_of_dense_codes_however_they_come(group_size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    num_latents, num_samples, num_bins, num_top = 12, 8, 2, 3
    dense = torch.rand(num_bins, num_samples, 4, num_latents, generator=generator)  # 2 x 2 tokens each
    dense = dense.where(dense > 0.7, 0)
    dense[:, :, :, 5] = 0
    found = SiteStatistics(num_latents, (2, 2), num_samples, num_bins, num_top, CPU)
    for first in range(0, num_samples, group_size):
        part = dense[:, first : first + group_size]
        for at in range(num_bins):
            found.add(SparseCode.from_dense(part[at].flatten(0, 1)), (at + 0.5) / num_bins)
        found.end_group(first, part.shape[1])
    assert found.live.tolist() == [latent for latent in range(num_latents) if latent != 5]
    torch.testing.assert_close(found.fired, (dense > 0).sum((1, 2)).T)
    torch.testing.assert_close(found.sums, dense.double().sum((1, 2)).T)
    torch.testing.assert_close(found.peaks, dense.amax((0, 2)).T)
    torch.testing.assert_close(found.top_peaks, dense.amax((0, 2)).T.topk(num_top).values)
    for latent in found.live.tolist():
        for place, sample in enumerate(found.top_samples[latent].tolist()):
            shown = found.maps[latent, place].view(num_bins, 4).float()
            expected = dense[:, sample, :, latent] if sample >= 0 else torch.zeros(num_bins, 4)
            torch.testing.assert_close(shown, expected, atol=1e-3, rtol=0)


def test_large_grids_are_pooled_and_frames_laid_on_one_another() -> None:
    found = SiteStatistics(2, (2, 40, 20), 1, 1, 1, CPU)
    assert found.map_shape == (14, 7)
    dense = torch.zeros(2, 40, 20, 2)
    dense[1, 39, 19, 0] = 3.0
    found.add(SparseCode.from_dense(dense.flatten(0, 2)), 0.2)
    found.end_group(0, 1)
    assert found.maps[0, 0].view(14, 7)[13, 6] == 3
    assert found.maps.count_nonzero() == 1


def test_a_prompts_tokens_have_no_heat_map() -> None:
    found = SiteStatistics(3, (5,), 2, 1, 2, CPU)
    dense = torch.zeros(2, 5, 3)
    dense[1, 3, 2] = 2.0
    found.add(SparseCode.from_dense(dense.flatten(0, 1)), 0.2)
    found.end_group(0, 2)
    assert found.map_shape == (1, 1)
    assert found.top_samples[2].tolist() == [1, -1]


def test_sites_without_a_live_latent_have_an_empty_atlas(tmp_path: Path) -> None:
    captions = ["a red cube", "a blue cube"] * 10
    pictures = [Image.new("RGB", (8, 8))] * 20
    page = write_atlas(tmp_path, captions, torch.zeros(4, 20), pictures)
    assert pq.read_table(tmp_path / "tables" / "peaks.parquet").num_rows == 0
    assert '"live":0' in (page.parent / "data" / "meta.js").read_text()


def test_a_word_is_told_by_the_latent_that_follows_it() -> None:
    generator = torch.Generator().manual_seed(1)
    has = torch.rand(200, generator=generator) < 0.3
    captions = ["a red cube" if red else "a dark blue cone" for red in has.tolist()]
    labels = [{"size": ["large" if large else "small"]} for large in (torch.rand(200, generator=generator) < 0.5)]
    follows, noise = has.float() + 0.1 * torch.rand(200, generator=generator), torch.rand(200, generator=generator)
    traits = gather_traits(captions, labels, CPU)
    assert {("", "a"), ("size", "small")} - set(traits.names) == {("", "a")}  # every caption says "a"
    meaning = rank_traits(torch.stack([follows, noise]), traits, 4)
    told = traits.names[int(meaning.traits[0, 0])]
    assert told in (("", "red"), ("", "cube"), ("", "red cube"), ("", "a red"), ("", "a red cube"))
    assert meaning.auroc[0, 0] == 1
    assert meaning.lift[0, 0] == pytest.approx(1 / has.float().mean())
    assert meaning.hits[0, 0] == meaning.images[0] == 10
    assert meaning.tells[0] == 1
    assert meaning.traits[1].tolist() == [-1] * 4
    assert meaning.tells[1] < 0.65


def test_a_latent_of_two_values_is_called_by_both() -> None:
    values = ["red", "yellow", "blue", "green", "white"] * 40
    labels = [{"colour": [value]} for value in values]
    both = torch.tensor([value in ("red", "yellow") for value in values])
    red, generator = torch.tensor([value == "red" for value in values]), torch.Generator().manual_seed(0)
    traits = gather_traits([""] * len(values), labels, CPU)
    assert len(traits.names) == 5 + 10
    peaks = torch.stack([both, red]) + 0.1 * torch.rand(2, len(values), generator=generator)
    meaning = rank_traits(peaks, traits, 4)
    assert [traits.label(int(first)) for first in meaning.traits[:, 0]] == ["colour: red or yellow", "colour: red"]
    assert meaning.tells.tolist() == [1, 1]


def test_neighbours_point_the_same_way_or_fire_together() -> None:
    directions = torch.tensor([[1.0, 0], [0.9, 0.1], [-1, 0], [0, 1]])
    nearest = by_direction(directions, torch.tensor([0, 1, 3]), 2)
    assert nearest.latents.tolist() == [[1, -1], [0, 3], [1, -1]]
    dense = torch.zeros(40, 5)
    dense[:20, 0] = dense[:16, 1] = dense[:10, 2] = dense[30:, 4] = 1
    firing = FiringSample(5, 1.0, CPU)
    firing.add(SparseCode.from_dense(dense))
    together = by_firing(firing, torch.tensor([0, 2, 4]), firing, 2)
    assert together.latents.tolist() == [[1, 2], [1, 0], [-1, -1]]
    torch.testing.assert_close(together.values, torch.tensor([[0.8, 0.5], [0.625, 0.5], [0, 0]]))


def test_heat_is_transparent_where_a_latent_is_silent(tmp_path: Path) -> None:
    maps = torch.zeros(2, 1, 2 * 4)
    maps[0, 0, 5], maps[1, 0, 0] = 4.0, 2.0  # bin 1, row 0, column 1; bin 0, row 0, column 0
    (tmp_path / "heat.png").write_bytes(heat_sheet(maps, (2, 2)))
    picture = Image.open(tmp_path / "heat.png").convert("RGBA")
    assert picture.size == (4, 4)
    seen = [(x, y) for x in range(4) for y in range(4) if picture.getpixel((x, y))[3] > 0]
    assert seen == [(0, 2), (3, 0)]
    assert picture.getpixel((0, 2)) == picture.getpixel((3, 0))  # each beside its own strongest


def test_the_command_writes_pages_and_tables(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "atlas"
    where = [str(run_folder), "--out", str(out), "--device", "cpu"]
    assert main(["atlas", *where, "--samples", "24", "--bins", "3", "--sites", SITES[1]]) == 0
    assert f"written  {out / 'index.html'}" in capsys.readouterr().out
    features = pq.read_table(out / "tables" / "features.parquet").to_pylist()
    assert {row["site"] for row in features} == set(SITES[1:])
    peaks = pq.read_table(out / "tables" / "peaks.parquet").to_pandas()
    for row in features[:20]:
        here = peaks[(peaks.site == row["site"]) & (peaks.latent == row["latent"])]
        assert row["top"][0]["peak"] == pytest.approx(here.peak.max())
        assert 0 < row["frequency"] <= 1 and len(row["frequency_by_bin"]) == 3  # noqa: PT018
    samples = pq.read_table(out / "tables" / "samples.parquet").to_pylist()
    assert len(samples) == 24
    assert {one["factor"] for one in samples[0]["factors"]} > {"colour", "shape"}
    assert main(["atlas", str(run_folder), "--samples", "0"]) == 2
    assert "must be at least 1" in capsys.readouterr().err


def test_trajectories_and_sweeps_have_atlases_too(tmp_path: Path) -> None:
    keys = [f"{SITES[0]}@narrow", f"{SITES[0]}@wide"]
    prompts = ["a red cube", "a blue cone", "a green ring"] * 4
    data: dict[str, Any] = {"prompts": prompts, "heldout": {"prompts": prompts}, "source": "denoise"}
    folder = write_run(tmp_path / "walk" / "1", keys, trajectories={"num_inference_steps": 3}, **data)
    atlas = tmp_path / "atlas"
    assert main(["atlas", str(folder), "--out", str(atlas), "--samples", "4", "--bins", "4", "--batch", "3"]) == 0
    features = pq.read_table(atlas / "tables" / "features.parquet").to_pylist()
    assert {row["site"] for row in features} == set(keys)
    assert all(row["latent"] < D_SAE for row in features)
    samples = pq.read_table(atlas / "tables" / "samples.parquet").to_pylist()
    assert [row["caption"] for row in samples] == prompts[:4]
    assert len(list((atlas / "data").glob("thumbnails-*.webp"))) == 1


def test_text_streams_are_listed_without_heat_maps(tmp_path: Path) -> None:
    """On Stable Diffusion 3 without a single image: the pipeline makes its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipelines.sd3().save_pretrained(tmp_path / "sd3")
    keys = ["transformer_blocks.0", "transformer_blocks.0:text"]
    prompts = ["red ball", "blue cube", "green cone"] * 4
    data: dict[str, Any] = {
        "prompts": prompts,
        "samples_per_batch": 4,
        "noised": {"num_generated": 4},
        "trajectories": {"num_inference_steps": 2},
        "heldout": {"num_validation_samples": 4, "num_test_samples": 4},
    }
    run = write_run(tmp_path / "sd3-run" / "1", keys, str(tmp_path / "sd3"), **data)
    atlas = tmp_path / "atlas"
    assert main(["atlas", str(run), "--out", str(atlas), "--samples", "4", "--bins", "2"]) == 0
    image, text = atlas / "data" / "transformer_blocks.0", atlas / "data" / "transformer_blocks.0-text"
    for folder, has_heat in ((image, True), (text, False)):
        assert (folder / "index.js").is_file()
        assert (folder / "0.png").is_file() == has_heat
