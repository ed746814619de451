"""The rollout actors as one pool: who does what, since when, and what happens when one hangs or dies.

    STARTING --ready--> STALE --proven version--> SERVING --silent beyond rollout.timeout_s--> SUSPECT
       ^                                             ^                                           |   |
       |                                             +------------------ answers ----------------+   |
       +--- pause --- DEAD <--- its process or engine died, or silent for as long again -------------+
       ^               |
       +--- ten minutes --- RETIRED <--- died again and again without a result

A STARTING actor may wait for a node with room: actors join when nodes do. A STALE one is up and holds no weights that
count; every call carries the publication that an actor must hold, proven, before it plays. An actor gets work of the
roles that it plays: both, or one alone (rollout.roles). The run fails if all actors of a role are retired at once.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from azero.errors import RunFailed, SyncError, VersionGone, VersionLate, first_line
from azero.types import ROLES, Publication, Role
from cluster.records.trace import NO_TRACE, Trace
from cluster.supervise.failures import cause_of, failure, is_loss
from cluster.supervise.remote import EvalWork, PlayWork, Work

MAX_DEATHS_WITHOUT_RESULT = 3  # of one actor; a machine that kills every actor it starts is not worth a fourth try
MAX_DEATHS_OVER_WORK = 5  # of any actors over one piece of work: the work itself kills
PAUSE_S = 1.0  # before the second start in a row; doubles
LOOK_EVERY_S = 5.0  # whether an actor that waits for room has got a process
RETIREMENT_S = 600.0  # then it is tried again: what was wrong may have been its node


class WeightsLost(Exception):
    """A published version is gone: its bytes, with the node that held them."""


class ActorState(StrEnum):
    STARTING = "starting"
    STALE = "stale"
    SERVING = "serving"
    SUSPECT = "suspect"
    DEAD = "dead"
    RETIRED = "retired"


UP = (ActorState.STALE, ActorState.SERVING)


@dataclass(slots=True)
class _Member:
    index: int
    roles: tuple[Role, ...]  # that it plays
    handle: Any = None
    state: ActorState = ActorState.DEAD
    ref: Any = None  # of the call that goes on: its start, or work
    ready: Any = None  # of the second call of its start, while the first goes on
    work: Work | None = None  # None also where the result is wanted no more
    since: float = 0.0  # monotonic seconds; of the call, or of idleness, or of death
    hosted: bool = False  # has a process: without one it waits for room, and cannot be late
    looked: float = 0.0  # when for one; monotonic seconds
    deaths: int = 0  # without a result in between
    died_at: float | None = None  # monotonic seconds; None where it has given a result since


@dataclass(slots=True)
class Fleet:
    """Sends queued work to idle actors that can do it, evaluations first. What a hung or dead actor had is sent again.

    A late result of work that another actor has done meanwhile is dropped, so that each piece counts once.
    `start` comes first.
    """

    spawn: Callable[[int], Any]  # makes the actor of an index: a handle of a RemoteActor (remote.py)
    size: int
    timeout_s: float  # of one piece of work
    start_timeout_s: float
    report: Callable[[str], None]
    trace: Trace = NO_TRACE
    roles_of: Callable[[int], tuple[Role, ...]] = lambda _: ROLES  # that the actor of an index plays
    restarts: int = 0
    redispatched: int = 0
    _members: list[_Member] = field(default_factory=list)
    _queue: deque[Work] = field(default_factory=deque)
    _open: dict[str, Work] = field(default_factory=dict)  # by its id, what has no result yet
    _deaths: Counter[str] = field(default_factory=Counter)  # by id of the work
    _idle_s: float = 0.0
    _were_up: set[tuple[Role, ...]] = field(default_factory=set)  # roles of actors that ever were

    def start(self) -> None:
        """Spawn all actors, and do not wait for them."""
        self._members = [_Member(index=i, roles=self.roles_of(i)) for i in range(self.size)]
        for member in self._members:
            self._start_member(member)

    def wait_ready(self, count: int = 1) -> None:
        """Returns when `count` actors a role are up. Raises RunFailed, and UserError where no engine can be built."""
        began = time.monotonic()
        while late := [role for role in ROLES if sum(m.state in UP for m in self._playing(role)) < count]:
            refs = self.refs  # all that are ready: nobody is late who is only not looked at
            for ref in ray.wait(refs, num_returns=len(refs), timeout=0.2)[0] if refs else ():
                self.collect(ref)
            self.check()
            if time.monotonic() - began > self.start_timeout_s:
                raise RunFailed(
                    f"fewer than {count} {self._named(late[0])} were ready after {self.start_timeout_s:g} s "
                    "(cluster.start_timeout_s); see logs/"
                )

    def submit(self, work: Work) -> None:
        self._open[work.id] = work
        if isinstance(work, EvalWork):
            self._queue.appendleft(work)
        else:
            self._queue.append(work)

    def abandon(self) -> None:
        """Forget all work; results that are under way will be dropped. No actor's weights count any more."""
        for held in (self._queue, self._open, self._deaths):
            held.clear()
        for member in self._members:
            member.work = None
            if member.state is ActorState.SERVING:
                member.state = ActorState.STALE

    @property
    def refs(self) -> list[Any]:
        return [m.ref for m in self._members if m.ref is not None]

    @property
    def evaluating(self) -> bool:
        return any(isinstance(work, EvalWork) for work in self._open.values())

    def states(self) -> dict[ActorState, int]:
        counts = Counter(m.state for m in self._members)
        return {state: counts[state] for state in ActorState}

    def dispatch(self, publication: Publication, evaluations_only: bool = False) -> None:
        """Give every idle actor the first queued work of its roles, on `publication` (evaluations on their own)."""
        for member in self._members:
            if member.state not in UP or member.ref is not None:
                continue
            work = self._next(member.roles, evaluations_only)
            if work is None:
                continue
            now = time.monotonic()
            self._idle_s += now - member.since
            member.work, member.since = work, now
            if isinstance(work, PlayWork):
                member.ref = member.handle.play.remote(work.assignment, publication)
            else:
                member.ref = member.handle.evaluate.remote(work.items, work.publication)

    def _next(self, roles: tuple[Role, ...], evaluations_only: bool) -> Work | None:
        """Take the first queued work of these roles; None where there is none."""
        for i, work in enumerate(self._queue):
            if work.role in roles and not (evaluations_only and isinstance(work, PlayWork)):
                del self._queue[i]
                return work
        return None

    def collect(self, ref: Any) -> tuple[Work, Any] | None:
        """The result of a finished call, where it is work's and still wanted.

        Raises WeightsLost, SyncError, UserError where the first engine cannot be built, and RunFailed, as for work that
        would fail again wherever it is done.
        """
        member = next(m for m in self._members if m.ref == ref)
        work, began = member.work, member.since
        try:
            result = ray.get(ref)
        except RayError as e:
            self._call_failed(member, e)
            return None
        if work is not None:
            self._trace_work(member.index, work, began, result)
        member.ref, member.work, member.since = None, None, time.monotonic()
        if member.state is ActorState.STARTING:
            if member.ready is not None:  # the answer to `hello`: there is a process, which now makes its engine
                member.hosted, member.ref, member.ready = True, member.ready, None
            else:
                member.state = ActorState.STALE
                self._were_up.add(member.roles)
            return None
        if member.state is ActorState.SUSPECT:
            self.report(f"rollout actor {member.index} answers again")
        member.deaths = 0
        if member.died_at is not None:
            self.report(f"rollout actor {member.index} serves again, after {time.monotonic() - member.died_at:.1f} s")
            member.died_at = None
        if work is None:
            member.state = ActorState.STALE
            return None
        member.state = ActorState.SERVING
        if work.id not in self._open:
            return None
        del self._open[work.id]
        self._deaths.pop(work.id, None)
        self._queue = deque(w for w in self._queue if w.id != work.id)
        return work, result

    def check(self) -> None:
        """Deadlines, and starts that are due. Raises RunFailed where no actor of a role is left."""
        now = time.monotonic()
        for member in self._members:
            waited = now - member.since
            if member.state in (ActorState.DEAD, ActorState.RETIRED) and waited > _pause_s(member):
                self._start_member(member)
            elif member.state is ActorState.STARTING and not _is_hosted(member, now):
                member.since = now  # the clock runs from when there is a process
            elif member.state is ActorState.STARTING and waited > self.start_timeout_s:
                self._end(member, f"did not start in {waited:.0f} s (cluster.start_timeout_s={self.start_timeout_s:g})")
            elif member.state in UP and member.ref is not None and waited > self.timeout_s:
                self._suspect(member, waited)
            elif member.state is ActorState.SUSPECT and waited > 2 * self.timeout_s:
                self._end(member, f"was silent for {waited:.0f} s")
        for role in ROLES:
            if all(m.state is ActorState.RETIRED for m in self._playing(role)):
                raise RunFailed(
                    f"all {len(self._playing(role))} {self._named(role)} are retired, each after "
                    f"{MAX_DEATHS_WITHOUT_RESULT + 1} deaths without a result; see logs/"
                )

    def _playing(self, role: Role) -> list[_Member]:
        return [member for member in self._members if role in member.roles]

    def _named(self, role: Role) -> str:
        """Return what to call the actors of a role."""
        return f"rollout actors of the {role}" if len(self._playing(role)) < self.size else "rollout actors"

    def _trace_work(self, index: int, work: Work, began: float, result: Any) -> None:
        sync = getattr(result, "sync", None)
        played = began + (sync.seconds if sync else 0.0)
        self.trace.span(f"actor {index}", f"sync {sync.version.step}" if sync else "", began, played)
        self.trace.span(f"actor {index}", work.id, played, time.monotonic())

    def take_idle_seconds(self) -> float:
        """Mean idle seconds of an actor since the last call."""
        now = time.monotonic()
        for member in self._members:
            if member.state in UP and member.ref is None:
                self._idle_s += now - member.since
                member.since = now
        idle, self._idle_s = self._idle_s / len(self._members), 0.0
        return idle

    def _start_member(self, member: _Member) -> None:
        member.handle = self.spawn(member.index)
        member.state, member.since = ActorState.STARTING, time.monotonic()
        member.hosted, member.looked, member.work = False, member.since, None
        member.ref, member.ready = member.handle.hello.remote(), member.handle.ready.remote()  # one after the other

    def _suspect(self, member: _Member, waited: float) -> None:
        """Its work goes to others. Alone, it is ended at once, since nobody else would do it."""
        what = member.work.id if member.work else "abandoned work"
        late = f"the driver waited {waited:.0f} s for rollout actor {member.index} on {what}"
        self.report(f"{late} (rollout.timeout_s={self.timeout_s:g}); see logs/actor-{member.index}.log")
        member.state = ActorState.SUSPECT
        if not any(m.state in UP for m in self._members if m.roles == member.roles):
            self._end(member, "nobody else is up")
        else:
            self._requeue(member.work)

    def _requeue(self, work: Work | None) -> None:
        if work is not None and work.id in self._open and all(w.id != work.id for w in self._queue):
            self._queue.appendleft(work)
            self.redispatched += 1

    def _call_failed(self, member: _Member, error: RayError) -> None:
        cause = cause_of(error)
        if isinstance(cause, SyncError):
            raise cause
        log = f"logs/actor-{member.index}.log"
        if member.roles not in self._were_up and isinstance(error, RayTaskError):  # none starts: bad input, or a bug
            raise failure(f"the start of rollout actor {member.index}", error, log) from error
        if isinstance(cause, VersionGone | VersionLate):  # the actor is well
            work, member.ref, member.work, member.since = member.work, None, None, time.monotonic()
            member.state = ActorState.STALE
            if work is None:  # abandoned with that version
                return
            self._requeue(work)
            if isinstance(cause, VersionGone):
                raise WeightsLost(f"the published version is gone ({first_line(cause)})")
            self.report(f"rollout actor {member.index} {cause}; trying again")  # a learner that hangs has its deadline
            return
        if member.work is not None and not is_loss(error):
            raised = failure(f"rollout actor {member.index} on {member.work.id}", error, log)
            raise RunFailed(str(raised)) from error
        self._end(member, f"died: {first_line(cause)}")

    def _end(self, member: _Member, why: str) -> None:
        """End the process, if it lives; a new one is started after a pause. Raises RunFailed where its work kills."""
        ray.kill(member.handle)
        work = member.work
        if work is not None and work.id in self._open:
            self._deaths[work.id] += 1
            if self._deaths[work.id] >= MAX_DEATHS_OVER_WORK:
                raise RunFailed(f"rollout actors died {self._deaths[work.id]} times on {work.id}; the last {why}")
        member.ref, member.work, member.since = None, None, time.monotonic()
        member.deaths += 1
        member.died_at = member.died_at or member.since
        self.restarts += 1
        is_last = member.deaths > MAX_DEATHS_WITHOUT_RESULT
        member.state = ActorState.RETIRED if is_last else ActorState.DEAD
        self._requeue(work)
        self.report(
            f"rollout actor {member.index} {why}; "
            + (f"retired, after {member.deaths} deaths without a result" if is_last else "starting it again")
        )


def _pause_s(member: _Member) -> float:
    """Return the pause before the next start: none after the first death, then doubling until it is retired."""
    return RETIREMENT_S if member.state is ActorState.RETIRED else PAUSE_S * (2**member.deaths - 2)


def _is_hosted(member: _Member, now: float) -> bool:
    """Whether it was given a process; looked for now and then."""
    if not member.hosted and now - member.looked > LOOK_EVERY_S:
        member.hosted, member.looked = _has_process(member), now
    return member.hosted


def _has_process(member: _Member) -> bool:
    from ray._private.state import state

    return bool(state.actor_table(member.handle._actor_id.hex()).get("Address", {}).get("Port"))
