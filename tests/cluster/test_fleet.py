"""The pool of rollout actors on real Ray processes, whose engine is a sleep: what is tested is who does what when."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
import ray
from helpers import publication, request
from lost import lost_reference
from remote import require_follows

from azero.errors import RunFailed, UserError
from azero.types import SHARED, Assignment, Publication, Role, Slot
from cluster.supervise import fleet as module
from cluster.supervise.fleet import ActorState, Fleet, WeightsLost
from cluster.supervise.remote import EvalWork, PlayWork, RemoteActor

PUBLICATION = publication()


@ray.remote(num_cpus=0)
class Sleeper:
    """Plays an assignment by sleeping; the id of one may be the name of what goes wrong."""

    def __init__(self, index: int, seconds: float, start_s: float = 0.0) -> None:
        self.index, self.seconds = index, seconds
        time.sleep(start_s)

    def hello(self) -> int:
        return os.getpid()

    def ready(self) -> None: ...

    def pid(self) -> int:
        return os.getpid()

    def evaluate(self, items: object, published: Publication) -> str:
        return "evaluated"

    def play(self, assignment: Assignment, published: Publication) -> tuple[int, str]:
        if assignment.id.startswith("fatal"):
            os._exit(1)
        if assignment.id.startswith("broken"):
            raise type("EngineDeadError", (Exception,), {})("the engine is broken")  # as vLLM's
        if assignment.id.startswith("full"):
            raise OSError(28, "No space left on device")
        if assignment.id.startswith("slip"):
            {}["reward"]
        if assignment.id.startswith("silent"):
            raise AssertionError  # as vLLM has many, without a word
        if assignment.id.startswith("refused"):
            raise UserError("rollout.max_model_len=8: too short")
        if assignment.id.startswith("lost"):
            from actors.rollout import fetched  # here, as every process of a Sleeper would import it before it answers

            fetched(published.parts[SHARED].ref, 1.0)
        time.sleep(self.seconds)
        return self.index, assignment.id


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]


PROPOSER, SOLVER = (Role.PROPOSER,), (Role.SOLVER,)


def split(index: int) -> tuple[Role, ...]:
    """Actor 0 plays the proposer, all others the solver."""
    return SOLVER if index else PROPOSER


def asking(id: str) -> PlayWork:
    """Work for a proposer."""
    slot = Slot(id=id, tries=(request("1 + 2"),))
    return PlayWork(assignment=Assignment(id=id, batch=0, slots=(slot,)))


def work(id: str) -> PlayWork:
    return PlayWork(assignment=Assignment(id=id, batch=0, slots=()))


def make(size: int, said: list[str], seconds: float = 0.2, timeout_s: float = 30.0, **options: Any) -> Fleet:
    def spawn(index: int) -> Any:
        return Sleeper.remote(index, seconds)  # type: ignore[attr-defined]

    fleet = Fleet(spawn, size, timeout_s, 60.0, said.append, **options)
    fleet.start()
    fleet.wait_ready()
    drive(fleet, lambda: fleet.states()[ActorState.STALE] == size)
    return fleet


def drive(
    fleet: Fleet, until: Callable[[], bool], limit_s: float = 60.0, published: Publication = PUBLICATION
) -> list[tuple[int, str]]:
    """Results collected until the condition holds."""
    results = []
    deadline = time.monotonic() + limit_s
    while not until():
        assert time.monotonic() < deadline, fleet.states()
        fleet.dispatch(published)
        for ref in ray.wait(fleet.refs, timeout=0.1)[0] if fleet.refs else ():
            outcome = fleet.collect(ref)
            if outcome is not None:
                results.append(outcome[1])
        fleet.check()
    return results


def finished(fleet: Fleet) -> Callable[[], bool]:
    return lambda: not fleet._open


def pid_of(fleet: Fleet, index: int) -> int:
    return int(ray.get(fleet._members[index].handle.pid.remote()))


def stop_at_work(fleet: Fleet) -> int:
    """Stop the first actor once it has work; its process."""
    victim = pid_of(fleet, 0)
    fleet.submit(work("0/0"))
    fleet.dispatch(PUBLICATION)
    os.kill(victim, signal.SIGSTOP)
    return victim


def test_the_fake_follows_the_list() -> None:
    require_follows(Sleeper, RemoteActor)


def test_work_is_shared_and_each_piece_is_done_once() -> None:
    said: list[str] = []
    fleet = make(2, said)
    for i in range(6):
        fleet.submit(work(f"0/{i}"))
    results = drive(fleet, finished(fleet))
    assert sorted(id for _, id in results) == [f"0/{i}" for i in range(6)]
    assert {index for index, _ in results} == {0, 1} and not said
    assert fleet.states()[ActorState.SERVING] == 2 and fleet.restarts == fleet.redispatched == 0


def test_a_killed_actor_is_started_again_and_its_work_done_by_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.2)
    said: list[str] = []
    fleet = make(2, said, seconds=1.0)
    victim = pid_of(fleet, 0)
    for i in range(4):
        fleet.submit(work(f"0/{i}"))
    fleet.dispatch(PUBLICATION)
    os.kill(victim, signal.SIGKILL)
    results = drive(fleet, finished(fleet))
    assert sorted(id for _, id in results) == [f"0/{i}" for i in range(4)]
    assert fleet.restarts == fleet.redispatched == 1 and "rollout actor 0 died" in said[0]
    drive(fleet, lambda: sum(fleet.states()[s] for s in module.UP) == 2)
    assert pid_of(fleet, 0) != victim


def test_a_stopped_actor_is_named_in_time_and_taken_back_when_it_answers() -> None:
    said: list[str] = []
    fleet = make(2, said, timeout_s=3.0)
    victim = pid_of(fleet, 0)
    fleet.submit(work("0/0"))
    fleet.submit(work("0/1"))
    fleet.dispatch(PUBLICATION)
    os.kill(victim, signal.SIGSTOP)
    began = time.monotonic()
    results = drive(fleet, finished(fleet))
    took = time.monotonic() - began
    assert sorted(id for _, id in results) == ["0/0", "0/1"] and {i for i, _ in results} == {1} and 3 < took < 5
    assert "waited 3 s for rollout actor 0 on assignment 0/0" in said[0]
    assert fleet.states()[ActorState.SUSPECT] == 1 and fleet.redispatched == 1
    os.kill(victim, signal.SIGCONT)
    assert drive(fleet, lambda: fleet.states()[ActorState.SERVING] == 2) == []  # its late result counts for nothing
    assert said[1] == "rollout actor 0 answers again" and pid_of(fleet, 0) == victim


def test_an_actor_that_stays_silent_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.2)
    said: list[str] = []
    fleet = make(2, said, timeout_s=1.0)
    stop_at_work(fleet)
    drive(fleet, finished(fleet))
    drive(fleet, lambda: fleet.restarts == 1)
    assert "was silent for 2 s" in said[1]
    drive(fleet, lambda: fleet.states()[ActorState.STALE] == 1)


def test_a_sole_actor_that_hangs_is_replaced_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.2)
    said: list[str] = []
    fleet = make(1, said, timeout_s=2.0)
    stop_at_work(fleet)
    assert drive(fleet, finished(fleet)) == [(0, "0/0")] and fleet.restarts == 1


def test_each_piece_goes_to_an_actor_of_its_role(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where actors of the other role are idle, and after a death."""
    monkeypatch.setattr(module, "PAUSE_S", 0.2)
    fleet = make(3, [], seconds=0.5, roles_of=split)
    fleet.submit(work("s0"))
    fleet.submit(work("s1"))
    fleet.submit(work("s2"))
    fleet.submit(asking("p0"))
    fleet.submit(asking("p1"))
    fleet.dispatch(PUBLICATION)
    os.kill(pid_of(fleet, 0), signal.SIGKILL)  # has p0, though solvers' work was queued before
    results = drive(fleet, finished(fleet))
    assert sorted(id for _, id in results) == ["p0", "p1", "s0", "s1", "s2"]
    assert all(split(index) == (PROPOSER if id.startswith("p") else SOLVER) for index, id in results)
    assert fleet.restarts == fleet.redispatched == 1


