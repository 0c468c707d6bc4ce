"""Tests against other SAE libraries, in the environment that `make peers` builds; elsewhere they are not collected."""

from __future__ import annotations

import os
import sys
import warnings
from importlib.util import find_spec, module_from_spec

os.environ.setdefault("SPARSIFY_DISABLE_TRITON", "1")  # its decoder's kernel wants a GPU wherever triton is installed


def import_without_init(package: str) -> None:
    """Let the modules of a package be imported without what its `__init__` imports besides."""
    spec = find_spec(package)
    if spec is None:
        raise ModuleNotFoundError(f"{package} is not installed here: run these tests by `make peers`")
    sys.modules[package] = module_from_spec(spec)


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # theirs, on import
    import_without_init("overcomplete")  # which imports image models, and these torchvision
    import dictionary_learning  # noqa: F401
    import overcomplete.sae  # noqa: F401
    import sae_lens  # noqa: F401
    import sparsify  # noqa: F401
