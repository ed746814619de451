"""Errors with a meaning for the command line, and what a person first reads of any: what, and where it happened."""

from __future__ import annotations

import os
import re
import sysconfig
import traceback
from collections.abc import Collection
from pathlib import Path

LISTED = 3  # names in an error message
OWN = Path(__file__).resolve().parent.parent
OURS = tuple(str(OWN / package) + os.sep for package in ("azero", "actors", "learner", "cluster"))
LIBRARIES = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")})
IN_TEXT = re.compile(r'^ *File "(.+?)", line (\d+), in (.+)$', re.MULTILINE)


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


def told(error: BaseException, text: str = "") -> str:
    """Return a line like "KeyError: 'x' (mine.py:3 in verify)". `text`: its traceback if another process raised it."""
    message, kind = first_line(error), type(error).__name__
    if isinstance(error, SyntaxError):  # which says its file and line itself
        return f"{kind}: {message}"
    if text:
        frames = [(file, int(line), function) for file, line, function in IN_TEXT.findall(text)]
    else:
        frames = [(f.filename, f.lineno or 0, f.name) for f in traceback.extract_tb(error.__traceback__)]
    where = _place(frames)
    return (message if message == kind else f"{kind}: {message}") + (f" ({where})" if where else "")


def _place(frames: list[tuple[str, int, str]]) -> str:
    """The innermost frame of a user's code, or else of this project's, or else of all; empty where there is none.

    `frames`: (file, line, function), the innermost last.
    """
    own = [f for f in frames if f[0].startswith(OURS)]
    users = [f for f in frames if not f[0].startswith((*OURS, *LIBRARIES, "<"))]
    if not (chosen := users or own or frames):
        return ""
    file, line, function = chosen[-1]
    beside = os.path.relpath(file)
    return f"{file if beside.startswith('..') else beside}:{line} in {function}"
