"""What a worker process does with its output, and what it says of its memory."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import resource
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAX_LOG_BYTES = 16 * 2**20
THIS_PROCESS = ctypes.CDLL(None)
MALLOC_TRIM = getattr(THIS_PROCESS, "malloc_trim", None)  # glibc's alone, like the next and its numbers
MALLOPT = getattr(THIS_PROCESS, "mallopt", None)
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
# Where LD_PRELOAD brought an OpenMP before Python, as vLLM advises on CPUs: it has looked at its variable already.
PRELOADED_THREADS = getattr(THIS_PROCESS, "omp_set_num_threads", None)


def redirect_output(path: str) -> None:
    """Append all that this process and its libraries print to `path`; on a node without that folder leave it to Ray."""
    if not path:
        return
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)


def keep_log_short(path: str) -> None:
    """If the log that `redirect_output` writes has grown too long, go on in a new one beside one `<path>.old`."""
    try:
        if os.fstat(2).st_size > MAX_LOG_BYTES and os.path.samestat(os.fstat(2), os.stat(path)):
            os.replace(path, f"{path}.old")
            redirect_output(path)
    except OSError:
        return  # no such file here, or no right to it: output goes on where it went


def use_threads(count: int) -> None:
    """Have torch and what it computes with use so many; 0 leaves it to them. They look when they are loaded: before it.

    Ray can do so in an actor's runtime environment, but then cannot give it a process that is already there.
    """
    if not count:
        return
    os.environ["OMP_NUM_THREADS"] = str(count)
    if PRELOADED_THREADS is not None:
        PRELOADED_THREADS(count)


@contextmanager
def deadline_stacks(deadline_s: float) -> Iterator[None]:
    """Just before a deadline, after which a process may be ended, write the stacks of its threads to the log, once.

    A thread of its own does it, outside Python's lock, so that a call that hangs in a library shows too. What the work
    raises is written there too: the driver tells its first line alone.
    """
    log = sys.__stderr__ or sys.stderr
    faulthandler.dump_traceback_later(0.9 * deadline_s, file=log)
    try:
        yield
    except Exception:
        traceback.print_exc(file=log)
        raise
    finally:
        faulthandler.cancel_dump_traceback_later()


def peak_memory_gib() -> float:
    """The most resident memory that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20  # Linux counts in KiB


def keep_heap() -> None:
    """Have what this process frees stay with it for the next tensors, until `trim_heap`.

    glibc gives the memory of each large tensor back at once, and the pages of the next one are new and have to be
    cleared: a fourth of the time of an update of SmolLM2-135M.
    """
    if MALLOC_TRIM is not None and MALLOPT is not None:
        MALLOPT(M_TRIM_THRESHOLD, -1)  # never
        MALLOPT(M_MMAP_MAX, 0)  # large blocks come from the heap too


def trim_heap() -> None:
    """Give free memory of the heap back to the system: 2 to 5 ms, and new pages when it is needed again.

    Tensors on a CPU live in glibc's heap, which the changing sizes of batches fragment.
    """
    if MALLOC_TRIM is not None:
        MALLOC_TRIM(0)
