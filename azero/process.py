"""Where the chatter of Ray, vLLM and transformers goes."""

from __future__ import annotations

import os
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
