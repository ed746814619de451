"""The learner's host on real Ray processes, whose learner only counts: what happens when it is lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from helpers import at
from lost import lost_reference
from ray.exceptions import ObjectStoreFullError
from remote import require_follows

from azero.errors import RunFailed, UserError
from azero.types import SHARED, Publication, PublishedWeights, StepResult, WeightVersion
from cluster.supervise import learning as module
from cluster.supervise.learning import LearnerHost, LearnerLost
from cluster.supervise.remote import RemoteLearner
from learner.checkpoint import Checkpoint


@ray.remote(num_cpus=0)
class Counting:
    """Its weights are its step. A batch may be a list of what goes wrong, at the last worker."""

    def __init__(
        self, lineage: int, checkpoint: Checkpoint | None, copies: Sequence[Any], rank: int = 0, workers: int = 1
    ) -> None:
        self.lineage, self.checkpoint, self.copies = lineage, checkpoint, list(copies)
        self.rank, self.is_last = rank, rank == workers - 1

    def listen(self) -> str:
        return "first:1"

    def ping(self) -> None: ...

    def _publication(self) -> Publication:
        version = WeightVersion(lineage=self.lineage, step=self.at)
        part = PublishedWeights(layout=(), dtype="float32", bytes=0, since=version)
        return Publication(version=version, parts={SHARED: part})

    def _weights(self) -> dict[str, np.ndarray]:
        return {SHARED: np.full(1_000_000, self.at)}

    def probe(self) -> tuple[int, int]:
        return self.at, self.rank

    @ray.method(num_returns=2)
    def start(self, address: str) -> tuple[Any, dict[str, np.ndarray]]:
        self.at, state = 0, {}
        if self.copies:
            self.at, state = ray.get(self.copies[0])
        elif self.checkpoint:
            self.at, state = self.checkpoint.step, {"from": "disk"}
        return (self._publication(), state), self._weights()

    @ray.method(num_returns=2)
    def step(self, faults: list[str]) -> tuple[Any, dict[str, np.ndarray]]:
        if self.is_last:
            if "die" in faults:
                os._exit(1)
            if "slip" in faults:
                {}["reward"]
            if "peer" in faults:
                raise RuntimeError("[/pytorch/third_party/gloo/pair.cc:534] Connection closed by peer [127.0.0.1]:4")
            if "fail" in faults:
                raise MemoryError("too long a batch")
            if "hang" in faults:
                os.kill(os.getpid(), signal.SIGSTOP)
        elif faults:
            time.sleep(1000)  # as in a collective that the other never joins
        self.at += 1
        result = StepResult(step=self.at, metrics={}, is_finite=True)
        return (result, self._publication()), self._weights()

    @ray.method(num_returns=2)
    def copy_state(self, state: dict[str, Any]) -> tuple[int, Any]:
        if self.rank in state.get("fail", ()):
            raise MemoryError
        if self.rank in state.get("full", ()):
            raise ObjectStoreFullError  # as where Ray cannot store what this returns
        return self.at, (self.at, state)

    def save(self, folder: str, state: dict[str, Any]) -> tuple[str, str]:
        return "", ""

    def pid(self) -> int:
        return os.getpid()


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]


class Disk:
    def __init__(self) -> None:
        self.newest: Checkpoint | None = None

    def __call__(self) -> Checkpoint | None:
        return self.newest


def make(disk: Disk, timeout_s: float = 30.0, workers: int = 1) -> LearnerHost:
    def spawn(lineage: int, checkpoint: Checkpoint | None, copies: Sequence[Any]) -> list[Any]:
        return [Counting.remote(lineage, checkpoint, copies, i, workers) for i in range(workers)]  # type: ignore[attr-defined]

    host = LearnerHost(spawn, disk, timeout_s, 60.0)
    assert host.start(None).publication.version.step == 0
    return host


def update(host: LearnerHost, *faults: str) -> Publication:
    host.begin(faults)  # type: ignore[arg-type]
    while True:
        done = ray.wait(host.refs, timeout=0.1)[0]
        if done and (outcome := host.collect(done[0])):
            return outcome[1]
        host.check(7)


def test_the_fake_follows_the_list() -> None:
    require_follows(Counting, RemoteLearner)


def test_without_any_state_it_begins_anew() -> None:
    host = make(Disk())
    update(host)
    with pytest.raises(LearnerLost, match="the learner died"):
        update(host, "die")
    started = host.revive("it died")
    assert started.publication.version.step == 0 and started.driver_state == {} and host.restarts == 1


@pytest.mark.parametrize(("on_disk", "version", "state"), [(2, 3, {"a": 1}), (4, 4, {"from": "disk"})])
def test_it_goes_on_from_the_newer_of_checkpoint_and_kept_state(on_disk: int, version: int, state: object) -> None:
    disk = Disk()
    host = make(disk)
    for _ in range(3):
        update(host)
    host.copy_state(3, {"a": 1})
    before = update(host)
    disk.newest = Checkpoint.of_step(Path("unused"), on_disk)
    with pytest.raises(LearnerLost):
        update(host, "die")
    started = host.revive("it died")
    assert (started.publication.version.step, started.driver_state) == (version, state)
    again = update(host) if version == 3 else started.publication
    # the same number, and yet other weights: actors must tell them apart
    assert (again.version, before.version) == (at(4, lineage=1), at(4, lineage=0))


def test_a_kept_state_that_is_gone_gives_way_to_the_checkpoint() -> None:
    """As after the death of the learner's node, which held both."""
    disk = Disk()
    host = make(disk)
    for _ in range(3):
        update(host)
    disk.newest = Checkpoint.of_step(Path("unused"), 2)
    assert host.copy_state(3, {}) == "" and host._copy is not None
    host._copy = replace(host._copy, ref=lost_reference())
    with pytest.raises(LearnerLost):
        update(host, "die")
    assert host.revive("it died").publication.version.step == 2


