"""`python -m tools.toybox.evaluate`: how good the oracles and the pipeline are, as numbers and a picture.

Nothing here was seen in training: renders come from the test split, prompts are the held-out ones.
"""

import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import PixArtAlphaPipeline
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from tide_lightning.grounds.toybox import pipeline_path
from tide_lightning.grounds.toybox.captions import Mentions, parse, shows_held_out
from tide_lightning.grounds.toybox.factors import FACTORS, Labels
from tide_lightning.grounds.toybox.oracle import ORACLES, Oracle, load_oracle
from tide_lightning.grounds.toybox.prompts import held_out_prompts, prompts
from tide_lightning.grounds.toybox.renderer import render
from tide_lightning.grounds.toybox.world import draw_scenes
from tools.command import run
from tools.toybox.oracle_training import by_place

Report = dict[str, Any]


def sample(pipeline: PixArtAlphaPipeline, prompt_list: list[str], *, seed: int = 0, batch_size: int = 32) -> Tensor:
    """Images in [-1, 1] at the pipeline's default steps and guidance; image i depends on (seed, i)."""
    pieces = []
    for start in range(0, len(prompt_list), batch_size):
        piece = prompt_list[start : start + batch_size]
        generators = [torch.Generator().manual_seed(seed * 1_000_003 + start + i) for i in range(len(piece))]
        output = pipeline(
            prompt=piece,
            generator=generators,
            use_resolution_binning=False,
            clean_caption=False,
            output_type="pt",
        )
        pieces.append(output.images.float().cpu() * 2 - 1)
    return torch.cat(pieces)


def oracle_accuracy(oracle: Oracle, num_scenes: int = 5000, batch_size: int = 250) -> Report:
    """Share of test renders read rightly, by factor; scenes with two objects are read place by place."""
    right = dict.fromkeys(FACTORS, 0)
    total = dict.fromkeys(FACTORS, 0)
    exact = pairs = 0
    for index in torch.arange(num_scenes).split(batch_size):
        labels, _ = draw_scenes("test", index)
        image = render(index, split="test").image
        single = labels.num_objects == 1
        read = oracle.read(image[single])
        for name in FACTORS:
            truth = getattr(labels, name)[single]
            truth = truth[:, 0] if truth.ndim == 2 else truth
            right[name] += int((read[name].argmax(-1) == truth).sum())
            total[name] += len(truth)
        wanted = _described(labels.take(~single))
        exact += sum(a == b for a, b in zip(oracle.objects(image[~single]), wanted, strict=True))
        pairs += len(wanted)
    accuracy: Report = {name: right[name] / total[name] for name in FACTORS}
    return accuracy | {
        "single_object_scenes": total["shape"],
        "two_object_scenes": pairs,
        "two_objects_all_factors": exact / max(pairs, 1),
    }


def _described(labels: Labels) -> list[list[dict[str, str]]]:
    """The objects of each scene as `Oracle.objects` gives them."""
    places = by_place(labels)
    columns = {name: getattr(places, name).tolist() for name in places._fields}
    return [
        [
            {name: FACTORS[name][column[scene][place]] for name, column in columns.items()}
            | {"place": FACTORS["place"][place]}
            for place in range(len(FACTORS["place"]))
            if columns["shape"][scene][place] >= 0
        ]
        for scene in range(len(labels.wall))
    ]


def prompt_agreement(read: dict[str, Tensor], said: list[Mentions]) -> Report:
    """Share of mentioned factor values that the oracle finds in the images of single-object prompts."""
    report: Report = {}
    for name, values in FACTORS.items():
        wanted = [({**m.objects[0], **m.scene}).get(name) for m in said]
        rows = [i for i, value in enumerate(wanted) if value]
        found = read[name].argmax(-1)
        if rows:
            hits = sum(values[int(found[i])] == wanted[i] for i in rows)
            report[name] = hits / len(rows)
    return report


def pair_agreement(seen: list[list[dict[str, str]]], said: list[Mentions]) -> Report:
    """How well two-object prompts are followed, objects matched as well as they can be."""
    both = hits = mentioned = entire = 0
    for objects, mentions in zip(seen, said, strict=True):
        first, second = mentions.objects
        total = len(first) + len(second)
        orders = itertools.permutations([*objects, {}, {}], 2)
        best = max(
            sum(a.get(k) == v for k, v in first.items()) + sum(b.get(k) == v for k, v in second.items())
            for a, b in orders
        )
        both += len(objects) == 2
        hits += best
        mentioned += total
        entire += best == total and len(objects) == 2
    return {
        "prompts": len(said),
        "shows_two_objects": both / len(said),
        "mentioned_object_factors": hits / mentioned,
        "everything_right": entire / len(said),
    }


