"""Programs in pydantic-monty: a Python interpreter written in Rust, in worker processes that a pool starts anew.

https://github.com/pydantic/monty, version 1.4. What it does, as tests/azero/test_sandbox.py holds it:

- A worker is no CPython. It has no file system, network, process or module of the host; asking for one is a
  PermissionError, or an error that names the module or function as missing.
- Each call has a session of its own, on a worker that may have served others, or shares one where nothing can pass
  from call to call (`leaves_no_trace`). On a core without other work a session and a small program take 0.1 ms.
- Limits are of the session, so of one call. Its clock runs while the worker executes, not while a call waits for a
  worker. It is a wall clock, which runs on while the machine does other things: a call that met its limit though its
  worker hardly computed is made again. A program can catch RecursionError, but neither the end of its time nor of its
  memory.
- A few operations in Rust look at no clock. The pool ends a worker GRACE seconds after its limit, and starts another.
- Prints reach nobody; more than PRINTED bytes of them end the call. `sleep` returns at once, the clock stands still
  at a time that depends on the seed, `random` is seeded, and sets keep the order in which they were filled.
- Class inheritance, `yield`, `del` and most of the standard library are missing. A program that needs them is
  Failure.UNSUPPORTED, as far as the message tells.

Values come back as text. As objects they would lose their type (a range becomes a str), and a list that holds one list
a million times would be written out a million times in this process.
"""

from __future__ import annotations

import builtins
import re
import sys
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pydantic_monty as monty

from azero.errors import RunFailed, UserError, first_line
from azero.sandbox import DETAIL, Failure, Limits, Outcome
from azero.sandbox.literals import MAX_SOURCE, NotLiteral, read_value, write

GRACE = 0.5  # seconds past a call's limit until the pool ends its worker
WAIT_SECONDS = 600.0  # for a free worker: more than any queue of calls within their limits
ATTEMPTS = 3  # at a call that meets its limit though its worker computed for less than a share COMPUTED of it
COMPUTED = 0.5
CHECKOUTS = 100_000  # sessions of a worker until another takes its place
PRINTED = 16_384  # bytes
ASKED = 100  # times that a session may ask for what it does not get: files, undefined names
CLOCK = datetime(2026, 1, 1, tzinfo=UTC)  # at seed 0, and a day later with each

# The value's text, cut in the worker. To format it takes no name, which a program could give away.
CALL = "('%r' % (f({0}),))[:{1}]"
# Only an object of a class that the program defines can write itself as a literal that it is not.
CHECKED_CALL = """
{2} = f({0})
def _literal(v):
    return v is None or type(v) in (bool, int, float, str, bytes) or (
        all([_literal(m) for m in v]) if type(v) in (list, tuple, set)
        else type(v) is dict and all([_literal(k) and _literal(v[k]) for k in v]))
{2} = [('%r' % ({2},))[:{1}], {2}]
{2}[0] if len({2}[0]) < {1} and _literal({2}[1]) else '...'"""
ARGUMENTS = "_azero"

# Of plain characters alone: a form feed takes a line's indentation back, and a carriage return begins another line.
_FUNCTIONS = re.compile(r"(?:(?:def |[ \t])[\t -~]*\n|\n)*")
_STATEFUL = ("import", "global", ":=", "eval", "exec")
_ATTRIBUTE = re.compile(r"(?:type object )?'(\w+)' (?:object )?has no attribute '(\w+)'")
_NAME, _MODULE = re.compile(r"name '(\w+)' is not defined"), re.compile(r"No module named '(\w+)")
_TOO_LARGE = ("Source is too deeply nested", "function too large")
_TOO_MANY_DIGITS = "Exceeds the limit (4300 digits)"


