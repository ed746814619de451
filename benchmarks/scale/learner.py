"""A learner whose update is a clock; what it publishes has the bytes of real weights."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import ray

from azero.credit.credit import batch_metrics
from azero.types import Episode, Update, WeightSnapshot


@ray.remote(num_cpus=0)
class SimulatedLearner:
    """Answers as Learner does, after the time that its update would take."""

    def __init__(self, rate: float, weight_bytes: int) -> None:
        """`rate`: completion tokens a second that it learns from."""
        self.rate, self.version = rate, 0
        self.weights = np.ones(weight_bytes, dtype=np.uint8)

    @ray.method(num_returns=2)
    def start(self, address: str) -> tuple[tuple[WeightSnapshot, dict[str, Any]], np.ndarray]:
        return (self._snapshot(), {}), self.weights

    def ping(self) -> None: ...

    def probe(self) -> None: ...

    @ray.method(num_returns=2)
    def update(self, episodes: Sequence[Episode]) -> tuple[tuple[Update, WeightSnapshot], np.ndarray]:
        began = time.monotonic()
        metrics = batch_metrics(episodes, self.version)
        tokens = sum(len(s.completion.token_ids) for e in episodes if e.group for s in e.group.samples)
        time.sleep(max(0.0, began + tokens / self.rate - time.monotonic()))
        metrics["time/learn"] = time.monotonic() - began
        self.version += 1
        update = Update(version=self.version, metrics=metrics, episodes=list(episodes), warnings=())
        return (update, self._snapshot()), self.weights

    def save(self, folder: str, driver: dict[str, Any]) -> tuple[str, str]:
        return "", ""

    def _snapshot(self) -> WeightSnapshot:
        return WeightSnapshot(version=self.version, manifest=(), dtype="uint8", bytes=self.weights.nbytes)
