"""Read and replace what flows through a denoiser's sites, by forward hooks that never outlive their context."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tide_lightning.diffusion.sites import Site
from tide_lightning.errors import UserError


class _Stopped(Exception):  # noqa: N818 - not an error
    """Ends a forward after the last site that is read."""


@contextmanager
def record(
    module: nn.Module,
    sites: Sequence[Site],
    *,
    stop_early: bool = False,
    select: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Fill a dictionary {site: [N, T, d]} during the forward that runs inside.

    Args:
        module: the denoiser's module.
        sites: what to read.
        stop_early: end the forward, and the body of the `with`, as soon as every site was read.
        select: applied to each site's value at once, so that nothing else of it is kept.
    """
    values: dict[str, Tensor] = {}
    stop = _Stopped()

    def reader(site: Site) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            value = _value(site, args, kwargs, output).detach()
            values[str(site)] = value if select is None else select(value)
            if stop_early and len(values) == len(sites):
                raise stop

        return hook

    with _hooks([(site.module(module), reader(site)) for site in sites]):
        try:
            yield values
        except _Stopped as stopped:
            if stopped is not stop:
                raise
    _check_reached(sites, values)


@contextmanager
def splice(module: nn.Module, replacements: Mapping[Site, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Replace each site's value by `fn(value)` in the forwards that run inside; an identity changes no bit."""
    reached: set[str] = set()
    finished: list[bool] = []

    def replacer(site: Site, fn: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
        def hook(_: nn.Module, args: Any, kwargs: Any, output: Any) -> Tensor:
            reached.add(str(site))
            value = _value(site, args, kwargs, output)
            new = fn(value)
            if new.shape != value.shape:
                raise ValueError(f"site {site}: spliced {tuple(new.shape)} in place of {tuple(value.shape)}")
            # Adding the difference, and not the input, keeps an identity exact.
            return output + (new.to(value.dtype) - value) if site.part == "update" else new.to(value.dtype)

        return hook

    hooks: list[tuple[nn.Module, Callable[..., Any]]] = [(module, lambda *_: finished.append(True))]
    hooks += [(site.module(module), replacer(site, fn)) for site, fn in replacements.items()]
    with _hooks(hooks):
        yield
    if finished:
        _check_reached(replacements, reached)


def _check_reached(sites: Iterable[Site], reached: Container[str]) -> None:
    for site in sites:
        if str(site) not in reached:
            raise UserError(
                f"site {site} was not reached by the forward (if it lies inside a compiled block, set compile: false)"
            )


def _value(site: Site, args: Any, kwargs: Any, output: Any) -> Tensor:
    if not isinstance(output, Tensor):
        raise UserError(f"site {site}: the module returns a {type(output).__name__}, not one tensor of tokens")
    if site.part != "update":
        return output
    before = args[0] if args else kwargs.get("hidden_states")
    if not isinstance(before, Tensor) or before.shape != output.shape:
        raise UserError(f"site {site}: input and output of {site.path} differ in shape, so it has no update")
    return output - before


@contextmanager
def _hooks(hooks: Sequence[tuple[nn.Module, Callable[..., Any]]]) -> Iterator[None]:
    handles: list[RemovableHandle] = []
    try:
        for module, hook in hooks:
            handles.append(module.register_forward_hook(hook, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()
