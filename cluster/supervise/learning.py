"""The learner as the loop sees it: one update at a time, and after its death the newest of its states that is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from azero.errors import RunFailed, UserError, first_line
from azero.types import Publication, PublishedWeights, StepResult, TrainBatch
from cluster.supervise.failures import failure, is_loss
from learner.checkpoint import Checkpoint

MAX_DEATHS_IN_A_ROW = 3  # without an update in between: it cannot learn
MAX_DEATHS_WITHOUT_PROGRESS = 10  # before a version beyond the furthest: it cannot get on
PEER_S = 2.0  # for Ray to tell of a worker that died, after another has failed for want of it
PING_EVERY_S = 5.0  # while it waits for a batch
PING = "a ping or its probes"


class LearnerLost(Exception):
    """The learner died or did not answer in time. `LearnerHost.revive` brings it back."""


class LearnerDied(LearnerLost):
    """One of its processes is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerStart:
    """Holds what a learner begins with."""

    publication: Publication
    driver_state: dict[str, Any]  # what the driver put into the state that the learner goes on from; empty at step 0
    is_on_disk: bool = False  # whether that state is a checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class _Copy:
    """The learner's state in Ray's object store."""

    step: int
    ref: Any


@dataclass(slots=True, kw_only=True)
class _Call:
    """One method on all workers. Where it returns two, the second is a handle, and the first worker's counts."""

    what: str
    results: list[Any]  # references, a worker each
    handle: Any
    waiting: list[Any]  # those of the results that are not taken
    since: float  # monotonic seconds
    tolerant: bool = False  # whether a failure that the other workers do not notice is raised as it is
    value: Any = None  # the first worker's result