class MontySandbox:
    """A pool of workers, started by the first `run`: at most one a core, and a session a call."""

    def __init__(self) -> None:
        self._pool: monty.Monty | None = None
        self._lock = threading.Lock()

    def run(
        self, program: str, calls: Sequence[Sequence[Any]], limits: Limits | None = None, seed: int = 0
    ) -> list[Outcome]:
        pool, limits, outcomes, attempt = self._started(), limits or Limits(), list[Outcome](), 1
        at_once = len(calls) if leaves_no_trace(program) else 1
        while len(outcomes) < len(calls):
            left = calls[len(outcomes) : len(outcomes) + at_once]
            found = _session(pool, program, left, limits, seed, attempt == ATTEMPTS)
            attempt = 1 if found else attempt + 1
            outcomes += found
        return outcomes

    def close(self) -> None:
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.__exit__(None, None, None)

    def _started(self) -> monty.Monty:
        with self._lock:
            if self._pool is None:
                pool = monty.Monty(
                    checkout_timeout=WAIT_SECONDS, max_checkouts_per_worker=CHECKOUTS,
                    feed_duration_limit_grace=GRACE, turn_duration_limit_grace=GRACE,
                )  # fmt: skip
                try:
                    self._pool = pool.__enter__()
                except (OSError, RuntimeError) as e:
                    raise UserError(
                        f"task.options.sandbox=monty: its worker does not start: {first_line(e)}; run pip install "
                        "pydantic-monty==1.4.0 again, or give cpython"
                    ) from e
            return self._pool


def leaves_no_trace(program: str) -> bool:
    """Tell whether calls of the program may share a session, in which it is defined anew for each.

    Modules, types and functions cannot be changed in Monty. So state is in the program's global names and in a few
    modules alone, and a program of functions that import nothing and assign no such name has none.
    """
    return _FUNCTIONS.fullmatch(program + "\n") is not None and not any(word in program for word in _STATEFUL)


def _session(
    pool: monty.Monty, program: str, calls: Sequence[Sequence[Any]], limits: Limits, seed: int, is_last: bool
) -> list[Outcome]:
    """Return the outcomes of calls in one session, up to the first that fails.

    A failure is left out where it may be due to another: an earlier call's use of memory, or, but in the last attempt,
    a worker that died before it was given a call, or a machine that kept it from computing.
    """
    allowed: monty.ResourceLimits = {
        "max_feed_duration_secs": limits.seconds,
        "max_memory": limits.memory_mib * 2**20,
        "max_recursion_depth": limits.recursion,
        "max_suspensions": ASKED,
        "max_total_sleep_secs": 0.0,
    }
    policy: monty.OSPolicy | None = None
    if "import" in program:  # without it there is neither clock nor `random`, and a policy costs a tenth of a call
        policy = {
            "sleep": "zero",
            "random_start": {"seed": seed},
            "datetime": CLOCK + timedelta(days=seed % 100_000),
        }
    found: list[Outcome] = []
    try:
        with pool.checkout(limits=allowed, os_policy=policy, assert_message_annotations=False) as session:
            for arguments in calls:
                outcome = _outcome(session, program, arguments)
                if found and outcome.failure in (Failure.MEMORY, Failure.PERMISSION):
                    break
                if outcome.failure is Failure.TIME and outcome.seconds < COMPUTED * limits.seconds and not is_last:
                    break
                found.append(outcome)
                if outcome.failure:
                    break
    except monty.MontyCrashedError as e:  # of a worker that was killed by others
        if is_last and not found:
            found.append(Outcome(failure=Failure.CRASH, detail=first_line(e)[:DETAIL]))
    except (OSError, RuntimeError) as e:  # TimeoutError is an OSError
        raise RunFailed(f"the sandbox monty gave no worker within {WAIT_SECONDS:.0f} s: {first_line(e)}") from e
    return found


