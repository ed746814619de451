"""What a worker process does with its output, and what it says of its memory."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path


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


def peak_memory_gib() -> float:
    """The most resident memory that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20  # Linux counts in KiB
