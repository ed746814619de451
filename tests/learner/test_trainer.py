"""The trainer without Ray: what it refuses, and what it goes on from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import trainer_of
from rows import random_rows, train_batch

from azero.config import load_config
from azero.types import SHARED


def test_each_batch_is_trained_once_at_its_own_step(tiny_model: str) -> None:
    trainer = trainer_of(load_config("local"), tiny_model)
    with pytest.raises(ValueError, match="a batch for step 1: the weights are of step 0"):
        trainer.step(train_batch(random_rows(), step=1))
    assert trainer.step(train_batch(random_rows())).step == 1
    with pytest.raises(ValueError, match="a batch for step 0: the weights are of step 1"):
        trainer.step(train_batch(random_rows()))


def test_log_probs_of_one_part_are_measured_before_and_after(tiny_model: str) -> None:
    trainer, rows = trainer_of(load_config("local", ["optim.lr=1e-3"]), tiny_model), random_rows()
    result = trainer.step(train_batch(rows, measured="solver"))
    before, after = np.array(result.before[SHARED]), np.array(result.after[SHARED])
    measured = np.array([r.part == "solver" for r in rows])
    assert np.isfinite(before).all() and (np.isfinite(after) == measured).all()
    assert (before[measured] != after[measured]).all()
    assert not trainer.step(train_batch(rows, step=1)).before


@pytest.mark.parametrize("from_memory", [False, True])
def test_it_goes_on_from_a_checkpoint_or_a_copy_to_the_last_bit(
    tiny_model: str, tmp_path: Path, from_memory: bool
) -> None:
    config = load_config("local", ["optim.lr=1e-3", "algorithm.kl_beta=0.1"])
    trainer = trainer_of(config, tiny_model)
    for step in range(2):
        trainer.step(train_batch(random_rows(8, step), step))
    driver = {"credit": {"pending": [1, 2]}}
    state = trainer.copy_state(driver) if from_memory else trainer.save(tmp_path, driver, capacity=1)
    again = trainer_of(config, tiny_model, state=state)
    assert again.step_number == 2 and again.driver_state == driver
    one, two = (t.step(train_batch(random_rows(8, 5), 2)) for t in (trainer, again))
    ignored = {"time/learn", "memory/learner_gib"}
    assert {k: v for k, v in one.metrics.items() if k not in ignored} == {
        k: v for k, v in two.metrics.items() if k not in ignored
    }
    for ours, theirs in zip(trainer.publish().values(), again.publish().values(), strict=True):
        assert np.array_equal(ours[0], theirs[0]) and ours[1] == theirs[1]
