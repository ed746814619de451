"""Sandboxes that misbehave, for the tests of the code domain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from azero.sandbox import Failure, Limits, Outcome


class Drifting:
    """Gives another value at each seed."""

    def run(
        self, program: str, calls: Sequence[Sequence[Any]], limits: Limits | None = None, seed: int = 0
    ) -> list[Outcome]:
        return [Outcome(value=seed + 10 * i) for i, _ in enumerate(calls)]

    def close(self) -> None: ...


class Slow(Drifting):
    """Runs out of time in every other run, as on a busy machine."""

    runs = 0

    def run(
        self, program: str, calls: Sequence[Sequence[Any]], limits: Limits | None = None, seed: int = 0
    ) -> list[Outcome]:
        Slow.runs += 1
        if Slow.runs % 2:
            return [Outcome(failure=Failure.TIME) for _ in calls]
        return [Outcome(value=7) for _ in calls]
