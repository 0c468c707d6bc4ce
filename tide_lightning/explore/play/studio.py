"""What the page asks for: images before and after, latents that are active, latents found by words. One at a time."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor

from tide_lightning.diffusion import sample
from tide_lightning.diffusion.counters import normal, stream
from tide_lightning.errors import UserError
from tide_lightning.explore.change import change, difference
from tide_lightning.explore.finder import find_by_words
from tide_lightning.explore.pictures import heat, to_picture
from tide_lightning.explore.play.fields import Fields
from tide_lightning.explore.requests import check_windows
from tide_lightning.explore.run import Run
from tide_lightning.intervene import Edit, steer
from tide_lightning.intervene.amounts import full_amounts
from tide_lightning.intervene.edits import check_edits
from tide_lightning.intervene.recording import Seen, walk_prompts, watch
from tide_lightning.saes import SAE

_NUM_ACTIVE = 60  # latents of each site that are listed
_NUM_EXAMPLES = 6
_MAX_EDITS = 16
_REACH = 1.5  # of a slider, in typical lengths of what the known part leaves of an activation


class Original(NamedTuple):
    """The image that is steered, kept so that a slider moves one image and not two.

    Fields:
        key: what it was made of.
        image: [3, H, W].
        seen: what latents did.
    """

    key: tuple[Any, ...]
    image: Tensor
    seen: Seen


class Busy(Exception):  # noqa: N818 - no error: the page waits
    """Something else is being made."""


class Studio:
    """Draws for one page at a time.

    Args:
        run: an open run.
        steps: of trajectories, unless the page asks for others.
    """

    def __init__(self, run: Run, steps: int) -> None:
        self.run, self.steps = run, steps
        self.denoiser, self.saes = run.denoiser, run.saes
        self.guidance_scale = run.guidance_scale
        self._lock = threading.Lock()
        self._progress: dict[str, Any] = {"busy": False, "doing": "", "done": 0, "of": 0}
        self._original: Original | None = None

    def about(self) -> dict[str, Any]:
        """What the page needs to know before anything is drawn."""
        return {
            "run": self.run.name,
            "sites": [{"site": site, "reach": _reach(sae)} for site, sae in self.saes.items()],
            "examples": self._examples(),
            "steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "guided": self.denoiser.guidance == "classifier_free",
        }

    def progress(self) -> dict[str, Any]:
        """What is being made, and how far it is."""
        return self._progress

    def draw(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The image without steering, and the latents that are active in it."""
        with self._working("Drawing"):
            original = self._draw(Fields(request))
            return {"image": _data_url(original.image), "active": self._active(original.seen)}

    def steer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The image with edits, beside the one without."""
        fields = Fields(request)
        edits = self._edits(fields)
        with self._working("Steering"):
            steps = self._steps(fields)
            check_edits(self.denoiser, self.saes, edits)
            check_windows(self.denoiser, edits, steps)
            original = self._draw(fields)
            noise, settings = self._settings(fields)
            with steer(self.denoiser, self.saes, edits) as steered:
                latents = sample(steered, [fields.text("prompt")], initial_noise=noise, **settings)
            image = self.denoiser.decode_latents(latents)[0]
        moved = difference(original.image, image)
        return {
            "before": _data_url(original.image),
            "after": _data_url(image),
            "difference": _data_url(heat(moved / moved.max().clamp_min(1e-6))),
            "changed": change(original.image, image, None).inside,
        }

    def find(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Latents by which the denoiser makes what a text says."""
        query = Fields(request).text("query", 200)
        with self._working("Searching"):
            found = find_by_words(self.run, query, top=12, num_prompts=4)
        return {"found": [{"site": one.site, "latent": one.latent, "tells": one.tells} for one in found]}

    def _examples(self) -> list[str]:
        """A few of the run's own prompts; none where its data is no longer where it was."""
        try:
            captions = self.run.captions[: 4 * _NUM_EXAMPLES]
        except UserError:
            return []
        return list(dict.fromkeys(filter(None, captions)))[:_NUM_EXAMPLES]

    def _draw(self, fields: Fields) -> Original:
        noise, settings = self._settings(fields)
        key = (fields.text("prompt"), fields.whole("seed", 0, 2**31), *settings.items())
        key = key[:-1]  # the callback says nothing about the image
        if self._original is None or self._original.key != key:
            walk = walk_prompts([fields.text("prompt")], noise, **settings)
            seen = watch(self.denoiser, self.saes, walk)
            self._original = Original(key, self.denoiser.decode_latents(seen.latents)[0], seen)
        return self._original

    def _settings(self, fields: Fields) -> tuple[Tensor, dict[str, Any]]:
        steps = self._steps(fields)
        noise = normal(stream(fields.whole("seed", 0, 2**31), "sample", 0), self.denoiser.latent_shape)

        def step(number: int, timestep: Tensor, latents: Tensor) -> None:
            self._progress |= {"done": number + 1, "of": steps}

        scale = fields.number("guidance_scale", 0, 100, self.guidance_scale)
        return noise.unsqueeze(0), {"num_inference_steps": steps, "guidance_scale": scale, "callback": step}

    def _steps(self, fields: Fields) -> int:
        return fields.whole("steps", 1, 200, self.steps)

    def _edits(self, fields: Fields) -> list[Edit]:
        window = fields.number("low", 0, 1, 0.0), fields.number("high", 0, 1, 1.0)
        half = fields.text("half", 20, "both")
        return [
            Edit(
                entry.text("site", 500),
                entry.whole("latent", 0, 2**31),
                entry.text("operation", 20, "add"),  # type: ignore[arg-type]  # Edit says which there are
                entry.number("amount", -1e4, 1e4, 0.0),
                window,
                half=half,  # type: ignore[arg-type]
            )
            for entry in fields.several("edits", _MAX_EDITS)
        ]

    def _active(self, seen: Seen) -> list[dict[str, Any]]:
        """Each site's latents of the highest values in this image, with when they are active."""
        found = []
        for site in self.saes:
            peak, mean = seen.peak[site][0], seen.mean[site][0]
            highest, latents = peak.amax(0).topk(min(_NUM_ACTIVE, peak.shape[1]))
            for value, latent in zip(highest.tolist(), latents.tolist(), strict=True):
                if value > 0:
                    profile = mean[:, latent] / mean[:, latent].max().clamp_min(1e-12)
                    found.append({"site": site, "latent": latent, "peak": value, "when": _rounded(profile)})
        return sorted(found, key=lambda one: -one["peak"])

    @contextmanager
    def _working(self, doing: str) -> Iterator[None]:
        if not self._lock.acquire(blocking=False):
            raise Busy
        try:
            self._progress = {"busy": True, "doing": doing, "done": 0, "of": 0}
            yield
        finally:
            self._progress = {"busy": False, "doing": "", "done": 0, "of": 0}
            self._lock.release()


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 3) for value in values.tolist()]


def _data_url(image: Tensor) -> str:
    file = io.BytesIO()
    to_picture(image).save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _reach(sae: SAE) -> float:
    """How far a site's sliders go."""
    return round(_REACH * float(full_amounts(sae).median()), 1)
