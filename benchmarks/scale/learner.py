"""A learner whose step is a clock; what it publishes has the bytes of real weights."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import ray

from azero.types import SHARED, Publication, PublishedWeights, Role, StepResult, TrainBatch, WeightVersion


@ray.remote(num_cpus=0)
class SimulatedLearner:
    """Answers as Learner does, after the time that its step would take."""

    def __init__(self, rate: float, weight_bytes: int) -> None:
        """`rate`: completion tokens of solutions a second that it learns from."""
        self.rate, self.step_number = rate, 0
        self.weights = np.ones(weight_bytes, dtype=np.uint8)

    @ray.method(num_returns=2)
    def start(self, address: str) -> tuple[tuple[Publication, dict[str, Any]], dict[str, np.ndarray]]:
        return (self._publication(), {}), {SHARED: self.weights}

    def listen(self) -> str:
        return ""

    def ping(self) -> None: ...

    def probe(self) -> None: ...

    @ray.method(num_returns=2)
    def step(self, batch: TrainBatch) -> tuple[tuple[StepResult, Publication], dict[str, np.ndarray]]:
        began = time.monotonic()
        tokens = sum(len(r.token_ids) for rows in batch.rows.values() for r in rows if r.part == Role.SOLVER)
        time.sleep(max(0.0, began + tokens / self.rate - time.monotonic()))
        self.step_number += 1
        result = StepResult(step=self.step_number, metrics={"time/learn": time.monotonic() - began}, is_finite=True)
        return (result, self._publication()), {SHARED: self.weights}

    def save(self, folder: str, driver: dict[str, Any]) -> tuple[str, str]:
        return "", ""

    @ray.method(num_returns=2)
    def copy_state(self, driver: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return self.step_number, driver

    def _publication(self) -> Publication:
        version = WeightVersion(lineage=0, step=self.step_number)
        part = PublishedWeights(layout=(), dtype="uint8", bytes=self.weights.nbytes, since=version)
        return Publication(version=version, parts={SHARED: part})
