"""The training loop.

    buffer --slots--> BatchBook --assignments--> Fleet --episodes--> BatchBook --whole batch--> Credit
      ^                                            ^                                              |  ^
      +---------------- valid problems             |                              rows of tokens  |  |  log-probs,
                                                   |                                              v  |  metrics
                                                   +------------- newest version --------------- Learner

    who        waits for                         woken by
    actors     work (paced by max_staleness)     a new version, which admits the next batch
    learner    a whole batch                     the last episode of it
    driver     any of the two                    ray.wait

With max_staleness 0 the two take turns: exactly the synchronous algorithm.

Actors hold nothing that matters: what one had is sent to another (fleet.py). A lost learner goes back to the newest of
its states (learning.py), and the loop with it: records of later steps are cut off, and those steps are made again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, InitVar, dataclass
from typing import Any

import ray

from azero.config import Config
from azero.credit.credit import Assigned, Credit
from azero.credit.guards import Guards
from azero.errors import RunFailed
from azero.problems.buffer import ProblemBuffer
from azero.problems.curriculum import SlotSource
from azero.types import Episode, EvalItem, Played, Publication, StepResult, SyncReport
from cluster.records.trace import LEARNER, NO_TRACE, Trace
from cluster.run.batches import BatchBook
from cluster.run.recorder import Recorder
from cluster.supervise.fleet import Fleet, WeightsLost
from cluster.supervise.learning import LearnerHost, LearnerLost, LearnerStart
from cluster.supervise.remote import EvalWork, PlayWork

POLL_S = 1.0  # how often deadlines and signals are looked at while nothing happens


@dataclass
class TrainingLoop:
    """Runs the steps from the learner's to run.steps. Everything that it needs is handed in; `run` is all to call."""

    config: Config
    _: KW_ONLY
    fleet: Fleet
    learner: LearnerHost
    started: InitVar[LearnerStart]
    credit: Credit
    guards: Guards
    buffer: ProblemBuffer
    source: SlotSource
    items: Sequence[EvalItem]
    recorder: Recorder
    should_stop: Callable[[], bool]
    trace: Trace = NO_TRACE

    def __post_init__(self, started: LearnerStart) -> None:
        # What of the driver's state goes into checkpoints, beside the learner's own.
        self._parts: dict[str, Any] = {"credit": self.credit, "guards": self.guards, "buffer": self.buffer}
        self._copy_every = self.config.learner.keep_every
        self._initial = self._state()
        self._begin_at(started)

    def _begin_at(self, started: LearnerStart) -> None:
        """All state of the loop, as of a version of which everything is recorded."""
        config = self.config
        self.publication = started.publication
        for name, part in self._parts.items():
            part.load((started.driver_state or self._initial)[name])
        self._assigned: Assigned | None = None  # what the learner trains on
        self.book = BatchBook(self.version, config.run.steps, config.rollout.max_staleness, config.rollout.parts)
        self._saved = self._tried = self.version if started.is_on_disk else 0  # last checkpoint, and last try of one
        self._copied = self.version  # last copy of the learner's state
        self._played: dict[int, list[Played]] = {}
        self._step_began = self._moved = self._update_began = time.monotonic()  # the learner is free as a step begins
        self._syncs: deque[SyncReport] = deque(maxlen=max(1, config.rollout.actors))

    @property
    def version(self) -> int:
        """Step of the newest weights."""
        return self.publication.version.step

    def run(self) -> bool:
        """True when all steps are done, False when stopped before; with a checkpoint either way.

        Raises RunFailed, with a checkpoint where the learner still answers.
        """
        while True:
            try:
                return self._run()
            except (LearnerLost, WeightsLost) as e:
                self._go_back(str(e))
            except RunFailed:
                self._save_what_there_is()
                raise

    def _run(self) -> bool:
        if self._evaluation_due() and not self.recorder.has_evaluation(self.version):
            if self.version == 0:
                self.recorder.await_base_model()
            self._evaluate()
        while True:
            if not self.learner.is_busy and not self.fleet.evaluating:
                is_done = self.version >= self.config.run.steps
                if is_done or self.should_stop():
                    self._checkpoint(is_last=True)
                    return is_done
            self._play()
            self._learn()
            self._wait()

    def _go_back(self, why: str) -> None:
        """Put everything back to the newest state that is left of a lost learner."""
        lost, began = self.version, time.monotonic()
        self.recorder.warn(lost, f"{why}; starting the learner again")
        self.recorder.flush(all_lines=True)
        started = self.learner.revive(why)
        self.fleet.abandon()
        self.recorder.go_back(started.publication.version.step)
        self._begin_at(started)
        seconds = time.monotonic() - began
        self.recorder.warn(lost, f"the learner goes on from version {self.version}, after {seconds:.1f} s")

    def _save_what_there_is(self) -> None:
        """Finish the update under way and write a checkpoint, before a failed run ends."""
        try:
            while self.learner.is_busy:
                for ref in ray.wait(self.learner.refs, timeout=POLL_S)[0]:
                    if outcome := self.learner.collect(ref):
                        self._learned(*outcome)
                self.learner.check(self.version)
            self.recorder.flush(all_lines=True)
            self._checkpoint(is_last=True)
        except (LearnerLost, RunFailed) as e:
            self.recorder.warn(self.version, f"no checkpoint of this step: {e}")

    def _play(self) -> None:
        """Give idle actors what may be played on the newest version."""
        stopping = self.should_stop()
        while not stopping and (batch := self.book.admissible(self.version)) is not None:
            for assignment in self.book.admit(self.source.slots(batch, self.buffer), self.source.reserve):
                self.fleet.submit(PlayWork(assignment=assignment))
        self.fleet.dispatch(self.publication, evaluations_only=stopping)

    def _learn(self) -> None:
        """Start the update of the next batch where it is whole and the learner is free."""
        if self.learner.is_busy or self.should_stop():
            return
        if not self.fleet.evaluating:  # evaluations come first, so that no line before a saved state is ever missing
            if self._checkpoint_due():
                self._checkpoint()
            elif self._copy_every and self.version - self._copied >= self._copy_every:
                self._copy_state()
        elif self._checkpoint_due():
            return
        if (episodes := self.book.take(self.version)) is None:
            return
        for episode in episodes:
            if episode.group is not None:
                self.buffer.add(episode.group.problem)
        self._update_began = time.monotonic()
        self._assigned = self.credit.assign(episodes, self.version)
        self.learner.begin(self._assigned.batch)

    def _checkpoint_due(self) -> bool:
        every = self.config.run.checkpoint_every
        return bool(every) and self.version % every == 0 and self.version > self._tried

    def _copy_state(self) -> None:
        trouble = self.learner.copy_state(self.version, self._state())
        self._copied, self._moved = self.version, time.monotonic()
        if trouble:
            self._copy_every = 0
            self.recorder.warn(self.version, f"no more copies of the learner's state in memory ({trouble})")

    def _evaluation_due(self) -> bool:
        """Whether this version is evaluated: the first, the last, and every run.eval_every."""
        every = self.config.run.eval_every
        return self.version in (0, self.config.run.steps) or bool(every and self.version % every == 0)

    def _wait(self) -> None:
        learners = self.learner.refs
        refs = [*self.fleet.refs, *learners]
        if refs:  # for the first, and then all that are ready: after a pause nobody is late who is only not looked at
            ray.wait(refs, num_returns=1, timeout=POLL_S)
        else:
            time.sleep(POLL_S)  # every actor waits to be started again
        for ref in ray.wait(refs, num_returns=len(refs), timeout=0)[0] if refs else ():
            if ref not in learners:
                self._collect(ref)
            elif outcome := self.learner.collect(ref):
                self._learned(*outcome)
        self.fleet.check()
        self.learner.check(self.version)
        if (idle := time.monotonic() - self._moved) > self.config.cluster.stall_timeout_s:
            raise RunFailed(
                f"nothing was played or learned for {idle:.0f} s (cluster.stall_timeout_s) at version {self.version}; "
                f"actors: {', '.join(f'{n} {state}' for state, n in self.fleet.states().items() if n)}; see logs/"
            )

    def _collect(self, ref: Any) -> None:
        if (outcome := self.fleet.collect(ref)) is None:
            return
        work, result = outcome
        self._moved = time.monotonic()
        if result.sync is not None:
            self._syncs.append(result.sync)
        if isinstance(work, EvalWork):
            self.recorder.evaluation(work.publication.version.step, result.result)
            return
        if second := self.book.add(work.assignment, result.episodes):
            self.fleet.submit(PlayWork(assignment=second))
        self._played.setdefault(work.assignment.batch, []).append(result)

    def _learned(self, result: StepResult, publication: Publication) -> None:
        assert self._assigned is not None
        played, assigned, self._assigned = self._played.pop(self.version), self._assigned, None
        self.publication = publication
        now = self._moved = time.monotonic()
        evaluated = self._evaluation_due()
        if evaluated:
            self._evaluate()
        self._play()  # before anything is written, which takes a while
        episodes, metrics = self.credit.settle(assigned, result)
        warnings, failure = self.guards.judge(metrics)
        learned = self._update_began + result.metrics["time/learn"]
        self.trace.span(LEARNER, f"learn batch {result.step - 1}", self._update_began, learned)
        self.trace.span(LEARNER, f"publish version {result.step}", learned, now)
        metrics = {
            "step": result.step,
            "weight_version": result.step,
            **metrics,
            **self._timing(played, episodes, now),
            **self._sync_metrics(played),
            "problems/in_evaluation": sum(e.group.problem in self.source.evaluation for e in episodes if e.group),
            "faults/restarts": self.fleet.restarts + self.learner.restarts,
            "faults/redispatched": self.fleet.redispatched,
            **{f"actors/{state}": n for state, n in self.fleet.states().items()},
        }
        self._step_began = now
        self.recorder.step(metrics, episodes, awaits_evaluation=evaluated)
        for warning in warnings:
            self.recorder.warn(result.step, warning)
        if failure:
            raise RunFailed(f"step {result.step}: {failure}")

    def _evaluate(self) -> None:
        self.fleet.submit(EvalWork(items=self.items, publication=self.publication))

    def _timing(self, played: Sequence[Played], episodes: Sequence[Episode], now: float) -> dict[str, float]:
        seconds = max(1e-9, now - self._step_began)
        solver = [s for e in episodes if e.group for s in e.group.samples]
        everything = [*solver, *(e.proposal for e in episodes if e.proposal)]
        return {
            "time/step": seconds,
            "time/generate": sum(p.seconds for p in played) / self.config.rollout.actors,
            "memory/actor_gib": max(p.memory_gib for p in played),
            "time/wait_rollouts": self._update_began - self._step_began,
            "time/wait_learner": self.fleet.take_idle_seconds(),
            **{f"throughput/{n}_per_s": sum(p.counts.get(n, 0) for p in played) / seconds for n in played[0].counts},
            "throughput/samples_per_s": len(solver) / seconds,
            "throughput/tokens_per_s": sum(len(s.completion.token_ids) for s in everything) / seconds,
        }

    def _sync_metrics(self, played: Sequence[Played]) -> dict[str, float]:
        """Return metrics of the loads in this batch's work, or of the newest before it if no actor had to load."""
        syncs = [p.sync for p in played if p.sync is not None] or list(self._syncs)
        seconds = sum(p.sync.seconds for p in played if p.sync is not None) / self.config.rollout.actors
        if not syncs:
            return {"time/sync": seconds}
        return {
            "sync/seconds": max(s.seconds for s in syncs),
            "sync/load_seconds": max(s.load_seconds for s in syncs),
            "sync/proof_seconds": max(s.proof_seconds for s in syncs),
            "sync/tensors": min(s.tensors for s in syncs),
            "sync/tensors_in_order": min(s.tensors_in_order for s in syncs),
            "sync/bytes": max(sum(s.bytes.values()) for s in syncs),
            "sync/logprob_gap": max(s.gap_max for s in syncs),
            **self._sync_of_parts(syncs),
            "sync/logprob_gap_mean": sum(s.gap_mean for s in syncs) / len(syncs),
            "time/sync": seconds,
        }

    def _sync_of_parts(self, syncs: Sequence[SyncReport]) -> dict[str, float]:
        """Return the same of each part that was loaded, where a publication has several."""
        if len(self.publication.parts) == 1:
            return {}
        names = {name for s in syncs for name in s.bytes}
        return {
            **{f"sync/bytes/{n}": max(s.bytes.get(n, 0) for s in syncs) for n in names},
            **{f"sync/logprob_gap/{n}": max(s.gaps[n] for s in syncs if n in s.gaps) for n in names},
        }

    def _checkpoint(self, is_last: bool = False) -> None:
        """Blocks until the checkpoint is whole. Raises RunFailed where the last one cannot be written."""
        if self.version == self._saved and self.recorder.run.has_checkpoint():
            return
        self._tried, began = self.version, time.monotonic()
        if trouble := self.recorder.sync():  # a checkpoint whose records are missing would lose them
            error, not_copied = trouble, ""
        else:
            error, not_copied = self.learner.save(self.recorder.run.checkpoints, self._state())
        self._moved = time.monotonic()
        self.trace.span(LEARNER, f"checkpoint {self.version}", began, time.monotonic())
        if not_copied:
            self.recorder.warn(self.version, f"checkpoint not copied to {self.config.run.mirror} ({not_copied})")
        if not error:
            self._saved = self.version
            self.recorder.run.saved()
            if nearly_full := self.recorder.run.room():
                self.recorder.warn(self.version, nearly_full)
        elif is_last:
            raise RunFailed(f"the checkpoint of step {self.version} cannot be written ({error})")
        else:
            self.recorder.warn(self.version, f"no checkpoint ({error}); those before are whole, and the run goes on")

    def _state(self) -> dict[str, Any]:
        """Return what the driver adds to the learner's state."""
        return {name: part.state() for name, part in self._parts.items()}
