"""Read and replace what flows through a denoiser's sites, by forward hooks that never outlive their context."""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tide_lightning.diffusion.holding import Holding
from tide_lightning.diffusion.sites import Site
from tide_lightning.errors import UserError

T = TypeVar("T")

_WHOLE = Holding()

_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_making_a_lock = threading.Lock()


def lock_of(module: nn.Module) -> AbstractContextManager[object]:
    """Held by whoever hooks a module or runs it: a hook of one thread must not see another thread's forward."""
    with _making_a_lock:
        return _locks.setdefault(module, threading.RLock())


class _Stopped(Exception):  # noqa: N818 - not an error
    """Ends a forward after the last site that is read."""


@contextmanager
def record(
    module: nn.Module,
    sites: Sequence[Site],
    *,
    stop_early: bool = False,
    select: Callable[[Site, Tensor], Tensor] | None = None,
    holdings: Mapping[Site, Holding] | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Fill a dictionary {site: [N, T, d]} during the forward that runs inside.

    Args:
        module: the denoiser's module.
        sites: what to read.
        stop_early: end the forward, and the body of the `with`, as soon as every site was read.
        select: applied to each site's value at once, so that nothing else of it is kept.
        holdings: where in its module's output each site is; unless given, the output is one tensor of tokens.
    """

    def read(site: Site, args: Any, kwargs: Any, output: Any) -> Tensor:
        value = _value(site, _holding(holdings, site), args, kwargs, output).detach()
        return value if select is None else select(site, value)

    with _reading(module, sites, read, stop_early) as values:
        yield values


@contextmanager
def record_outputs(module: nn.Module, sites: Sequence[Site]) -> Iterator[dict[str, Any]]:
    """Fill a dictionary {site: whatever its module returns}; the forward ends after the last of them."""
    with _reading(module, sites, lambda site, args, kwargs, output: output, stop_early=True) as outputs:
        yield outputs


@contextmanager
def _reading(
    module: nn.Module, sites: Sequence[Site], read: Callable[[Site, Any, Any, Any], T], stop_early: bool
) -> Iterator[dict[str, T]]:
    values: dict[str, T] = {}
    stop = _Stopped()

    def reader(site: Site) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            values[str(site)] = read(site, args, kwargs, output)
            if stop_early and len(values) == len(sites):
                raise stop

        return hook

    with lock_of(module), _hooks([(site.module(module), reader(site)) for site in sites]):
        try:
            yield values
        except _Stopped as stopped:
            if stopped is not stop:
                raise
    _check_reached(sites, values)


@contextmanager
def splice(
    module: nn.Module,
    replacements: Mapping[Site, Callable[[Tensor], Tensor]],
    holdings: Mapping[Site, Holding] | None = None,
) -> Iterator[None]:
    """Replace each site's value by `fn(value)` in the forwards that run inside; an identity changes no bit."""
    reached: set[str] = set()
    finished: list[bool] = []

    def replacer(site: Site, fn: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
        holding = _holding(holdings, site)

        def hook(_: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            reached.add(str(site))
            value = _value(site, holding, args, kwargs, output)
            new = fn(value)
            if new.shape != value.shape:
                raise ValueError(f"site {site}: spliced {tuple(new.shape)} in place of {tuple(value.shape)}")
            new = new.to(value.dtype)
            if site.part == "update":
                # Adding the difference, and not the input, keeps an identity exact.
                new = holding.tokens(holding.tensor(output)) + (new - value)
            return holding.put(output, new)

        return hook

    hooks: list[tuple[nn.Module, Callable[..., Any]]] = [(module, lambda *_: finished.append(True))]
    hooks += [(site.module(module), replacer(site, fn)) for site, fn in replacements.items()]
    with lock_of(module), _hooks(hooks):
        yield
    if finished:
        _check_reached(replacements, reached)


def _check_reached(sites: Iterable[Site], reached: Container[str]) -> None:
    for site in sites:
        if str(site) not in reached:
            raise UserError(
                f"site {site} was not reached by the forward (if it lies inside a compiled block, set compile: false)"
            )


def _holding(holdings: Mapping[Site, Holding] | None, site: Site) -> Holding:
    return _WHOLE if holdings is None else holdings[site]


def _value(site: Site, holding: Holding, args: Any, kwargs: Any, output: Any) -> Tensor:
    tensor = holding.tensor(output)
    if not isinstance(tensor, Tensor):
        raise UserError(f"site {site}: the module returns a {type(tensor).__name__}, not one tensor of tokens")
    tokens = holding.tokens(tensor)
    if site.part != "update":
        return tokens
    before = _input(site, args, kwargs)
    if not isinstance(before, Tensor) or before.shape != tensor.shape:
        raise UserError(f"site {site}: input and output of {site.path} differ in shape, so it has no update")
    return tokens - holding.tokens(before)


def _input(site: Site, args: Any, kwargs: Any) -> Any:
    """What a block is given of the stream; diffusers' blocks agree on these two names and their order."""
    name, place = ("encoder_hidden_states", 1) if site.stream == "text" else ("hidden_states", 0)
    return kwargs[name] if name in kwargs else args[place] if place < len(args) else None


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