def test_the_sole_actor_of_a_role_that_hangs_is_replaced_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.2)
    fleet = make(2, [], timeout_s=2.0, roles_of=split)
    victim = pid_of(fleet, 0)
    fleet.submit(asking("p0"))
    fleet.dispatch(PUBLICATION)
    os.kill(victim, signal.SIGSTOP)
    assert drive(fleet, finished(fleet)) == [(0, "p0")] and fleet.restarts == 1


def test_without_an_actor_of_a_role_the_run_ends_and_names_it() -> None:
    fleet = make(2, [], roles_of=split)
    fleet._members[0].deaths = 3
    fleet.submit(asking("fatal"))
    with pytest.raises(RunFailed, match="all 1 rollout actors of the proposer are retired"):
        drive(fleet, finished(fleet))
    assert fleet.states()[ActorState.STALE] == 1  # the solver's is well


def test_a_run_begins_with_an_actor_of_each_role() -> None:
    def spawn(index: int) -> Any:
        return Sleeper.options(num_cpus=64 * index).remote(index, 0.1)  # type: ignore[attr-defined]

    fleet = Fleet(spawn, 2, 30.0, 60.0, print, roles_of=split)
    fleet.start()
    drive(fleet, lambda: fleet.states()[ActorState.STALE] == 1)
    fleet.start_timeout_s = 1.0
    with pytest.raises(RunFailed, match="fewer than 1 rollout actors of the solver were ready after 1 s"):
        fleet.wait_ready()


