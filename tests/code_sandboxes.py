"""A sandbox that misbehaves, for the tests of the code domain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from azero.sandbox import Limits, Outcome


class Drifting:
    """Gives another value at each seed."""

    def run(
        self, program: str, calls: Sequence[Sequence[Any]], limits: Limits | None = None, seed: int = 0
    ) -> list[Outcome]:
        return [Outcome(value=seed + 10 * i) for i, _ in enumerate(calls)]

    def close(self) -> None: ...
