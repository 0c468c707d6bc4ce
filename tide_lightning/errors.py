"""The one exception that users are meant to see."""


class UserError(Exception):
    """A mistake in what the user wrote or has at hand.

    The message is one line: what is wrong, where, and what to do. `tide` prints it and exits with code 2.
    """
