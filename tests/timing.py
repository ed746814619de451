"""Time limits in tests that a busy machine does not break: what is slow by itself is slow every time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def timed(call: Callable[[], T], limit: float, tries: int = 3) -> tuple[T, float]:
    """What `call` returns, and its wall-clock seconds: of the first try under `limit`, else of the quickest one."""
    quickest = float("inf")
    for _ in range(tries):
        began = time.perf_counter()
        value = call()
        quickest = min(quickest, time.perf_counter() - began)
        if quickest < limit:
            break
    return value, quickest
