"""The process that runs programs in CPython, inside the sandbox of azero/sandbox/cpython.py. Nothing imports this file.

It reads a call a line, as JSON, and answers each with a line. Every call is run by a child of its own, forked from this
interpreter as it was at its start. Before the program is defined the child has given up all descriptors but the one end
of a pipe, has its limits, and may use no system call but those in CALLS: it can compute, read the interpreter's own
library, and write its outcome.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import random
import resource
import select
import signal
import struct
import sys
import time
from typing import Any

from azero.sandbox.literals import NotLiteral, read_value, write

GRACE = 0.5  # seconds of waiting, on top of the limit: a child that sleeps on a lock uses no time of its own
BASE_MIB = 20  # address space of the interpreter without a program: 15 MiB of CPython 3.11
FRAMES = 20  # of this module, and of an import
MAX_REPLY = 4_096  # bytes of a child
DETAIL = 200  # characters

# Linux on x86-64: https://github.com/torvalds/linux/blob/master/arch/x86/entry/syscalls/syscall_64.tbl
CALLS = {
    "read": 0, "write": 1, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "lseek": 8, "mmap": 9, "mprotect": 10,
    "munmap": 11, "brk": 12, "rt_sigreturn": 15, "pread64": 17, "access": 21, "mremap": 25, "madvise": 28,
    "getpid": 39, "exit": 60, "fcntl": 72, "getcwd": 79, "readlink": 89, "gettimeofday": 96, "getuid": 102,
    "getgid": 104, "geteuid": 107, "getegid": 108, "gettid": 186, "futex": 202, "getdents64": 217,
    "clock_gettime": 228, "exit_group": 231, "openat": 257, "newfstatat": 262, "getrandom": 318, "statx": 332,
}  # fmt: skip
ARCHITECTURE = 0xC000003E  # AUDIT_ARCH_X86_64
X32 = 0x40000000  # numbers from here on are another table's
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, MODE_FILTER = 22, 38, 2
KILL, REFUSE, ALLOW = 0x80000000, 0x00050001, 0x7FFF0000  # the process; with EPERM
LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06  # BPF instructions


class Filter(ctypes.Structure):
    """sock_fprog of linux/filter.h."""

    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def filter_of(calls: list[int]) -> Filter:
    """Return the seccomp filter that lets these calls through and refuses others as not permitted."""
    allowed = [struct.pack("HBBI", EQUAL, len(calls) - i, 0, number) for i, number in enumerate(calls)]
    program = [
        struct.pack("HBBI", LOAD, 0, 0, 4),  # the architecture
        struct.pack("HBBI", EQUAL, 1, 0, ARCHITECTURE),
        struct.pack("HBBI", RETURN, 0, 0, KILL),
        struct.pack("HBBI", LOAD, 0, 0, 0),  # the number of the call
        struct.pack("HBBI", AT_LEAST, 0, 1, X32),
        struct.pack("HBBI", RETURN, 0, 0, KILL),
        *allowed,
        struct.pack("HBBI", RETURN, 0, 0, REFUSE),
        struct.pack("HBBI", RETURN, 0, 0, ALLOW),
    ]
    return Filter(len(program), b"".join(program))


def main() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    confinement = filter_of(list(CALLS.values()))
    gc.freeze()
    for line in sys.stdin.buffer:
        reply = call(json.loads(line), libc, confinement)
        sys.stdout.buffer.write(json.dumps(reply).encode() + b"\n")
        sys.stdout.buffer.flush()


def call(request: dict[str, Any], libc: ctypes.CDLL, confinement: Filter) -> dict[str, Any]:
    """Run one call in a child. Return its value as text or its failure, with the seconds that the child computed."""
    theirs, ours = os.pipe()
    child = os.fork()
    if not child:
        try:
            confine(ours, request, libc, confinement)
            os.write(ours, answer(request))
        finally:
            os._exit(1)
    os.close(ours)
    said, in_time = reading(theirs, request["seconds"] + GRACE)
    os.close(theirs)
    os.kill(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if not in_time or ended_by in (signal.SIGPROF, signal.SIGXCPU):
        found = {"failure": "time", "detail": f"more than {request['seconds']:g} s"}
    elif len(said) > MAX_REPLY:
        found = {"failure": "not_literal", "detail": f"more than {MAX_REPLY} bytes"}
    else:
        try:
            found = dict(json.loads(said))
        except (ValueError, TypeError, RecursionError):
            found = {"failure": "crash", "detail": f"the process ended without a word (signal {ended_by})"}
    return {**found, "seconds": usage.ru_utime + usage.ru_stime}


def reading(pipe: int, seconds: float) -> tuple[bytes, bool]:
    """Return what comes until the other end closes, little more than MAX_REPLY bytes, and whether it came in time."""
    said, until = b"", time.monotonic() + seconds
    while len(said) <= MAX_REPLY:
        if not select.select([pipe], [], [], max(until - time.monotonic(), 0))[0]:
            return said, False
        more = os.read(pipe, MAX_REPLY)
        if not more:
            break
        said += more
    return said, True


def confine(ours: int, request: dict[str, Any], libc: ctypes.CDLL, confinement: Filter) -> None:
    """Leave this process nothing but its memory, the library and the pipe's end."""
    os.closerange(0, ours)
    os.closerange(ours + 1, 1024)
    sys.stdin = sys.stdout = sys.stderr = None  # print() then does nothing
    memory, seconds = (BASE_MIB + request["memory_mib"]) * 2**20, int(request["seconds"]) + 1
    for kind, limit in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (limit, limit))
    sys.setrecursionlimit(request["recursion"] + FRAMES)
    random.seed(request["seed"])
    signal.setitimer(signal.ITIMER_PROF, request["seconds"])  # ends this process; it may set neither handler nor timer
    nothing = ctypes.c_ulong(0)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), nothing, nothing, nothing) or libc.prctl(
        PR_SET_SECCOMP, MODE_FILTER, ctypes.byref(confinement), nothing, nothing
    ):
        raise OSError(ctypes.get_errno(), "no seccomp")


def answer(request: dict[str, Any]) -> bytes:
    """Define the program, call its `f`, and return what became of it."""
    try:
        program = compile(request["program"], "program", "exec")
    except MemoryError:
        return b'{"failure": "memory"}'
    except (SyntaxError, ValueError, RecursionError) as e:
        kind = "recursion" if isinstance(e, RecursionError) else "syntax"
        return json.dumps({"failure": kind, "detail": shown(e)}).encode()
    try:
        names: dict[str, Any] = {"__name__": "program"}
        exec(program, names)
        if "f" not in names:
            raise NameError("name 'f' is not defined")
        value = names["f"](*[read_value(text) for text in request["arguments"]])
        return json.dumps({"value": write(value)}).encode()
    except MemoryError:
        return b'{"failure": "memory"}'
    except RecursionError as e:
        failure, detail = "recursion", shown(e)
    except NotLiteral as e:
        failure, detail = "not_literal", str(e)
    except BaseException as e:
        failure, detail = "permission" if is_refused(e) else "error", shown(e)
    return json.dumps({"failure": failure, "detail": detail}).encode()


def is_refused(error: BaseException) -> bool:
    """Tell whether the system refused a call. An OSError that a program makes up has no number."""
    return isinstance(error, OSError) and isinstance(error.errno, int)


def shown(error: BaseException) -> str:
    """The first line of an error of a program, which may be of a class of its own."""
    try:
        return f"{type(error).__name__}: {error}".partition("\n")[0][:DETAIL]
    except BaseException:
        return ""


if __name__ == "__main__":
    main()