def marginals(oracle: Oracle, image: Tensor) -> Report:
    """Which shapes and colours unprompted samples show, relative to the uniform share."""
    objects = [o for scene in oracle.objects(image) for o in scene]
    report: Report = {"objects_per_image": len(objects) / len(image)}
    for name in ("shape", "colour"):
        values = FACTORS[name]
        counts = [sum(o[name] == value for o in objects) for value in values]
        report[name] = {
            value: round(count * len(values) / max(len(objects), 1), 3)
            for value, count in zip(values, counts, strict=True)
        }
    return report


def image_grid(image_B3HW: Tensor, columns: int = 8, scale: int = 1) -> Tensor:
    """Images in [-1, 1] as one uint8 picture [H, W, 3], each pixel repeated `scale` times."""
    image = image_B3HW.float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    image = image.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    rows = -(-len(image) // columns)
    image = pad(image, (1, 1, 1, 1), value=255)
    image = torch.cat([image, image.new_full((rows * columns - len(image), *image.shape[1:]), 255)])
    grid = image.unflatten(0, (rows, columns)).permute(0, 3, 1, 4, 2)
    picture: Tensor = grid.flatten(0, 1).flatten(1, 2).cpu()
    return picture


def _timed(work: Callable[[], object]) -> Report:
    """Wall and processor time; on a machine shared with others the wall says little."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return {
        "wall_seconds": round(time.perf_counter() - wall, 2),
        "processor_seconds": round(time.process_time() - processor, 2),
        "threads": torch.get_num_threads(),
    }


def evaluate(
    out: Path = Path("runs/toybox/evaluation"),
    pipeline: Path | None = None,
    num_scenes: int = 5000,
    num_prompts: int = 512,
    num_pairs: int = 128,
    num_unprompted: int = 1000,
    threads: int = 2,
) -> None:
    """Measure the oracles and the pipeline; writes `evaluation.json` and `samples.png`.

    Args:
        out: Folder to write into.
        pipeline: Another pipeline folder than the shipped one.
        num_scenes: Test renders for the oracles.
        num_prompts: Single-object prompts never used in training.
        num_pairs: Two-object prompts.
        num_unprompted: Samples of the empty prompt.
        threads: CPU threads.
    """
    torch.set_num_threads(threads)
    diffusers_logging.disable_progress_bar()
    folder = pipeline or pipeline_path()
    pipe = PixArtAlphaPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    oracles = {name: load_oracle(name) for name in ORACLES}
    out.mkdir(parents=True, exist_ok=True)
    report: Report = {}

    def keep(key: str, value: object) -> None:
        """Write after every part: a stopped evaluation leaves what it has."""
        report[key] = value
        (out / "evaluation.json").write_text(json.dumps(report, indent=2) + "\n")
        print(key, json.dumps(value), flush=True)

    if num_scenes:
        for name, oracle in oracles.items():
            keep(f"oracle_{name}_on_renders", oracle_accuracy(oracle, num_scenes))
    keep("rendering_512_scenes", _timed(lambda: render(torch.arange(512))))
    sixteen = held_out_prompts(16)
    keep("sampling_16_images", _timed(lambda: sample(pipe, sixteen, batch_size=16)))
    texts = held_out_prompts(num_prompts)
    said = [parse(text) for text in texts]
    image = sample(pipe, texts)
    Image.fromarray(image_grid(image[:64], columns=8, scale=2).numpy()).save(out / "samples.png")
    (out / "samples.txt").write_text("\n".join(texts[:64]) + "\n")
    reads = {name: oracle.read(image) for name, oracle in oracles.items()}
    unseen = torch.tensor([shows_held_out(m) for m in said])
    for name, read in reads.items():
        alone = float((oracles[name].count(image) == 1).float().mean())
        keep(f"prompts_by_oracle_{name}", prompt_agreement(read, said) | {"shows_one_object": alone})
        keep(
            f"held_out_pairs_by_oracle_{name}",
            prompt_agreement(
                {k: v[unseen] for k, v in read.items()},
                [m for m, flag in zip(said, unseen.tolist(), strict=True) if flag],
            )
            | {"prompts": int(unseen.sum())},
        )
    keep(
        "oracles_agree_on_generated",
        {name: float((reads["a"][name].argmax(-1) == reads["b"][name].argmax(-1)).float().mean()) for name in FACTORS},
    )
    if num_pairs:
        texts = prompts(num_pairs, split="test", num_objects=2)
        image = sample(pipe, texts, seed=1)
        for name, oracle in oracles.items():
            keep(
                f"two_objects_by_oracle_{name}",
                pair_agreement(oracle.objects(image), [parse(text) for text in texts]),
            )
    if num_unprompted:
        image = sample(pipe, [""] * num_unprompted, seed=2)
        Image.fromarray(image_grid(image[:64], columns=8, scale=2).numpy()).save(out / "unprompted.png")
        for name, oracle in oracles.items():
            keep(f"unprompted_by_oracle_{name}", marginals(oracle, image))


if __name__ == "__main__":
    run(evaluate)
