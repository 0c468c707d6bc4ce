"""Figures in the unit that shows three digits of them."""

from __future__ import annotations

_BYTES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_TIMES = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))

_OPERATIONS = ((1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"), (1e3, "kFLOP"))


def in_operations(count: float) -> str:
    """Floating-point operations, as 14.2 GFLOP."""
    return _in_unit(count, _OPERATIONS) or f"{count:.0f} FLOP"


def in_bytes(count: float) -> str:
    """Bytes, as 47.6 GB, 1.02 MB or 12 B."""
    return _in_unit(count, _BYTES) or f"{count:.0f} B"


def in_time(seconds: float) -> str:
    """Seconds, as 2.5 h, 41.2 ms or 0 s."""
    return _in_unit(seconds, _TIMES) or ("0 s" if seconds == 0 else "< 1 µs")


def share(part: float) -> str:
    """A part of a whole in per cent, as 12.3 % or < 0.1 %."""
    return "< 0.1 %" if 0 < part < 0.0005 else f"{part:.1%}".replace("%", " %")


def _in_unit(figure: float, units: tuple[tuple[float, str], ...]) -> str | None:
    """The figure in the largest unit of which there is a whole one."""
    for size, name in units:
        if figure >= size:
            shown = figure / size
            return f"{shown:.0f} {name}" if shown >= 100 else f"{shown:.3g} {name}"
    return None
