"""Sites: the named places in a denoiser where tokens are read and replaced.

A site is written `path[:part][:stream]`. The path is a module's name in the denoiser and may hold globs, whose `*`
stays within one level (`transformer_blocks.*`; `**` crosses levels). Parts: `output` (the default), `update` (output
minus input, what a block adds to the residual stream), `mlp` and `attention` (what these submodules of a block return,
before any gate). Streams: `image` (the default) and `text`. Several SAEs of one site are told apart by a label, as in
`transformer_blocks.3@k16`, which says nothing about the place.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from tide_lightning.errors import UserError

PARTS = ("output", "update", "mlp", "attention")
STREAMS = ("image", "text")

# What diffusers and the well-known research code bases call these submodules of a block.
_ATTENTION = ("attn1", "attn", "attention", "self_attn")
_SUBMODULES = {
    ("mlp", "image"): ("ff", "mlp", "feed_forward", "ffn", "img_mlp"),
    ("mlp", "text"): ("ff_context", "mlp_context", "txt_mlp"),
    ("attention", "image"): _ATTENTION,
    ("attention", "text"): _ATTENTION,
}


@dataclass(frozen=True)
class Site:
    """One place in a denoiser; `str(site)` is its key everywhere."""

    path: str
    part: str = "output"
    stream: str = "image"
    label: str = ""

    def __str__(self) -> str:
        part = "" if self.part == "output" else f":{self.part}"
        stream = "" if self.stream == "image" else f":{self.stream}"
        return self.path + part + stream + (f"@{self.label}" if self.label else "")

    @staticmethod
    def parse(text: str) -> Site:
        """Read `path[:part][:stream][@label]`; the path may still hold globs."""
        place, _, label = text.strip().partition("@")
        path, *words = place.split(":")
        part, stream = "output", "image"
        for word in words:
            if word in PARTS:
                part = word
            elif word in STREAMS:
                stream = word
            else:
                raise UserError(
                    f"site {text!r}: {word!r} is neither a part ({', '.join(PARTS)})"
                    f" nor a stream ({', '.join(STREAMS)})"
                )
        if not path:
            raise UserError(f"site {text!r} names no module")
        return Site(path, part, stream, label)

    def module(self, root: nn.Module) -> nn.Module:
        """The submodule whose output (or output minus input) the site is."""
        found = root.get_submodule(self.path)
        names = _SUBMODULES.get((self.part, self.stream))
        if names is None:
            return found
        for name in names:
            if isinstance(getattr(found, name, None), nn.Module):
                return root.get_submodule(f"{self.path}.{name}")
        children = ", ".join(name for name, _ in found.named_children())
        raise UserError(f"site {self}: {self.path} has no {self.part} submodule (it has {children or 'none'})")


def matches(pattern: str, site: Site) -> bool:
    """Whether a site is one that a pattern names; a pattern without a part names all parts."""
    wanted = Site.parse(pattern)
    return _glob(wanted.path).fullmatch(site.path) is not None and wanted.part in ("output", site.part)


def unlabelled(site: str) -> str:
    """Where a site's tokens are read: its key without the label."""
    return site.partition("@")[0]


def folder_name(site: str | Site) -> str:
    """A site's name for file systems."""
    return re.sub(r"[^\w.\-]", "-", str(site))


def resolve_sites(module: nn.Module, patterns: Sequence[str], streams: Iterable[str] = ("image",)) -> list[Site]:
    """The sites that the patterns name, in the module's own order, each once."""
    if not patterns:
        raise UserError('no sites: name at least one, such as "transformer_blocks.*"')
    names = [name for name, _ in module.named_modules() if name]
    found: dict[Site, None] = {}
    for text in patterns:
        pattern = Site.parse(text)
        if pattern.stream not in streams:
            raise UserError(f"site {text!r}: this denoiser has no {pattern.stream} stream")
        matching = [name for name in names if _glob(pattern.path).fullmatch(name)]
        if not matching:
            raise UserError(f"site {text!r} matches no module of {type(module).__name__}{_near(pattern.path, names)}")
        for name in matching:
            site = Site(name, pattern.part, pattern.stream, pattern.label)
            site.module(module)  # the part must exist
            found[site] = None
    order = {name: place for place, name in enumerate(names)}
    return sorted(found, key=lambda site: (order[site.path], PARTS.index(site.part), STREAMS.index(site.stream)))


def _glob(pattern: str) -> re.Pattern[str]:
    translated = ""
    for piece in re.findall(r"\*\*|\*|\?|\[[^\]]*\]|.", pattern):
        if piece == "**":
            translated += ".*"
        elif piece == "*":
            translated += r"[^.]*"
        elif piece == "?":
            translated += r"[^.]"
        elif len(piece) > 2:
            translated += piece.replace("[!", "[^")
        else:
            translated += re.escape(piece)
    try:
        return re.compile(translated)
    except re.error as error:
        raise UserError(f"site {pattern!r} is not a valid pattern: {error}") from None


def _near(path: str, names: list[str]) -> str:
    # Also try the numbered modules as a glob, so that a misspelt `blocks.*` finds `transformer_blocks.*`.
    candidates = dict.fromkeys([*names, *(re.sub(r"\.\d+$", ".*", name) for name in names)])
    near = difflib.get_close_matches(path, candidates, n=4, cutoff=0.5)
    if not near:
        near = [name for name in candidates if "." not in name][:6]
        return f"; its modules are {', '.join(near)}"
    return f"; near matches: {', '.join(near)}"