def test_an_engine_that_fails_ends_its_actor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.05)
    said: list[str] = []
    fleet = make(2, said)
    fleet.submit(work("broken"))
    with pytest.raises(RunFailed, match="died 5 times on assignment broken; the last died: the engine is broken"):
        drive(fleet, finished(fleet))
    assert all("the engine is broken" in line for line in said)


def test_actors_that_die_again_and_again_are_retired(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.05)
    said: list[str] = []
    fleet = make(1, said)
    for i in range(4):
        fleet.submit(work(f"fatal/{i}"))
    with pytest.raises(RunFailed, match="all 1 rollout actors are retired"):
        drive(fleet, finished(fleet))
    assert fleet.states()[ActorState.RETIRED] == 1 and "retired, after 4 deaths" in said[-1]


def test_what_an_actor_loses_is_tried_again_by_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is not the work's fault, as far as anyone knows."""
    monkeypatch.setattr(module, "PAUSE_S", 0.05)
    fleet = make(2, [])
    fleet.submit(work("full"))
    with pytest.raises(RunFailed, match=r"died 5 times on assignment full; the last died: .*No space left on device"):
        drive(fleet, finished(fleet))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("slip", r"KeyError: 'reward' \(.*test_fleet\.py:\d+ in play\); see logs/actor-"),
        ("silent", r"AssertionError \(.*test_fleet\.py:\d+ in play\)"),
        ("refused", r"rollout\.max_model_len=8: too short"),
    ],
)
def test_what_would_fail_again_is_told_once_with_its_place(fault: str, said: str) -> None:
    told: list[str] = []
    fleet = make(2, told)
    fleet.submit(work(fault))
    with pytest.raises(RunFailed, match=said):
        drive(fleet, finished(fleet))
    assert not told and fleet.restarts == 0


@pytest.mark.parametrize("what", ["lost", "fatal", "broken"])
def test_actors_whose_version_is_gone_are_well(what: str) -> None:
    """Its bytes are lost, or what should have made them died or failed: told once, whoever else waits for it."""
    learner = Sleeper.remote(0, 30.0)  # type: ignore[attr-defined]
    gone = lost_reference() if what == "lost" else learner.play.remote(work(what).assignment, PUBLICATION)
    said: list[str] = []
    fleet = make(2, said)
    for i in range(2):
        fleet.submit(work(f"lost {i}"))
    fleet.dispatch(publication(ref=gone))
    with pytest.raises(WeightsLost, match="the published version is gone"):
        drive(fleet, finished(fleet))
    fleet.abandon()
    fleet.submit(work("0/0"))
    drive(fleet, finished(fleet))
    drive(fleet, lambda: not fleet.refs)
    assert fleet.states()[ActorState.DEAD] == 0 and fleet.restarts == 0 and not said


def test_a_version_that_comes_late_is_waited_for() -> None:
    learner = Sleeper.remote(0, 3.0)  # type: ignore[attr-defined]
    late = publication(ref=learner.play.remote(work("slow").assignment, PUBLICATION))
    said: list[str] = []
    fleet = make(1, said)
    fleet.submit(work("lost"))  # waits a second for it
    assert drive(fleet, finished(fleet), published=late) == [(0, "lost")]
    assert fleet.restarts == 0 and fleet.redispatched == len(said) >= 1
    assert set(said) == {"rollout actor 0 waited 1 s for a published version; trying again"}