def test_damaged_checkpoints_do_not_hide_a_kept_state() -> None:
    def damaged() -> None:
        raise UserError("none of its 3 checkpoints is whole")

    host = make(damaged)  # type: ignore[arg-type]
    update(host)
    host.copy_state(1, {"a": 1})
    with pytest.raises(LearnerLost):
        update(host, "die")
    assert host.revive("it died").driver_state == {"a": 1}
    with pytest.raises(LearnerLost):
        update(host, "die")
    host._copy = None
    with pytest.raises(RunFailed, match="none of its 3"):
        host.revive("it died")


def test_a_run_whose_checkpoints_are_out_of_sight_does_not_begin_anew() -> None:
    host = make(Disk())
    update(host)
    assert host.save(Path("elsewhere"), {}) == ("", "")
    with pytest.raises(LearnerLost):
        update(host, "die")
    with pytest.raises(RunFailed, match="its checkpoints cannot be seen from here"):
        host.revive("it died")


@pytest.mark.parametrize("workers", [1, 3])
def test_a_copy_that_cannot_be_kept_is_told_and_costs_nothing(workers: int) -> None:
    """As where the object store is full: the other workers do not notice."""
    host = make(Disk(), workers=workers)
    update(host)
    assert "full" in (told := host.copy_state(1, {"full": [0]})), told
    assert update(host).version.step == 2 and host.restarts == 0
    assert host.copy_state(2, {}) == ""


def test_a_copy_that_fails_at_the_only_worker_is_told() -> None:
    host = make(Disk())
    update(host)
    assert host.copy_state(1, {"fail": [0]}) == "MemoryError" and host.restarts == 0


@pytest.mark.parametrize("failing", [{"fail": [0]}, {"full": [0, 2]}])
def test_a_copy_that_fails_where_others_wait_for_it_is_a_loss(failing: dict[str, Any]) -> None:
    """Halfway through gathering the state one of several workers is missed by the others, and so are two of three."""
    host = make(Disk(), workers=3)
    update(host)
    with pytest.raises(LearnerLost, match=r"the learner failed on a copy of its state.*(MemoryError|Full)"):
        host.copy_state(1, failing)


