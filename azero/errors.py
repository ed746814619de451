"""Errors with a meaning for the command line."""

from collections.abc import Collection

LISTED = 3  # names in an error message


class UserError(Exception):
    """Bad input: one line that says what was given, what is allowed and what to do. Exit status 2."""


class RunFailed(Exception):
    """A run that cannot go on: one line that says what happened, where and since when. Exit status 1."""


class VersionGone(Exception):
    """A published version cannot be had: its bytes went with the node that held them."""


class VersionLate(Exception):
    """A published version did not arrive in time. It may still: the network is slow, or the learner hangs."""


class SyncError(RunFailed):
    """An engine does not hold the weights that it was given."""


def first_line(error: BaseException) -> str:
    """Return what an error says in one line; its kind where it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def listed(names: Collection[str]) -> str:
    """The first names in order."""
    return ", ".join(sorted(names)[:LISTED]) + (", ..." if len(names) > LISTED else "")