def _outcome(session: monty.MontySession, program: str, arguments: Sequence[Any]) -> Outcome:
    value, failure, detail = None, None, ""
    clock = Clock(session.worker_pid)
    printed = monty.CollectString(PRINTED)
    try:
        source, inputs = _source(program, arguments)
        value = read_value(session.feed_run(source, inputs=inputs, print_callback=printed))
    except monty.MontyError as e:
        failure, detail = told(e)
    except NotLiteral as e:
        failure, detail = Failure.NOT_LITERAL, str(e)
    return Outcome(value=value, failure=failure, detail=detail[:DETAIL], seconds=clock.seconds())


def _source(program: str, arguments: Sequence[Any]) -> tuple[str, dict[str, Any] | None]:
    """Return the program with its call, and the arguments where they are no part of it. Raises NotLiteral.

    As a part of the text they cost less, but set() and float('nan') are names there, which a program may give away.
    """
    given, inputs = ", ".join([write(a) for a in arguments]), None
    if "set(" in given or "float(" in given:
        given, inputs = f"*{ARGUMENTS}", {ARGUMENTS: tuple(arguments)}
    call = CHECKED_CALL if "class" in program else CALL
    return f"{program}\n\n{call.format(given, MAX_SOURCE + 1, ARGUMENTS)}", inputs


class Clock:
    """Counts the seconds that a process computes; where it has ended, those that have passed."""

    def __init__(self, pid: int | None) -> None:
        self._id = (~(pid or 0) << 3) | 2  # as clock_getcpuclockid(3) makes it on Linux
        self._passed, self._computed = time.perf_counter(), self._now()

    def seconds(self) -> float:
        computed = self._now() - self._computed
        return computed if computed > 0 else time.perf_counter() - self._passed

    def _now(self) -> float:
        try:
            return time.clock_gettime(self._id)
        except OSError:
            return 0.0


def told(error: monty.MontyError) -> tuple[Failure, str]:
    """Return which failure an error of Monty's is, and its first line."""
    detail = first_line(error)
    if isinstance(error, monty.MontyCrashedError):
        return (Failure.TIME if error.timed_out else Failure.CRASH), detail
    if isinstance(error, monty.MontySyntaxError):
        return (Failure.UNSUPPORTED if detail.startswith(_TOO_LARGE) else Failure.SYNTAX), detail
    if not isinstance(error, monty.MontyRuntimeError):
        return Failure.CRASH, detail
    kind, _, message = error.display("type-msg").partition(": ")
    detail = f"{kind}: {message}".partition("\n")[0]
    match kind:
        case "TimeoutError" if message.startswith(("feed time limit", "sleep limit")):
            return Failure.TIME, detail
        case "MemoryError":
            return Failure.MEMORY, detail
        case "RecursionError":
            return Failure.RECURSION, detail
        case "PermissionError":
            return Failure.PERMISSION, detail
        case "RuntimeError" if message.startswith("suspension limit") or message.endswith("in this environment"):
            return Failure.PERMISSION, detail
        case "ValueError" if message.startswith(_TOO_MANY_DIGITS) and len(error.traceback()) == 1:
            return Failure.NOT_LITERAL, detail  # of the value's own text, outside every function
    return (Failure.UNSUPPORTED if _is_missing(kind, message) else Failure.ERROR), detail


def _is_missing(kind: str, message: str) -> bool:
    """Tell whether Python has what Monty says that there is none of."""
    if kind == "NotImplementedError":
        return "monty syntax parser does not yet support" in message
    if kind == "ImportError":
        return message.startswith("cannot import name")
    if kind == "ModuleNotFoundError":
        found = _MODULE.match(message)
        return found is not None and found[1] in sys.stdlib_module_names
    if kind == "NameError":
        found = _NAME.match(message)
        return found is not None and hasattr(builtins, found[1])
    if kind == "AttributeError":
        found = _ATTRIBUTE.match(message)
        return message.startswith("module ") or (
            found is not None and hasattr(getattr(builtins, found[1], None), found[2])
        )
    return kind == "TypeError" and message.startswith("cannot create '")