def test_the_retired_get_another_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.05)
    monkeypatch.setattr(module, "RETIREMENT_S", 1.0)
    said: list[str] = []
    fleet = make(2, said)
    fleet._members[0].deaths = 3
    os.kill(pid_of(fleet, 0), signal.SIGKILL)
    fleet.submit(work("0/0"))
    fleet.submit(work("0/1"))
    drive(fleet, lambda: fleet.states()[ActorState.RETIRED] == 1)
    drive(fleet, lambda: fleet.states()[ActorState.RETIRED] == 0 and fleet.states()[ActorState.STALE] == 1)
    fleet.submit(work("0/2"))
    fleet.submit(work("0/3"))
    drive(fleet, finished(fleet))
    assert any("rollout actor 0 serves again, after" in line for line in said)


def test_a_process_that_never_answers_is_replaced_and_one_that_waits_for_room_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.2)
    said: list[str] = []
    fleet = Fleet(lambda i: Sleeper.remote(i, 0.1, 1000.0), 1, 30.0, 3.0, said.append)  # type: ignore[attr-defined]
    fleet.start()
    drive(fleet, lambda: fleet.restarts == 1)
    assert "did not start in 3 s" in said[0]
    said.clear()
    large = Sleeper.options(num_cpus=64)  # type: ignore[attr-defined]
    fleet = Fleet(lambda i: large.remote(i, 0.1), 1, 30.0, 1.0, said.append)
    fleet.start()
    began = time.monotonic()
    drive(fleet, lambda: time.monotonic() - began > 3)
    assert fleet.restarts == 0 and not said and fleet.states()[ActorState.STARTING] == 1


def test_an_actor_that_gets_its_process_late_has_the_whole_deadline_from_then(monkeypatch: pytest.MonkeyPatch) -> None:
    said, began = list[str](), time.monotonic()
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.1)
    monkeypatch.setattr(module, "_has_process", lambda _: time.monotonic() - began > 8.5)
    fleet = Fleet(lambda i: Sleeper.remote(i, 0.1, 9.0), 1, 30.0, 8.0, said.append)  # type: ignore[attr-defined]
    fleet.start()
    drive(fleet, lambda: fleet.states()[ActorState.STALE] == 1)
    assert time.monotonic() - began > 8 and fleet.restarts == 0 and not said


def test_before_a_stop_only_evaluations_are_given_out() -> None:
    fleet = make(1, [])
    fleet.submit(work("0/0"))
    fleet.dispatch(PUBLICATION, evaluations_only=True)
    assert not fleet.refs
    fleet.submit(EvalWork(items=(), publication=PUBLICATION))
    fleet.dispatch(PUBLICATION, evaluations_only=True)
    assert fleet.evaluating
    drive(fleet, lambda: not fleet.evaluating)


def test_abandoned_work_counts_for_nothing_even_under_the_same_name() -> None:
    said: list[str] = []
    fleet = make(1, said, seconds=1.0)
    fleet.submit(work("0/0"))
    fleet.dispatch(PUBLICATION)
    fleet.abandon()
    fleet.submit(work("0/0"))
    began = time.monotonic()
    assert drive(fleet, finished(fleet)) == [(0, "0/0")]
    assert time.monotonic() - began > 1.5  # the first one's result was not taken for the second's


def test_with_half_of_the_actors_dead_the_rest_go_on_at_half_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 1000.0)  # the dead stay dead
    said: list[str] = []
    fleet = make(4, said, seconds=0.5)

    def rate(pieces: int) -> float:
        for i in range(pieces):
            fleet.submit(work(f"{pieces}/{i}"))
        began = time.monotonic()
        drive(fleet, finished(fleet))
        return pieces / (time.monotonic() - began)

    whole = rate(16)
    for index in (0, 1):
        fleet._members[index].deaths = 1
        os.kill(pid_of(fleet, index), signal.SIGKILL)
    drive(fleet, lambda: fleet.states()[ActorState.SERVING] >= 2 and not fleet._queue)
    half = rate(18)
    print(f"4 actors {whole:.2f} pieces/s, 2 actors {half:.2f}, ratio {half / whole:.2f}")
    assert 0.4 < half / whole < 0.6
