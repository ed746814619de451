"""Where an error happened, for the first line that a person reads of it."""

from __future__ import annotations

import os
import re
import sysconfig
import traceback
from pathlib import Path

from azero.errors import first_line

Frame = tuple[str, int, str]  # file, line, function
OWN = Path(__file__).resolve().parent.parent
OURS = tuple(str(OWN / package) + os.sep for package in ("azero", "actors", "learner", "cluster"))
LIBRARIES = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")})
IN_TEXT = re.compile(r'^ *File "(.+?)", line (\d+), in (.+)$', re.MULTILINE)


def told(error: BaseException, text: str = "") -> str:
    """Return a line like "KeyError: 'x' (mine.py:3 in verify)". `text`: its traceback if another process raised it."""
    message = first_line(error)
    if isinstance(error, SyntaxError):  # which says its file and line itself
        return f"{type(error).__name__}: {message}"
    frames = frames_in(text) if text else frames_of(error)
    kind = type(error).__name__
    where = place(frames)
    return (message if message == kind else f"{kind}: {message}") + (f" ({where})" if where else "")


def frames_of(error: BaseException) -> list[Frame]:
    """Return the frames of where it was raised; the innermost last."""
    return [(f.filename, f.lineno or 0, f.name) for f in traceback.extract_tb(error.__traceback__)]


def frames_in(text: str) -> list[Frame]:
    """The same, read from a printed traceback."""
    return [(file, int(line), function) for file, line, function in IN_TEXT.findall(text)]


def place(frames: list[Frame]) -> str:
    """The innermost frame of a user's code, or else of this project's, or else of all; empty where there is none."""
    own = [f for f in frames if f[0].startswith(OURS)]
    users = [f for f in frames if not f[0].startswith((*OURS, *LIBRARIES, "<"))]
    for chosen in (users, own, frames):
        if chosen:
            file, line, function = chosen[-1]
            beside = os.path.relpath(file)
            return f"{file if beside.startswith('..') else beside}:{line} in {function}"
    return ""
