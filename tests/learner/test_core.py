"""The learner without Ray: what it refuses, and when it gives up."""

from __future__ import annotations

import math
from typing import Any

import pytest
from helpers import episode

from azero.batch import TrainBatch
from azero.config import Config, Learnability, load_config
from azero.types import Episode, Verdict
from learner.core import LearnerCore
from learner.policy import PolicyOptimizer, Totals

MIXED = [Verdict.RIGHT, Verdict.WRONG]


def config(**guard: int) -> Config:
    made = load_config("local", [f"guard.{key}={value}" for key, value in guard.items()])
    made.reward.learnability = Learnability.variance
    return made


def batch(version: int) -> list[Episode]:
    return [episode(f"{version}.{i}", MIXED, batch=version, text=f"{i} + 2", version=version) for i in range(2)]


def test_each_batch_is_trained_once_and_each_of_its_groups_too(tiny_model: str) -> None:
    core = LearnerCore(config(), tiny_model, None, ["1 + 2"])
    with pytest.raises(ValueError, match=r"batch 0: got episodes of batches \[1\]"):
        core.update(batch(1))
    twice = batch(0)
    with pytest.raises(ValueError, match="3 groups of which 2 are distinct"):
        core.update([*twice, twice[0]])
    assert core.update(twice).version == 1
    with pytest.raises(ValueError, match=r"batch 1: got episodes of batches \[0\]"):
        core.update(twice)


def test_updates_that_are_not_finite_end_the_run_after_so_many_in_a_row(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    added = [math.nan, 0.0, math.nan, math.nan]
    said: list[tuple[int, bool]] = []
    inside = PolicyOptimizer._backward

    def poisoned(self: PolicyOptimizer, batch: TrainBatch, scale: float, totals: Totals, *rest: Any) -> None:
        inside(self, batch, scale, totals, *rest)
        totals.loss += added[len(said)]

    monkeypatch.setattr(PolicyOptimizer, "_backward", poisoned)
    core = LearnerCore(config(max_skipped=2), tiny_model, None, ["1 + 2"])
    for version in range(4):
        update = core.update(batch(version))
        said.append((len(update.warnings), bool(update.failure)))
    assert said == [(1, False), (0, False), (1, False), (1, True)]
    assert "2 updates in a row had no finite loss and gradient (guard.max_skipped)" in update.failure
    assert core.version == 4 and core.policy.steps_done == 1
