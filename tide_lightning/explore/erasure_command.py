"""`tide erase`: suppress a concept, and see what that costs other prompts."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from tide_lightning.class_paths import import_named
from tide_lightning.datamodules.prompts import read_prompts
from tide_lightning.errors import UserError
from tide_lightning.explore.erasure import Erased, Judge, erase, erasing, find_concept
from tide_lightning.explore.pictures import check_picture, save_picture, sheet
from tide_lightning.explore.requests import check_windows, parse_numbers, parse_window
from tide_lightning.explore.run import open_run
from tide_lightning.files import write_json
from tide_lightning.intervene.edits import Edit, check_edits
from tide_lightning.waiting import stepping

_NUM_SHOWN = 6


def erase_concept(
    run: str,
    suppress: str = "",
    keep: str = "",
    judge: str = "",
    judge_of: str | None = None,
    out: str = "erased.png",
    factor: str = "0,-1,-3",
    count: int = 16,
    window: str = "0,1",
    most: int = 16,
    seed: int = 0,
    steps: int = 20,
    guidance_scale: float | None = None,
    device: str = "auto",
    trust: bool = False,
) -> None:
    """Turn the latents of a concept against it, and measure what is left of it and of other prompts' images.

    Args:
        run: a run folder, or a run's name below runs/.
        suppress: a file of prompts that call for the concept, one a line.
        keep: a file of prompts that do not, whose images are to stay as they are.
        judge: class path of a classifier: it gives the chance that each image of a batch shows the concept.
        judge_of: what the class is made with, if it takes something.
        out: the picture; the figures go into a file beside it, with the ending .json.
        factor: what the concept's latents are multiplied by, several separated by commas; 0 switches them off.
        count: at most so many latents of each site.
        window: low,high; the times t within which to erase, 1 being pure noise.
        most: prompts of each file that are used; the first half of them to find latents by, the others to measure on.
        seed: of the noise.
        steps: of the trajectories.
        guidance_scale: as in the run's data unless given.
        device: where to compute; auto takes a GPU where there is one.
        trust: let the run's config import classes that are not this package's, and read prompts from elsewhere.
    """
    if steps < 1 or count < 1 or most < 2:
        raise UserError(f"--steps {steps}, --count {count}, --most {most}: at least 1, 1 and 2")
    check_picture(out)
    factors = [value for value in parse_numbers("--factor", factor) if value != 1]
    (low, high), seen = parse_window(window), load_judge(judge, judge_of)
    lists = [_prompts(name, path, most) for name, path in (("--suppress", suppress), ("--keep", keep))]
    opened = open_run(run, device, trust=trust)
    denoiser, saes = opened.denoiser, opened.saes
    check_windows(denoiser, [Edit(next(iter(saes)), 0, window=(low, high))], steps)
    settings = opened.trajectory(steps, guidance_scale)
    suppressed, kept = lists
    pairs = denoiser.noise(seed, "concept", numbers=range((max(map(len, lists)) + 1) // 2))
    with stepping("Watching latents while the concept is drawn", 2 * steps) as step:
        wanted, others = suppressed[::2], kept[::2]
        latents = find_concept(denoiser, saes, wanted, others, pairs, count=count, callback=step, **settings)
    if not latents:
        raise UserError("no latent fires with the one list and hardly with the other: give prompts that differ more")
    edits = erasing(latents, 0.0, (low, high))
    check_edits(denoiser, saes, edits)
    for site in saes:
        print(f"{site}: {', '.join(str(one.latent) for one in latents if one.site == site) or 'none'}")
    suppressed, kept = suppressed[1::2], kept[1::2]
    start = denoiser.noise(seed, "sample", numbers=range(len(suppressed) + len(kept)))
    with stepping("Drawing with these latents suppressed", (1 + len(factors)) * steps) as step:
        settings |= {"window": (low, high), "callback": step}
        outcomes = erase(denoiser, saes, latents, factors, suppressed, kept, start, seen, **settings)
    for one in outcomes:
        print(_line(one))
    path = save_picture(sheet(_rows(outcomes)), out)
    figures = {
        "latents": [one._asdict() for one in latents],
        "prompts": {"suppress": suppressed, "keep": kept},
        "factors": [
            {name: value for name, value in one._asdict().items() if not isinstance(value, Tensor)} for one in outcomes
        ],
    }
    print(f"{path}, {write_json(path.with_suffix('.json'), figures)}")


def load_judge(path: str, made_with: str | None) -> Judge:
    """The classifier of a class path."""
    if "." not in path:
        raise UserError(
            "judge: name a classifier by its class path, such as tide_lightning.grounds.toybox.judge.ToyboxJudge; it"
            " takes images [N, 3, H, W] in [-1, 1] and gives the chance of the concept for each"
        )
    found = import_named(path, "judge")
    try:
        judge: Judge = (found() if made_with is None else found(made_with)) if isinstance(found, type) else found
    except TypeError as error:
        raise UserError(f"judge {path!r}: {error}; --judge_of says what it is made with") from error
    if not callable(judge):
        raise UserError(f"judge {path!r} cannot be called")
    return judge


def _prompts(name: str, path: str, most: int) -> list[str]:
    if not path:
        raise UserError(f"{name}: give a file of prompts, one a line")
    prompts = list(dict.fromkeys(read_prompts(path)))[:most]
    if len(prompts) < 2:
        raise UserError(
            f"{name} {path}: give at least two prompts; latents are found by one half, measured on the other"
        )
    return prompts


def _line(one: Erased) -> str:
    what = "as it is" if one.factor == 1 else "switched off" if one.factor == 0 else f"times {one.factor:g}"
    cost = f"others changed by {one.changed:.1%} of the range (unrelated images differ by {one.unrelated:.1%})"
    return f"{what}: the concept is seen in {one.shown:.0%}, elsewhere in {one.shown_elsewhere:.0%}; {cost}"


def _rows(outcomes: Sequence[Erased]) -> list[list[tuple[str, Tensor]]]:
    rows = []
    for one in outcomes:
        title = "as it is" if one.factor == 1 else f"times {one.factor:g}"
        half = _NUM_SHOWN // 2
        images = [*one.suppressed[:half], *one.kept[:half]]
        names = [title, *[""] * (len(one.suppressed[:half]) - 1), "others", *[""] * (half - 1)]
        rows.append(list(zip(names, images, strict=False)))
    return rows
