"""Two classifiers of different architecture that say which class a photograph shows: what the judges know.

`whitened` is a plain stack of convolutions behind fixed filters that whiten small patches; `residual` adds what its
blocks find to what they were given. Both look at an image and at its mirror image and average what they say.
"""

from pathlib import Path
from typing import Final, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tide_lightning.errors import UserError
from tide_lightning.grounds.photos.classes import CLASSES
from tide_lightning.grounds.photos.sources import Photographs

ClassifierName = Literal["whitened", "residual"]
CLASSIFIERS: Final[tuple[ClassifierName, ...]] = ("whitened", "residual")

_MOST: Final = 127  # of 8 bits
_SCALE: Final = ".scale"


class Classifier(nn.Module):
    """Logits of the classes of images in [-1, 1].

    Args:
        body: any network from images [B, 3, 32, 32] to [B, classes].
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        body.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in PyTorch's annotations

    def forward(self, image_B3HW: Tensor) -> Tensor:
        """Logits of one view of each image."""
        logits: Tensor = self.body(image_B3HW.contiguous(memory_format=torch.channels_last))
        return logits

    @torch.no_grad()
    def probabilities(self, image_B3HW: Tensor) -> Tensor:
        """The probability of each class, [B, classes], from the mean logits of an image and its mirror image."""
        logits: Tensor = self(image_B3HW).float() + self(image_B3HW.flip(-1)).float()
        return logits.div(2).softmax(-1)


class _BatchNorm(nn.BatchNorm2d):
    """Without a scale of its own: the convolution before it learns none, and the one behind has it."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, momentum=0.4)
        self.weight.requires_grad_(False)


class _Head(nn.Linear):
    """Of weights of variance one, whose products are scaled down: so they learn at the convolutions' rate."""

    def reset_parameters(self) -> None:
        """Draw the weights."""
        nn.init.normal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return super().forward(x) / 9


class _Convolution(nn.Conv2d):
    """3 x 3, starting as the identity on as many channels as come in."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__(before, after, 3, padding=1, bias=False)
        nn.init.dirac_(self.weight[:before].detach())


class Whitening(nn.Conv2d):
    """Fixed filters that make the components of small patches uncorrelated and of variance one, with both signs."""

    def __init__(self, size: int = 2) -> None:
        super().__init__(3, 2 * 3 * size**2, size)
        self.weight.requires_grad_(False)
        assert self.bias is not None
        nn.init.zeros_(self.bias)

    @torch.no_grad()
    def fit(self, image_B3HW: Tensor, floor: float = 1.25e-4) -> None:
        """Take the filters from images; components weaker than the floor are not blown up to noise."""
        height, width = self.kernel_size
        patches = image_B3HW.unfold(2, height, 1).unfold(3, width, 1).movedim(1, 3).reshape(-1, 3 * height * width)
        values, vectors = torch.linalg.eigh(torch.cov(patches.double().T))
        filters = (vectors / (values + floor).sqrt()).T.flip(0).reshape(-1, 3, height, width)
        self.weight.copy_(torch.cat([filters, -filters]))


def whitened_body() -> nn.Module:
    """Classifier `whitened`: three pairs of convolutions, each pair at half the size."""
    whitening = Whitening()
    widths = (64, 256, 256)
    layers: list[nn.Module] = [whitening, nn.GELU()]
    before = whitening.out_channels
    for width in widths:
        layers += [_Convolution(before, width), nn.MaxPool2d(2), _BatchNorm(width), nn.GELU()]
        layers += [_Convolution(width, width), _BatchNorm(width), nn.GELU()]
        before = width
    return nn.Sequential(*layers, nn.MaxPool2d(3), nn.Flatten(), _Head(before, len(CLASSES), bias=False))


def _convolution(before: int, after: int, halve: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.GELU()]
    return nn.Sequential(*layers, *([nn.MaxPool2d(2)] if halve else []))


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(_convolution(channels, channels), _convolution(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.layers(x)
        return y


def residual_body() -> nn.Module:
    """Classifier `residual`: two blocks that add their input to their output, between convolutions that halve it."""
    first, middle, last = 64, 128, 256
    return nn.Sequential(
        _convolution(3, first),
        _convolution(first, middle, halve=True),
        _Residual(middle),
        _convolution(middle, last, halve=True),
        _convolution(last, last, halve=True),
        _Residual(last),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(last, len(CLASSES)),
    )


def build_classifier(name: ClassifierName) -> Classifier:
    """An untrained classifier."""
    if name not in CLASSIFIERS:
        raise ValueError(f"there is no classifier {name!r}: take {' or '.join(map(repr, CLASSIFIERS))}")
    return Classifier(whitened_body() if name == "whitened" else residual_body())


def save_classifier(classifier: Classifier, path: Path) -> None:
    """Write a classifier: weights in 8 bits with a scale for each filter, the rest in half precision."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written: dict[str, Tensor] = {}
    for key, value in classifier.state_dict().items():
        value = value.cpu().contiguous()
        if value.ndim > 1:
            scale = value.flatten(1).abs().amax(1).clamp(min=1e-12) / _MOST
            written[key] = (value / scale.view(-1, *[1] * (value.ndim - 1))).round().to(torch.int8)
            written[key + _SCALE] = scale
        else:
            written[key] = value.half() if value.is_floating_point() else value
    save_file(written, path)


def load_classifier(name: ClassifierName, folder: Path | None = None) -> Classifier:
    """A trained classifier, ready to read; the repository's unless another folder of them is named."""
    classifier = build_classifier(name)
    path = (folder or Path(__file__).parent / "judges") / f"{name}.safetensors"
    if not path.is_file():
        raise UserError(
            f"{path}: no such classifier; the photographs' judges come with the repository, not with the installed"
            " package: work in a checkout, or train your own (docs/tutorials/photographs.md)"
        )
    written = load_file(path)
    scales = {key.removesuffix(_SCALE): written.pop(key) for key in list(written) if key.endswith(_SCALE)}
    for key, scale in scales.items():
        written[key] = written[key] * scale.view(-1, *[1] * (written[key].ndim - 1))
    try:
        classifier.load_state_dict(written)
    except RuntimeError as error:
        raise UserError(f"{path}: not the weights of {name} as it is now: train it again") from error
    return classifier.eval().requires_grad_(False)


@torch.no_grad()
def guesses(classifier: Classifier, images: Tensor, batch_size: int = 500) -> Tensor:
    """The class that a classifier sees in each of some images, uint8 or in [-1, 1]."""
    classifier.eval()
    said = []
    for part in images.split(batch_size):
        scaled = part.float() / 127.5 - 1 if part.dtype == torch.uint8 else part
        with torch.autocast(images.device.type, torch.bfloat16):
            said.append(classifier.probabilities(scaled).argmax(1))
    return torch.cat(said)


def accuracy(classifier: Classifier, photographs: Photographs) -> float:
    """The share of photographs whose class the classifier names."""
    return float((guesses(classifier, photographs.images) == photographs.classes).double().mean())
