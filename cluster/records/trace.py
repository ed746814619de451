"""Who generated, waited, synced and learned, when: trace.json for Perfetto or chrome://tracing (`run.trace`).

The format is Chrome's array of events, whose closing bracket may be missing: a run that goes on, or was killed, can be
looked at too. https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU (JSON Array Format)
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

MICROSECONDS = 1e6
LEARNER = "learner"


class Trace:
    """Appends complete events. Times are the driver's monotonic seconds."""

    def __init__(self, path: Path) -> None:
        self._tracks: dict[str, int] = {}
        self._began = time.monotonic()
        self._file = path.open("w")
        self._file.write("[\n")

    def span(self, track: str, name: str, began: float, ended: float, **details: Any) -> None:
        """Something that took from `began` to `ended` on a track, such as an actor's or the learner's."""
        if ended <= began:
            return
        if track not in self._tracks:
            self._tracks[track] = len(self._tracks)
            self._write({"ph": "M", "name": "thread_name", "args": {"name": track}}, track)
        times = {"ts": (began - self._began) * MICROSECONDS, "dur": (ended - began) * MICROSECONDS}
        self._write({"ph": "X", "name": name, **times, "args": details}, track)

    def _write(self, event: dict[str, Any], track: str) -> None:
        self._file.write(json.dumps({"pid": 0, "tid": self._tracks[track], **event}) + ",\n")
        self._file.flush()


NO_TRACE = Trace(Path(os.devnull))
