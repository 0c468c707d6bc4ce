"""The one exception that users are meant to see, and checks that raise it."""

from collections.abc import Sequence


class UserError(Exception):
    """A mistake in what the user wrote or has at hand.

    The message is one line: what is wrong, where, and what to do. `tide` prints it and exits with code 2.
    """


class ToldElsewhereError(UserError):
    """What another rank of this machine tells the user already."""


def require_at_least(least: int, **values: float) -> None:
    """Raise a `UserError` for the first value that is smaller."""
    for name, value in values.items():
        if not value >= least:
            raise UserError(f"{name} must be at least {least}, not {value}")


def require_one_of(choices: Sequence[str], **values: str) -> None:
    """Raise a `UserError` for the first value that is no choice."""
    for name, value in values.items():
        if value not in choices:
            raise UserError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