def test_an_idle_learner_that_dies_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PING_EVERY_S", 0.2)
    host = make(Disk())
    update(host)
    for _ in range(10):
        host.check(1)
        time.sleep(0.1)
    os.kill(ray.get(host._workers[0].pid.remote()), signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(LearnerLost, match="the learner died"):
        while time.monotonic() - began < 20:
            host.check(1)
            time.sleep(0.1)


def test_what_a_dead_learner_was_asked_says_nothing_of_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PING_EVERY_S", 0.0)
    host = make(Disk())
    process = ray.get(host._workers[0].pid.remote())
    os.kill(process, signal.SIGSTOP)
    time.sleep(0.1)
    host.check(0)
    os.kill(process, signal.SIGKILL)
    with pytest.raises(LearnerLost, match="the learner died"):
        host.save(Path("unused"), {})
    host.revive("it died")
    host.check(0)
    assert update(host).version.step == 1 and host.restarts == 1


def test_a_learner_that_dies_while_it_starts_is_started_again() -> None:
    spawned: list[Any] = []

    def spawn(lineage: int, checkpoint: Checkpoint | None, copies: Sequence[Any]) -> list[Any]:
        spawned.append(Counting.remote(lineage, checkpoint, copies))  # type: ignore[attr-defined]
        if len(spawned) == 1:
            ray.kill(spawned[0])
        return spawned[-1:]

    host = LearnerHost(spawn, Disk(), 30.0, 60.0)
    assert host.start(None).publication.version.lineage == 1 and len(spawned) == 2 and update(host).version.step == 1


def test_a_published_version_outlives_the_learner() -> None:
    host = make(Disk(), workers=2)
    published = update(host)
    assert ray.get(published.probes) == (1, 0)
    with pytest.raises(LearnerLost):
        update(host, "die")
    assert ray.get(published.parts[SHARED].ref)[SHARED][0] == 1 and ray.get(published.probes) == (1, 0)


def test_a_learner_that_hangs_is_named_at_its_deadline_and_replaced() -> None:
    host = make(Disk(), timeout_s=2.0)
    began = time.monotonic()
    with pytest.raises(LearnerLost, match=r"the driver waited 2 s for the learner on batch 7 \(learner.timeout_s=2\)"):
        update(host, "hang")
    assert time.monotonic() - began < 10
    assert host.revive("it hung").publication.version.step == 0 and update(host).version.step == 1


def test_a_failed_update_is_a_lost_learner() -> None:
    host = make(Disk())
    update(host)
    with pytest.raises(LearnerLost, match=r"failed on its update \(MemoryError: too long a batch\)"):
        update(host, "fail")


@pytest.mark.parametrize("workers", [1, 3])
def test_what_would_fail_again_is_told_once_with_its_place(workers: int) -> None:
    host = make(Disk(), workers=workers)
    update(host)
    with pytest.raises(RunFailed, match=r"its update.* KeyError: 'reward' \(.*test_learning\.py:\d+ in step\); see"):
        update(host, "slip")
    assert host.restarts == 0 and not host.is_busy
    with pytest.raises(LearnerLost, match="has ended"):  # no checkpoint of half an update
        host.save(Path("unused"), {})


def test_a_peer_that_hangs_up_is_a_loss() -> None:
    host = make(Disk())
    update(host)
    with pytest.raises(LearnerLost, match="Connection closed by peer"):
        update(host, "peer")


def test_a_learner_that_is_lost_again_and_again_fails_the_run() -> None:
    host = make(Disk())
    update(host)
    for _ in range(3):
        with pytest.raises(LearnerLost):
            update(host, "die")
        host.revive("it died")
    with pytest.raises(LearnerLost):
        update(host, "die")
    with pytest.raises(RunFailed, match="the learner was lost 4 times without an update: it died"):
        host.revive("it died")


@pytest.mark.parametrize(
    ("fault", "said"),
    [("die", "the learner died"), ("fail", "failed on its update, worker 1 .MemoryError"), ("hang", "waited 4 s")],
)
def test_one_lost_worker_is_a_lost_learner(fault: str, said: str) -> None:
    """Even where the others wait for it for ever: they are ended, and all of them start again."""
    host = make(Disk(), timeout_s=4.0, workers=2)
    before = update(host)
    host.copy_state(1, {"a": 1})
    with pytest.raises(LearnerLost, match=said):
        update(host, fault)
    started = host.revive("it did")
    assert (started.publication.version.step, started.driver_state) == (1, {"a": 1})
    after = update(host)
    assert after.version.step == before.version.step + 1 and ray.get(after.parts[SHARED].ref)[SHARED][0] == 2


def test_progress_forgives_deaths() -> None:
    disk = Disk()
    host = make(disk)
    for step in range(1, module.MAX_DEATHS_IN_A_ROW + 2):
        disk.newest = Checkpoint.of_step(Path("unused"), update(host).version.step)
        with pytest.raises(LearnerLost):
            update(host, "die")
        assert host.revive("it died").publication.version.step == step


def test_deaths_that_always_undo_the_same_step_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.MAX_DEATHS_WITHOUT_PROGRESS == 10  # which would take a minute
    monkeypatch.setattr(module, "MAX_DEATHS_WITHOUT_PROGRESS", 4)
    host = make(Disk())  # without a state to go on from
    for _ in range(4):
        assert update(host).version.step == 1
        with pytest.raises(LearnerLost):
            update(host, "die")
        host.revive("it died")
    update(host)
    with pytest.raises(LearnerLost):
        update(host, "die")
    with pytest.raises(RunFailed, match="the learner was lost 5 times at version 1: it died"):
        host.revive("it died")
