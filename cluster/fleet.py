"""The rollout actors as one pool: who does what, since when, and what happens when one dies."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError

from azero.errors import RunFailed
from azero.types import Assignment, EvalItem, WeightSnapshot

# A machine that kills every actor it starts is not worth a fourth try.
MAX_RESTARTS_WITHOUT_PROGRESS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayWork:
    assignment: Assignment
    actor: int | None  # pinned in synchronous mode, where who plays what is part of the result

    def __str__(self) -> str:
        return f"assignment {self.assignment.id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalWork:
    items: Sequence[EvalItem]
    snapshot: WeightSnapshot
    actor: int | None = None

    def __str__(self) -> str:
        return f"evaluation of version {self.snapshot.version}"


Work = PlayWork | EvalWork


@dataclass(slots=True)
class _Member:
    handle: Any
    work: Work | None = None
    since: float = 0.0  # monotonic seconds; of the work, or of idleness
    restarts: int = 0  # without a result in between


class Fleet:
    """Sends queued work to idle actors, evaluations first. A dead actor is replaced and its work sent again.

    A replacement serves nothing stale: every call carries the snapshot that it must hold, proven, before it plays.
    """

    def __init__(self, spawn: Callable[[int], Any], size: int, timeout_s: float) -> None:
        self._spawn, self._timeout_s = spawn, timeout_s
        now = time.monotonic()
        self._members = [_Member(handle=spawn(i), since=now) for i in range(size)]
        self._queue: deque[Work] = deque()
        self._running: dict[Any, int] = {}  # object ref -> actor
        self.restarts = self.redispatched = 0
        self._idle_s = 0.0

    def wait_ready(self, timeout_s: float) -> None:
        """Raises RunFailed where an actor is not up in time."""
        refs = [m.handle.ready.remote() for m in self._members]
        done, missing = ray.wait(refs, num_returns=len(refs), timeout=timeout_s)
        if missing:
            late = [i for i, r in enumerate(refs) if r in missing]
            raise RunFailed(
                f"rollout actors {late} not ready after {timeout_s:g} s (cluster.start_timeout_s); see logs/"
            )
        ray.get(done)

    def submit(self, work: Work) -> None:
        if isinstance(work, EvalWork):
            self._queue.appendleft(work)
        else:
            self._queue.append(work)

    @property
    def refs(self) -> list[Any]:
        return list(self._running)

    @property
    def evaluating(self) -> bool:
        return any(isinstance(w, EvalWork) for w in [*self._queue, *(m.work for m in self._members)])

    def dispatch(self, snapshot: WeightSnapshot) -> None:
        """Give every idle actor the first queued work that it may do, on `snapshot` (evaluations on their own)."""
        for index, member in enumerate(self._members):
            if member.work is not None:
                continue
            work = next((w for w in self._queue if w.actor in (None, index)), None)
            if work is None:
                continue
            self._queue.remove(work)
            now = time.monotonic()
            self._idle_s += now - member.since
            member.work, member.since = work, now
            if isinstance(work, PlayWork):
                ref = member.handle.play.remote(work.assignment, snapshot)
            else:
                ref = member.handle.evaluate.remote(work.items, work.snapshot)
            self._running[ref] = index

    def collect(self, ref: Any) -> tuple[Work, Any] | None:
        """The result of a finished call; None where its actor died and the work was queued again. Raises RunFailed."""
        index = self._running.pop(ref)
        member = self._members[index]
        work = member.work
        assert work is not None
        member.work, member.since = None, time.monotonic()
        try:
            result = ray.get(ref)
        except RayActorError as e:
            self._replace(index, work, str(e).splitlines()[0])
            return None
        member.restarts = 0
        return work, result

    def _replace(self, index: int, work: Work, why: str) -> None:
        member = self._members[index]
        if member.restarts >= MAX_RESTARTS_WITHOUT_PROGRESS:
            raise RunFailed(f"rollout actor {index} died {member.restarts + 1} times in a row on {work}: {why}")
        self._members[index] = _Member(handle=self._spawn(index), since=time.monotonic(), restarts=member.restarts + 1)
        self._queue.appendleft(work)
        self.restarts += 1
        self.redispatched += 1

    def check_deadlines(self) -> None:
        """Raises RunFailed that names the actor, its work and since when."""
        now = time.monotonic()
        for index, member in enumerate(self._members):
            if member.work is not None and now - member.since > self._timeout_s:
                raise RunFailed(
                    f"the driver waited {now - member.since:.0f} s for rollout actor {index} on {member.work} "
                    f"(rollout.timeout_s={self._timeout_s:g}); see logs/actor-{index}.log"
                )

    def take_idle_seconds(self) -> float:
        """Mean idle seconds of an actor since the last call."""
        now = time.monotonic()
        for member in self._members:
            if member.work is None:
                self._idle_s += now - member.since
                member.since = now
        idle, self._idle_s = self._idle_s / len(self._members), 0.0
        return idle
