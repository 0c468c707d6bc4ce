"""What the photographs show: CIFAR-10's ten classes, six animals and four vehicles."""

from typing import Final

CLASSES: Final = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""In the order of their numbers, which is that of the alphabet."""

KINDS: Final = ("animal", "vehicle")
VEHICLES: Final = ("airplane", "automobile", "ship", "truck")

KIND_OF_CLASS: Final = tuple(int(name in VEHICLES) for name in CLASSES)
"""The number of each class's kind."""
