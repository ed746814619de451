"""Real runs whose processes are really killed or stopped: they go on, and lose and repeat nothing."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from chaos import Victim, check_whole, timeless

from cluster.records.rundir import read_jsonl

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SMALL = [
    "rollout.problems_per_step=6",
    "rollout.solutions_per_problem=4",
    "rollout.engine=hf",
    "run.eval_every=4",
    "run.checkpoint_every=4",
    "learner.keep_every=1",
    "eval.samples=0",
    "rollout.threads=1",
    "learner.threads=1",
    "cluster.progress=plain",
]
TWO = ["rollout.actors=2", "rollout.cpus_per_actor=0.5"]
SYNC = [*SMALL, *TWO, "rollout.max_staleness=0", "run.steps=8", "run.keep_checkpoints=2"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    victim = Victim.start(folder, SYNC)
    assert victim.finish() == 0, victim.said()
    return folder


def same(a: Path, b: Path) -> bool:
    """Equal to the last bit in all but times."""
    metrics = [[timeless(m) for m in read_jsonl(run / "metrics.jsonl")] for run in (a, b)]
    evals = [read_jsonl(run / "evals.jsonl") for run in (a, b)]
    return len(evals[0]) == 3 and metrics[0] == metrics[1] and evals[0] == evals[1]


@pytest.mark.parametrize(("times", "steps"), [(1, 8), pytest.param(2, 16, marks=pytest.mark.long)])
def test_a_run_outlives_its_actors_and_its_learner(times: int, steps: int, tmp_path: Path) -> None:
    victim, rng = Victim.start(tmp_path / "run", [*SMALL, *TWO, f"run.steps={steps}"]), random.Random(0)
    kills = ((2, "actor"), (5, "learner"), (8, "actor"), (11, "learner"))[: 2 * times]
    for step, kind in kills:
        victim.wait_for_step(step)
        victim.kill_one(rng, kind)
    assert victim.finish() == 0, victim.said()
    check_whole(tmp_path / "run", steps, 6)
    metrics = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert metrics[-1]["faults/restarts"] >= len(kills) - 1 and max(m["staleness/max"] for m in metrics[1:]) <= 1
    assert "rollout actor" in victim.said() and "the learner goes on from version" in victim.said()
    assert "Traceback" not in victim.said()


@pytest.mark.long
def test_a_synchronous_run_repeats_to_the_last_bit_whatever_dies(undisturbed: Path, tmp_path: Path) -> None:
    folder, rng = tmp_path / "run", random.Random(0)
    victim = Victim.start(folder, SYNC)
    for step, kind in ((2, "actor"), (5, "learner")):
        victim.wait_for_step(step)
        victim.kill_one(rng, kind)
    victim.wait_for_step(7)
    victim.kill_all()
    victim = Victim.start(folder, SYNC, resume=True)
    assert victim.finish() == 0, victim.said()
    check_whole(folder, 8, 6)
    assert same(folder, undisturbed)


@pytest.mark.long
def test_a_stopped_actor_is_named_and_the_run_goes_on(tmp_path: Path) -> None:
    victim = Victim.start(tmp_path / "run", [*SMALL, *TWO, "run.steps=12", "rollout.timeout_s=8"])
    victim.wait_for_step(3)
    stopped = victim.actors()[0]
    os.kill(stopped.pid, signal.SIGSTOP)
    began = time.monotonic()
    victim.wait_to_say("s for rollout actor", 15)
    assert time.monotonic() - began < 8 + 4
    assert victim.finish() == 0, victim.said()
    check_whole(tmp_path / "run", 12, 6)


@pytest.mark.long
def test_a_checkpoint_that_is_damaged_is_passed_over(undisturbed: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(undisturbed, tmp_path / "run")
    weights = folder / "checkpoints" / "step_000008" / "policies" / "shared" / "model" / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    victim = Victim.start(folder, SYNC, resume=True)
    assert victim.finish() == 0, victim.said()
    assert "step_000008: damaged (policies/shared/model/model.safetensors is not as it was written)" in victim.said()
    assert same(folder, undisturbed)