@dataclass
class LearnerHost:
    """Owns the learner's processes, its workers. Every call goes to all of them and has a deadline; a learner of which
    one misses it is ended, and so is one of which a worker dies, since the others then wait for it.

    A revived learner goes on from the newer of two states: the last checkpoint, and the last `copy_state`, which lies
    in Ray's object store and outlives the process, though not its node.
    """

    # Makes the workers of a lineage: from a checkpoint, references to copies, or the start model.
    spawn: Callable[[int, Checkpoint | None, Sequence[Any]], list[Any]]
    newest_checkpoint: Callable[[], Checkpoint | None]
    timeout_s: float  # of one call
    start_timeout_s: float

    def __post_init__(self) -> None:
        self._workers: list[Any] = []  # the first one's answers count
        self._copy: _Copy | None = None
        self._step: _Call | None = None  # the one that goes on
        self._parts: dict[str, PublishedWeights] = {}  # of the newest publication, with references
        self._furthest = -1  # step
        self._deaths = 0  # since the furthest step was reached
        self._deaths_in_a_row = 0  # since the last update
        self._has_saved = False
        self._pings: list[Any] = []
        self._pinged = 0.0  # when; monotonic seconds
        self.restarts = 0

    def start(self, checkpoint: Checkpoint | None) -> LearnerStart:
        """Raises LearnerLost, RunFailed as `revive` does, and what building the learner raised.

        A start that is late is not made again: it waits for room, and has waited long enough.
        """
        try:
            return self._start(checkpoint, ())
        except LearnerDied as e:
            return self.revive(str(e))

    def revive(self, why: str) -> LearnerStart:
        """Start it again from the newest state. Raises RunFailed where that helped too often and led nowhere."""
        self.end()
        while True:
            self._deaths += 1
            self._deaths_in_a_row += 1
            if self._deaths_in_a_row > MAX_DEATHS_IN_A_ROW:
                raise RunFailed(f"the learner was lost {self._deaths_in_a_row} times without an update: {why}")
            if self._deaths > MAX_DEATHS_WITHOUT_PROGRESS:
                raise RunFailed(f"the learner was lost {self._deaths} times at version {self._furthest}: {why}")
            self.restarts += 1
            checkpoint = None
            try:
                checkpoint = self.newest_checkpoint()
            except UserError as e:  # all are damaged
                if not self._copy:
                    raise RunFailed(str(e)) from None
            if self._copy and checkpoint and checkpoint.step > self._copy.step:
                self._copy = None
            if not self._copy and not checkpoint and self._has_saved:
                raise RunFailed(
                    f"{why}; its checkpoints cannot be seen from here: run.dir has to be on a disk that driver and "
                    "learner share, or give run.mirror"
                )
            try:
                return self._start(None if self._copy else checkpoint, (self._copy.ref,) if self._copy else ())
            except LearnerLost as e:
                why, self._copy = str(e), None  # it may be the copy that is gone, with the node that held it

    @property
    def is_busy(self) -> bool:
        """Whether a step goes on."""
        return self._step is not None

    @property
    def refs(self) -> list[Any]:
        """Return references to what is not there yet of the step that goes on."""
        return list(self._step.waiting) if self._step else []

    def begin(self, batch: TrainBatch) -> None:
        shared = ray.put(batch) if len(self._workers) > 1 else batch
        self._step = self._call("step", "its update", shared)

    def collect(self, ref: Any) -> tuple[StepResult, Publication] | None:
        """One of `refs` is ready: the step's outcome where it was the last. Raises LearnerLost."""
        call = self._step
        assert call is not None
        self._take(call, ref)
        if call.waiting:
            return None
        self._step = None
        result, publication = call.value
        self._deaths_in_a_row = 0
        if result.step > self._furthest:
            self._furthest, self._deaths = result.step, 0
        return result, self._published(call, publication)

    def check(self, step: int) -> None:
        """Check the deadline of a step, or whether an idle learner lives. Raises LearnerLost."""
        now = time.monotonic()
        if self._step:
            self._pings = []
            if (waited := now - self._step.since) > self.timeout_s:
                raise self._late(f"batch {step}", waited)
        elif not self._pings and now - self._pinged > PING_EVERY_S:
            self._pings, self._pinged = [w.ping.remote() for w in self._workers], now
        for ref in ray.wait(self._pings, num_returns=len(self._pings), timeout=0)[0] if self._pings else ():
            self._pings.remove(ref)
            self._get(ref, PING)
        if self._pings and now - self._pinged > self.timeout_s:
            raise self._late(PING, now - self._pinged)

    def _late(self, what: str, waited: float) -> LearnerLost:
        return self._lost(
            f"the driver waited {waited:.0f} s for the learner on {what} (learner.timeout_s={self.timeout_s:g}); its "
            "stacks are in logs/learner.log"
        )

    def save(self, folder: Path, driver_state: dict[str, Any]) -> tuple[str, str]:
        """Write a checkpoint; what kept it from being written, and from being copied. Raises LearnerLost."""
        call = self._call("save", "a checkpoint", str(folder), driver_state)
        outcome: tuple[str, str] = self._all(call, self.timeout_s)
        self._has_saved |= not outcome[0]
        return outcome

    def copy_state(self, step: int, driver_state: dict[str, Any]) -> str:
        """Hold the learner's whole state in the object store, in place of the last; what prevents it, if anything.

        Raises LearnerLost.
        """
        self._copy = None  # to make room
        call = self._call("copy_state", "a copy of its state", driver_state)
        call.tolerant = True
        try:
            self._all(call, self.timeout_s)
        except RayTaskError as e:  # such as a full object store, which leaves all workers as they were
            call.tolerant = False  # of the others
            self._all(call, self.timeout_s)
            return first_line(e.cause)
        self._copy = _Copy(step=step, ref=call.handle)
        return ""

    def end(self) -> None:
        """End its processes; what they published stays."""
        for worker in self._workers:
            ray.kill(worker)
        self._workers, self._step, self._pings = [], None, []

    def _start(self, checkpoint: Checkpoint | None, copies: Sequence[Any]) -> LearnerStart:
        self._step = None
        self._workers = self.spawn(self.restarts, checkpoint, copies)
        what, limit = "its start (cluster.start_timeout_s)", self.start_timeout_s
        address = self._get(self._workers[0].listen.remote(), what, limit) if len(self._workers) > 1 else ""
        call = self._call("start", what, address)
        publication, driver_state = self._all(call, limit)
        self._furthest = max(self._furthest, publication.version.step)
        return LearnerStart(
            publication=self._published(call, publication),
            driver_state=driver_state,
            is_on_disk=checkpoint is not None,
        )

    def _published(self, call: _Call, publication: Publication) -> Publication:
        """Add the references to its weights and probes. What did not change keeps the reference that it had."""
        probes = [w.probe.remote() for w in self._workers]
        self._pings, self._pinged = list(probes), time.monotonic()  # it is as good as a ping
        for name, part in publication.parts.items():
            is_new = part.since == publication.version
            self._parts[name] = replace(part, ref=call.handle if is_new else self._parts[name].ref)
        return replace(publication, parts=dict(self._parts), probes=probes[0])

    def _call(self, method: str, what: str, *arguments: Any) -> _Call:
        if not self._workers:
            raise LearnerLost("the learner has ended")
        returned = [getattr(w, method).remote(*arguments) for w in self._workers]
        results = [r[0] if isinstance(r, list) else r for r in returned]
        handle = returned[0][1] if isinstance(returned[0], list) else None
        return _Call(what=what, results=results, handle=handle, waiting=list(results), since=time.monotonic())

    def _take(self, call: _Call, ref: Any) -> None:
        """A worker's result, or its failure. Raises as `_get` does."""
        rank = call.results.index(ref)
        call.waiting.remove(ref)
        value = self._get(ref, call.what + (f", worker {rank}" if rank else ""), call=call)
        if rank == 0:
            call.value = value

    def _all(self, call: _Call, timeout_s: float) -> Any:
        """The first worker's result, when all have ended. Raises as `_get` does, for whichever fails first."""
        while call.waiting:
            done, _ = ray.wait(call.waiting, timeout=max(0.0, call.since + timeout_s - time.monotonic()))
            if not done:
                raise self._lost(f"the driver waited {timeout_s:g} s for the learner on {call.what}")
            self._take(call, done[0])
        return call.value

    def _get(self, ref: Any, what: str, timeout_s: float | None = None, call: _Call | None = None) -> Any:
        """Wait for what a worker gives, `timeout_s` at most, by default that of all calls; `call`: whose result it is.

        Raises LearnerLost; RayTaskError where the call is tolerant and the other workers noticed nothing; and where a
        new start would change nothing UserError and RunFailed, with the learner ended.
        """
        timeout_s = timeout_s or self.timeout_s
        try:
            return ray.get(ref, timeout=timeout_s)
        except GetTimeoutError:
            raise self._lost(f"the driver waited {timeout_s:g} s for the learner on {what}") from None
        except RayTaskError as e:
            # Of several workers one alone can fail unnoticed only after its work, when Ray stores what it returned:
            # a failure of the work itself leaves the others waiting for it.
            alone = len(self._workers) == 1 or isinstance(e.cause, RayError)
            if call and call.tolerant and alone:
                raise
            if self._furthest < 0 or not (is_loss(e) or _is_any_dead(call.waiting if call else ())):
                self.end()
                raise failure(f"the learner on {what}", e, "logs/learner.log") from e
            raise self._lost(
                f"the learner failed on {what} ({type(e.cause).__name__}: {first_line(e.cause)})"
            ) from None
        except RayError as e:
            raise self._lost(f"the learner died ({first_line(e)})", LearnerDied) from None

    def _lost(self, why: str, kind: type[LearnerLost] = LearnerLost) -> LearnerLost:
        self.end()
        return kind(why)


def _is_any_dead(references: Sequence[Any]) -> bool:
    """Whether one of the workers that owe these is gone, to which another's failure may be due."""
    for ref in ray.wait(list(references), num_returns=len(references), timeout=PEER_S)[0] if references else ():
        try:
            ray.get(ref)
        except RayTaskError:
            continue
        except RayError:
            return True
    return False
