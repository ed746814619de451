"""The trace of a run, as its viewers read it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.records.trace import LEARNER, NO_TRACE, Trace


def test_each_track_is_named_once_and_times_are_microseconds_since_the_start(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    trace = Trace(path)
    began = trace._began
    trace.span("actor 0", "assignment 1/0", began + 1.0, began + 1.5)
    trace.span(LEARNER, "learn batch 1", began + 1.5, began + 2.0, rows=3)
    trace.span("actor 0", "assignment 2/0", began + 2.0, began + 2.25)
    trace.span("actor 0", "nothing", began + 3.0, began + 3.0)
    events = json.loads(path.read_text().rstrip().rstrip(",") + "]")  # whole after each event, but for the bracket
    names = {e["tid"]: e["args"]["name"] for e in events if e["ph"] == "M"}
    assert sorted(names.values()) == ["actor 0", "learner"]
    spans = [(names[e["tid"]], e["name"], e["ts"], e["dur"]) for e in events if e["ph"] == "X"]
    assert spans == [
        ("actor 0", "assignment 1/0", pytest.approx(1e6), pytest.approx(0.5e6)),
        ("learner", "learn batch 1", pytest.approx(1.5e6), pytest.approx(0.5e6)),
        ("actor 0", "assignment 2/0", pytest.approx(2e6), pytest.approx(0.25e6)),
    ]


def test_without_a_path_nothing_is_written() -> None:
    NO_TRACE.span("actor 0", "assignment 1/0", 0.0, 1.0)
