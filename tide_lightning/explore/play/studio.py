"""What the page asks for: images before and after, latents that are active, latents found by words. One at a time."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor

from tide_lightning.diffusion import sample_images
from tide_lightning.drawing import encoded
from tide_lightning.errors import UserError
from tide_lightning.evaluation.page import data_uri
from tide_lightning.explore.aim import Aim, aim_at
from tide_lightning.explore.consequences import Witness, difference
from tide_lightning.explore.finder import STEPS_TO_FIND, STEPS_TO_MEASURE, Callback, Found, find_by_words
from tide_lightning.explore.pictures import heat, to_picture
from tide_lightning.explore.places import meant
from tide_lightning.explore.play.fields import Fields
from tide_lightning.explore.question import telling
from tide_lightning.explore.requests import check_windows
from tide_lightning.explore.run import Run
from tide_lightning.explore.unit import unit_of, word_of
from tide_lightning.intervene import Edit, steer
from tide_lightning.intervene.amounts import full_amounts
from tide_lightning.intervene.edits import check_edits
from tide_lightning.intervene.recording import Seen, walk_prompts, watch

_NUM_ACTIVE = 60  # latents of each site that are listed
_NUM_EXAMPLES = 6
_NUM_CAPTIONS = 512  # of which examples are chosen
_SURE = 0.9  # of a name's score, from which on examples shall say it
_MAX_EDITS = 16
_MAX_AIMS = 64  # that are remembered
_IDLE: dict[str, Any] = {"busy": False, "doing": "", "done": 0, "of": 0, "left": 0.0}


class Original(NamedTuple):
    """The image that is steered and what it was made of, kept so that a slider moves one image and not two."""

    key: tuple[Any, ...]
    image: Tensor
    seen: Seen


class Busy(Exception):  # noqa: N818 - no error: the page waits
    """Something else is being made."""


class Studio:
    """Draws for one page at a time, with so many steps unless the page asks for others."""

    def __init__(self, run: Run, steps: int) -> None:
        self.run, self.steps = run, steps
        self.denoiser, self.saes = run.denoiser, run.saes
        self.guidance_scale = run.guidance_scale
        self._lock = threading.Lock()
        self._progress: dict[str, Any] = _IDLE
        self._original: Original | None = None
        self._found: dict[tuple[str, int], tuple[str, Found]] = {}
        self._aims: dict[tuple[Any, ...], Aim] = {}
        self._witness = Witness(run)
        self._full = {site: full_amounts(sae).cpu() for site, sae in self.saes.items()}

    def about(self) -> dict[str, Any]:
        """What the page needs to know before anything is drawn."""
        return {
            "run": self.run.name,
            "sites": list(self.saes),
            "named": bool(self.run.names),
            "examples": self._examples(),
            "steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "guided": self.denoiser.guidance == "classifier_free",
        }

    def progress(self) -> dict[str, Any]:
        """What is being made, how many steps of how many are done, and the seconds that are left."""
        return self._progress

    def draw(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The image without steering, and the latents that are active in it."""
        with self._working("Drawing"):
            original = self._draw(Fields(request))
            return {"image": _data_url(original.image), "active": self._active(original.seen)}

    def steer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The image with edits, beside the one without; and what edits came to, for amounts may be told in times."""
        fields = Fields(request)
        edits = self._edits(fields)
        with self._working("Steering"):
            steps = self._steps(fields)
            check_edits(self.denoiser, self.saes, edits)
            check_windows(self.denoiser, edits, steps)
            original = self._draw(fields)
            aims = [self._aim(fields, original, edit) for edit in edits]
            is_aimed = fields.text("where", 20, "firing") == "firing"
            edits = [
                replace(edit, amount=amount, region=aim.region if is_aimed else None)
                for edit, aim, amount in zip(edits, aims, self._amounts(fields, aims), strict=True)
            ]
            with steer(self.denoiser, self.saes, edits) as steered:
                image = sample_images(steered, [fields.text("prompt")], **self._settings(fields, "Steering"))[0]
            changed = self._witness.compare(original.image, image, meant(edits, self.saes, image))
        moved = difference(original.image, image)
        return {
            "before": _data_url(original.image),
            "after": _data_url(image),
            "difference": _data_url(heat(moved / moved.max().clamp_min(1e-6))),
            "changed": changed.lines(),
            "edits": [
                {"amount": edit.amount, "unit": aim.unit, "means": aim.means, "everywhere": edit.region is None}
                for edit, aim in zip(edits, aims, strict=True)
            ],
        }

    def find(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Latents by which the denoiser makes what a text says."""
        query = Fields(request).text("query", 200)
        with self._working("Searching"):
            steps = self._steps_of(f"Drawing images with and without “{query}”", STEPS_TO_FIND)
            found = find_by_words(self.run, query, top=12, callback=steps)
            self._found |= {(one.site, one.latent): (query, one) for one in found}
        return {"found": [self._entry(one.site, one.latent) | {"told": one.tells} for one in found]}

    def _entry(self, site: str, latent: int) -> dict[str, Any]:
        """A latent as the page lists it: its name, how surely that tells its images, how far it was found to push."""
        called, (query, found) = self.run.names.get((site, latent)), self._found.get((site, latent), ("", None))
        named = {} if called is None else {"name": called.text, "tells": called.tells}
        push = {}
        if found is not None:
            push["times"] = round(found.amount / unit_of(self.run, (site, latent), query).amount, 2)
        return {"site": site, "latent": latent, **named, **push}

    def _aim(self, fields: Fields, original: Original, edit: Edit) -> Aim:
        assert isinstance(edit.latent, int)
        query, found = self._found.get((edit.site, edit.latent), ("", None))
        key = (original.key, edit.site, edit.latent, query)
        if key not in self._aims:
            latent, settings = (edit.site, edit.latent), self._settings(fields, "Seeing where it fires")
            word = query or word_of(self.run, latent)
            measuring = self._steps_of(f"Measuring, once for a word, how far “{word}” moves it", STEPS_TO_MEASURE)
            prompt, seen = fields.text("prompt"), original.seen
            one = aim_at(self.run, latent, prompt, query, seen, settings, found, measuring=measuring)
            self._aims = dict([*self._aims.items(), (key, one)][-_MAX_AIMS:])
        return self._aims[key]

    def _amounts(self, fields: Fields, aims: Sequence[Aim]) -> list[float]:
        """What was told in times is of what the latent's word does, but for `scale`, which multiplies."""
        amounts = []
        for entry, aim in zip(fields.several("edits", _MAX_EDITS), aims, strict=True):
            unit = 1.0 if entry.text("operation", 20, "add") == "scale" else aim.unit
            times = entry.number("times", -100, 100, 0.0) * unit
            amounts.append(times if "times" in entry else entry.number("amount", -1e4, 1e4, 0.0))
        return amounts

    def _examples(self) -> list[str]:
        """A few of the run's own prompts that speak of much; none where its data is no longer where it was."""
        try:
            captions = self.run.captions[:_NUM_CAPTIONS]
        except UserError:
            return []
        return telling(captions, [name.word for name in self.run.names.values() if name.tells >= _SURE], _NUM_EXAMPLES)

    def _draw(self, fields: Fields) -> Original:
        settings = self._settings(fields, "Drawing")
        made_of = settings["num_inference_steps"], settings["guidance_scale"]
        key = (fields.text("prompt"), fields.whole("seed", 0, 2**31), *made_of)
        if self._original is None or self._original.key != key:
            seen = watch(self.denoiser, self.saes, walk_prompts([fields.text("prompt")], **settings))
            self._original = Original(key, self.denoiser.decode_latents(seen.latents)[0], seen)
        return self._original

    def _settings(self, fields: Fields, doing: str) -> dict[str, Any]:
        steps = self._steps(fields)
        noise = self.denoiser.noise(fields.whole("seed", 0, 2**31), "sample", numbers=[0])
        scale = fields.number("guidance_scale", 0, 100, self.guidance_scale)
        return {"initial_noise": noise, **self.run.trajectory(steps, scale), "callback": self._steps_of(doing, steps)}

    def _steps_of(self, doing: str, of: int) -> Callback:
        """To be called after each of so many steps: keeps what the page is told."""
        begun: float | None = None
        done = 0

        def step(number: int, timestep: Tensor, latents: Tensor) -> None:
            nonlocal begun, done
            begun, done = begun or time.monotonic(), done + 1
            each = (time.monotonic() - begun) / max(done - 1, 1)
            self._progress = {"busy": True, "doing": doing, "done": done, "of": of, "left": each * (of - done)}

        return step

    def _steps(self, fields: Fields) -> int:
        return fields.whole("steps", 1, 200, self.steps)

    def _edits(self, fields: Fields) -> list[Edit]:
        window = fields.number("low", 0, 1, 0.0), fields.number("high", 0, 1, 1.0)
        half = fields.text("half", 20, "conditional" if self.denoiser.guidance == "classifier_free" else "both")
        return [
            Edit(
                entry.text("site", 500),
                entry.whole("latent", 0, 2**31),
                entry.text("operation", 20, "add"),  # type: ignore[arg-type]  # Edit says which there are
                window=window,
                half=half,  # type: ignore[arg-type]
            )
            for entry in fields.several("edits", _MAX_EDITS)
        ]

    def _active(self, seen: Seen) -> list[dict[str, Any]]:
        """Each site's latents that move this image's tokens furthest, how far in the mean over steps, and when.

        Those whose names tell most surely come first, each name once before any comes twice.
        """
        found = []
        for site in self.saes:
            mean = seen.mean[site][0]
            reach = seen.peak[site][0].mean(0) / self._full[site]
            furthest, latents = reach.topk(min(_NUM_ACTIVE, len(reach)))
            for value, latent in zip(furthest.tolist(), latents.tolist(), strict=True):
                if value > 0:
                    profile = mean[:, latent] / mean[:, latent].max().clamp_min(1e-12)
                    found.append(self._entry(site, latent) | {"reach": value, "when": _rounded(profile)})
        found.sort(key=lambda one: (-one.get("tells", 0), -one["reach"]))
        count: Counter[str] = Counter()
        rounds = []
        for one in found:
            rounds.append(count[one["name"]] if "name" in one else len(found))
            count[one.get("name", "")] += 1
        return [found[place] for place in sorted(range(len(found)), key=rounds.__getitem__)]

    @contextmanager
    def _working(self, doing: str) -> Iterator[None]:
        if not self._lock.acquire(blocking=False):
            raise Busy
        try:
            self._progress = _IDLE | {"busy": True, "doing": doing}
            yield
        finally:
            self._progress = _IDLE
            self._lock.release()


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 3) for value in values.tolist()]


def _data_url(image: Tensor) -> str:
    return data_uri(encoded(to_picture(image)))
