"""What failed in another process or in this one: whether a new process may help, and one line for a person."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ray.exceptions import RayError, RayTaskError

from azero.errors import RunFailed, UserError, told

# What an actor or learner raises where a process beside it, a network, memory or a device failed, and not the code.
LOSSES = (RayError, OSError, MemoryError)
LOSSES_BY_NAME = {  # of packages that this process does not load: vllm, torch
    *("EngineDeadError", "OutOfMemoryError", "AcceleratorError"),
    *("DistBackendError", "DistNetworkError", "DistStoreError"),
}
LOSSES_BY_WORD = ("gloo", "NCCL", "CUDA error", "CUDA out of memory", "by peer", "Executor failed")


def cause_of(error: BaseException) -> BaseException:
    """Return what an actor raised, where Ray has wrapped it."""
    return getattr(error, "cause", None) or error


def is_loss(error: RayError) -> bool:
    """Whether something was lost, so that a new process may do better. Otherwise it would fail as this one did."""
    if not isinstance(error, RayTaskError):
        return True
    cause = cause_of(error)
    names = {kind.__name__ for kind in type(cause).__mro__}
    said = isinstance(cause, RuntimeError) and any(word in str(cause) for word in LOSSES_BY_WORD)
    return isinstance(cause, LOSSES) or bool(names & LOSSES_BY_NAME) or said


def failure(who: str, error: RayError, log: str) -> Exception:
    """Return what to raise for an error that is no loss: bad input and failed runs as they are, else one line."""
    cause = cause_of(error)
    if isinstance(cause, UserError | RunFailed):
        return cause
    return RunFailed(f"{who} fails with {told(cause, _text(error))}; see {log}")


def _text(error: BaseException) -> str:
    """The traceback of another process, which is what Ray's errors say."""
    return str(error) if isinstance(error, RayTaskError) else ""


@contextmanager
def in_one_line(log: Path) -> Iterator[None]:
    """Let nothing out but UserError, RunFailed and interrupts. Tracebacks of what was behind them go to `log`."""
    try:
        yield
    except Exception as e:
        cause = cause_of(e)
        foreseen = isinstance(cause, UserError | RunFailed)
        if e.__cause__ is not None or not foreseen:
            write_traceback(e, log)
        raise cause if foreseen else RunFailed(internal_error(e, log)) from None


def internal_error(error: BaseException, log: Path) -> str:
    """A line for what nobody foresaw."""
    return f"internal error: {told(cause_of(error), _text(error))}; its traceback is in {log}"


def write_traceback(error: BaseException, log: Path) -> None:
    """Append it to a file; with AZERO_DEBUG set show it too."""
    text = "".join(traceback.format_exception(error))
    if os.environ.get("AZERO_DEBUG"):
        sys.stderr.write(text)
    try:
        with open(log, "a", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        return  # as on a full disk: the line is told in any case
