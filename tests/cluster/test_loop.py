"""The loop around simulated engines and a simulated learner, on real Ray: what it does when it has to stop."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import credit_of

from azero.config import Config
from azero.credit.guards import Guards
from azero.domains import get_domain
from azero.errors import RunFailed
from azero.problems.buffer import ProblemBuffer
from azero.problems.curriculum import SlotSource
from azero.types import Assignment, Played
from benchmarks.scale.actor import SimulatedActor, Timing
from benchmarks.scale.learner import SimulatedLearner
from cluster.records.rundir import RunDirectory, read_jsonl
from cluster.run.loop import TrainingLoop
from cluster.run.progress import Progress
from cluster.run.recorder import Recorder
from cluster.supervise.fleet import Fleet
from cluster.supervise.learning import LearnerHost

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]


class Run:
    """One run of 2 actors, whose checkpoints are only counted."""

    def __init__(self, folder: Path, should_stop: Callable[[], bool] = lambda: False, **rates: float) -> None:
        config = Config()
        config.reward.learnability = "variance"
        config.run.steps, config.run.eval_every, config.run.checkpoint_every = 6, 2, 0
        config.rollout.actors, config.rollout.problems_per_step, config.learner.keep_every = 2, 4, 0
        self.config, self.folder, self.saved, self.should_stop = config, folder, list[int](), should_stop
        decode_rate, learn_rate = rates.get("decode_rate", 400.0), rates.get("learn_rate", 1e6)
        self.timing = Timing(solutions=4, tokens=40, spread=0.0, decode_rate=decode_rate, load_rate=10.0)
        domain = get_domain("arithmetic")
        self.buffer = ProblemBuffer(1000, domain.seeds())
        self.source = SlotSource(domain, config.task, 4, 1, 0)
        self.learner = LearnerHost(
            lambda *_: [SimulatedLearner.remote(learn_rate, 2**20)],  # type: ignore[attr-defined]
            lambda: None,
            60.0,
            60.0,
        )

    def _spawn(self, index: int) -> Any:
        actor = SimulatedActor.remote(index, "arithmetic")  # type: ignore[attr-defined]
        actor.set.remote(self.timing)
        return actor

    def go(self) -> bool:
        started = self.learner.start(None)
        fleet = Fleet(self._spawn, 2, 60.0, 60.0, print)
        fleet.start()
        fleet.wait_ready(2)
        credit = credit_of(self.config)
        run = RunDirectory(self.folder)
        with run.open("", {}, resume=False), open(os.devnull, "w") as nowhere:
            recorder = Recorder(run, Progress(6, "plain", file=nowhere), 0.0, [])
            self.loop = TrainingLoop(
                self.config, fleet=fleet, learner=self.learner, started=started, credit=credit,
                guards=Guards(self.config.guard, credit.has_proposals), buffer=self.buffer,
                source=self.source, items=[], recorder=recorder, should_stop=self.should_stop,
            )  # fmt: skip
            save = self.learner.save

            def counted(folder: Path, state: dict[str, Any]) -> tuple[str, str]:
                self.saved.append(self.loop.version)
                return save(folder, state)

            self.learner.save = counted  # type: ignore[method-assign]
            try:
                return self.loop.run()
            finally:
                recorder.close()

    def steps(self) -> list[int]:
        return [r["step"] for r in read_jsonl(self.folder / "metrics.jsonl")]

    def evaluated(self) -> list[int]:
        return [r["step"] for r in read_jsonl(self.folder / "evals.jsonl")]


def test_a_whole_run(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    assert run.go() and run.steps() == list(range(7)) and run.evaluated() == [0, 2, 4, 6] and run.saved == [6]


def test_a_step_by_the_second_and_without_a_proven_load(tmp_path: Path) -> None:
    """Two actors whose domain counted, neither of which had to load."""
    run = Run(tmp_path / "run")
    assert run.go()
    run.loop._syncs.clear()
    assert run.loop._sync_metrics([]) == {"time/sync": 0.0}
    work = Assignment(id="6/0", batch=6, slots=())
    played = [
        Played(assignment=work, episodes=[], sync=None, seconds=1.0, memory_gib=1.0, counts={"executions": n})
        for n in (3, 5)
    ]
    timing = run.loop._timing(played, [], run.loop._step_began + 2.0)
    assert timing["throughput/executions_per_s"] == pytest.approx(4.0)


def test_a_stop_waits_for_the_evaluation_under_way(tmp_path: Path) -> None:
    """Else the step's accuracy would be missing for ever: a resume does not come back to it."""
    run = Run(tmp_path / "run", lambda: run.loop.version >= 2)
    assert not run.go()
    assert run.evaluated() == [0, 2] and run.saved == [run.loop.version] and run.steps()[-1] == run.loop.version


def test_a_failure_during_an_update_still_ends_with_a_checkpoint_of_it(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", learn_rate=640.0)  # 4 * 4 * 40 tokens: a second
    check, failed = run.learner.check, []

    def fails(version: int) -> None:
        check(version)
        if version == 2 and run.learner.is_busy and not failed:
            failed.append(version)
            raise RunFailed("all actors are gone")

    run.learner.check = fails  # type: ignore[method-assign]
    with pytest.raises(RunFailed, match="all actors are gone"):
        run.go()
    assert failed and run.saved == [3] and run.steps()[-1] == 3


def test_the_stall_watchdog_says_who_does_what(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", decode_rate=0.1)  # an assignment takes 400 s
    run.config.cluster.stall_timeout_s = 3.0
    with pytest.raises(RunFailed, match=r"nothing was played .* 3 s .* at version 0; actors: 1 stale, 1 serving"):
        run.go()
    assert run.saved == [0]


def test_records_that_cannot_be_written_keep_a_checkpoint_from_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path / "run")
    monkeypatch.setattr(Recorder, "sync", lambda self: "metrics.jsonl: No space left on device")
    with pytest.raises(RunFailed, match=r"the checkpoint of step 6 cannot be written .metrics.jsonl: No space"):
        run.go()
    assert run.saved == []
