"""Running programs that a model wrote: one protocol, and the sandboxes behind it.

A program is text that defines a function `f`. It is run where it reaches no file, no network and no process, within
limits that count its own execution alone. SECURITY.md says what each sandbox guarantees.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, cast

from azero.plugs import build, lacking

# Import paths, so that a process loads only the sandbox that it uses.
SANDBOXES = {
    "monty": "azero.sandbox.monty:MontySandbox",
    "cpython": "azero.sandbox.cpython:CPythonSandbox",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of one call, the definition of its program included."""

    seconds: float = 0.1  # of execution; waiting for a worker does not count
    memory_mib: int = 64
    recursion: int = 200  # calls in one another


class Failure(StrEnum):
    """Why a call has no value."""

    SYNTAX = "syntax"  # not Python
    UNSUPPORTED = "unsupported"  # Python, but outside the sandbox's subset
    ERROR = "error"  # the program raised
    TIME = "time"
    MEMORY = "memory"  # so do prints without end
    RECURSION = "recursion"
    PERMISSION = "permission"  # it asked for a file, the network, the environment or a process
    NOT_LITERAL = "not_literal"  # its value is no literal, or too large a one (azero/sandbox/literals.py)
    CRASH = "crash"  # the worker died, or could not tell its outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Holds the outcome of one call: a literal value, or a failure."""

    value: Any = None
    failure: Failure | None = None
    detail: str = ""  # the first line of what the sandbox says of the failure, at most DETAIL characters
    seconds: float = 0.0  # that the worker computed


DETAIL = 200


class Sandbox(Protocol):
    def run(
        self, program: str, calls: Sequence[Sequence[Any]], limits: Limits | None = None, seed: int = 0
    ) -> list[Outcome]:
        """Define the program and call its function `f` with each list of arguments, which are literals.

        Each call finds the program as it was defined: none sees what an earlier one changed, its arguments included.
        Return an outcome a call. `seed` seeds the program's `random` and, where the sandbox has one, hashing. Several
        threads may call. Raises nothing for what a program does; RunFailed where the sandbox itself does not work.
        """

    def close(self) -> None:
        """End the workers. A later `run` starts new ones."""


class Counted:
    """Another sandbox, with the number of its calls so far."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox, self.calls, self._lock = sandbox, 0, threading.Lock()
        self.close = sandbox.close

    def run(
        self, program: str, calls: Sequence[Sequence[Any]], limits: Limits | None = None, seed: int = 0
    ) -> list[Outcome]:
        with self._lock:  # several threads call
            self.calls += len(calls)
        return self._sandbox.run(program, calls, limits, seed)


def sandbox_of(name: str) -> Sandbox:
    """Return the sandbox of that name, or of the import path `package.module:Class`, which is called without arguments.

    Raises UserError as `azero.plugs.build` does, and where the sandbox cannot isolate programs on this machine.
    """
    explained = "Sandbox protocol; see azero/sandbox/__init__.py"
    return cast(Sandbox, build("task.options.sandbox", name, SANDBOXES, lacking("run", "close"), explained))
