"""Errors that a command turns into one line and an exit status."""


class InputError(ValueError):
    """A configuration or an input that cannot be used; the message says what, where and what to do.

    Commands print the message as one line on standard error and exit with status 2.
    """


class InfeasibleError(InputError):
    """Constraints that no policy on the given samples can meet; commands exit with status 3."""


class NotVerifiedError(Exception):
    """A run that is done and saved, but whose test does not show what was asked; commands exit with 5."""
