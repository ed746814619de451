"""The training loop.

    buffer --slots--> BatchBook --assignments--> Fleet --episodes--> BatchBook --whole batch--> Learner --snapshot-+
      ^                                            ^                                                               |
      +---------------- valid problems ------------+------------------------- newest version ----------------------+

    who        waits for                         woken by
    actors     work (paced by max_staleness)     a new version, which admits the next batch
    learner    a whole batch                     the last episode of it
    driver     any of the two                    ray.wait

With max_staleness 0 the two take turns: exactly the synchronous algorithm.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import ray

from actors.rollout import Played
from azero.buffer import ProblemBuffer
from azero.config import Config
from azero.curriculum import SlotSource
from azero.errors import RunFailed
from azero.types import Episode, EvalItem, SyncReport, WeightSnapshot
from cluster.batches import BatchBook
from cluster.fleet import EvalWork, Fleet, PlayWork
from cluster.records import Recorder
from learner.core import Update

POLL_S = 1.0  # how often deadlines and signals are looked at while nothing happens


class TrainingLoop:
    """Runs steps `snapshot.version` .. run.steps. Everything that it needs is handed in; `run` is all to call."""

    def __init__(
        self,
        config: Config,
        *,
        fleet: Fleet,
        learner: Any,
        snapshot: WeightSnapshot,
        buffer: ProblemBuffer,
        source: SlotSource,
        items: Sequence[EvalItem],
        recorder: Recorder,
        should_stop: Callable[[], bool],
    ) -> None:
        self.config, self.fleet, self.learner, self.snapshot = config, fleet, learner, snapshot
        self.buffer, self.source, self.items, self.recorder = buffer, source, items, recorder
        self.should_stop = should_stop
        self.book = BatchBook(snapshot.version, config.run.steps, config.rollout.max_staleness, config.rollout.actors)
        self.checkpointed = snapshot.version
        self._played: dict[int, list[Played]] = {}
        self._learning: tuple[Any, float, list[Episode]] | None = None  # ref, since, batch
        self._learner_free_since = self._step_began = time.monotonic()
        self._waited_rollouts = 0.0
        self._syncs: deque[SyncReport] = deque(maxlen=max(1, config.rollout.actors))

    @property
    def version(self) -> int:
        return self.snapshot.version

    def run(self) -> bool:
        """True when all steps are done, False when stopped before; with a checkpoint either way. Raises RunFailed."""
        if self._evaluation_due() and not self.recorder.has_evaluation(self.version):
            self._evaluate()
        while not self._finished():
            if self.should_stop() and self._learning is None:
                self.recorder.flush(all_lines=True)
                self._checkpoint()
                return False
            self._admit()
            self.fleet.dispatch(self.snapshot)
            self._learn()
            self._wait()
        self._checkpoint()
        return True

    def _finished(self) -> bool:
        return self.version >= self.config.run.steps and self._learning is None and not self.fleet.evaluating

    def _admit(self) -> None:
        while (batch := self.book.admissible(self.version)) is not None:
            slots = self.source.slots(batch, self.buffer)
            for i, assignment in enumerate(self.book.admit(slots)):
                pinned = i if self.config.rollout.max_staleness == 0 else None
                self.fleet.submit(PlayWork(assignment=assignment, actor=pinned))

    def _learn(self) -> None:
        """Start the update of the next batch where it is whole and the learner is free."""
        if self._learning is not None or self.should_stop():
            return
        if self._checkpoint_due() and not self.fleet.evaluating:
            self._checkpoint()
        if self._checkpoint_due():
            return  # its evaluation comes first, so that no line before a checkpoint is ever missing
        episodes = self.book.take(self.version)
        if episodes is None:
            return
        for episode in episodes:
            if episode.group is not None:
                self.buffer.add(episode.group.problem)
        now = time.monotonic()
        self._waited_rollouts = now - self._learner_free_since
        self._learning = (self.learner.update.remote(episodes), now, episodes)

    def _evaluation_due(self) -> bool:
        """Whether this version is evaluated: the first, the last, and every run.eval_every."""
        every = self.config.run.eval_every
        return self.version in (0, self.config.run.steps) or bool(every and self.version % every == 0)

    def _checkpoint_due(self) -> bool:
        every = self.config.run.checkpoint_every
        return bool(every) and self.version % every == 0 and self.version > self.checkpointed

    def _wait(self) -> None:
        refs = self.fleet.refs + ([self._learning[0]] if self._learning else [])
        if not refs:
            return
        for ref in ray.wait(refs, num_returns=1, timeout=POLL_S)[0]:
            if self._learning and ref == self._learning[0]:
                self._learned(*ray.get(ref))
            else:
                self._collect(ref)
        self.fleet.check_deadlines()
        if self._learning and time.monotonic() - self._learning[1] > self.config.learner.timeout_s:
            raise RunFailed(
                f"the driver waited {self.config.learner.timeout_s:g} s for the learner on batch {self.version} "
                "(learner.timeout_s); see logs/learner.log"
            )

    def _collect(self, ref: Any) -> None:
        outcome = self.fleet.collect(ref)
        if outcome is None:
            return
        work, result = outcome
        if result.sync is not None:
            self._syncs.append(result.sync)
        if isinstance(work, EvalWork):
            self.recorder.evaluation(work.snapshot.version, result.result)
            return
        self.book.add(work.assignment, result.episodes)
        self._played.setdefault(work.assignment.batch, []).append(result)

    def _learned(self, update: Update, snapshot: WeightSnapshot) -> None:
        self._learning = None
        played = self._played.pop(self.version)
        self.snapshot = snapshot
        now = time.monotonic()
        metrics = {
            "step": update.version,
            "weight_version": update.version,
            **update.metrics,
            **self._timing(played, update.episodes, now),
            **self._sync_metrics(played),
            "faults/restarts": self.fleet.restarts,
            "faults/redispatched": self.fleet.redispatched,
        }
        self._step_began = self._learner_free_since = now
        evaluated = self._evaluation_due()
        self.recorder.step(metrics, update.episodes, awaits_evaluation=evaluated)
        for warning in update.warnings:
            self.recorder.warn(update.version, warning)
        if evaluated:
            self._evaluate()
        if update.warnings and self.config.reward.collapse_stops:
            self.recorder.flush(all_lines=True)
            self._checkpoint()
            raise RunFailed(f"step {update.version}: {update.warnings[0]} (reward.collapse_stops)")

    def _evaluate(self) -> None:
        pinned = 0 if self.config.rollout.max_staleness == 0 else None
        self.fleet.submit(EvalWork(items=self.items, snapshot=self.snapshot, actor=pinned))

    def _timing(self, played: Sequence[Played], episodes: Sequence[Episode], now: float) -> dict[str, float]:
        seconds = max(1e-9, now - self._step_began)
        solver = [s for e in episodes if e.group for s in e.group.samples]
        everything = [*solver, *(e.proposal for e in episodes if e.proposal)]
        return {
            "time/step": seconds,
            "time/generate": sum(p.seconds for p in played) / self.config.rollout.actors,
            "memory/actor_gib": max(p.memory_gib for p in played),
            "time/wait_rollouts": self._waited_rollouts,
            "time/wait_learner": self.fleet.take_idle_seconds(),
            "throughput/samples_per_s": len(solver) / seconds,
            "throughput/tokens_per_s": sum(len(s.completion.token_ids) for s in everything) / seconds,
        }

    def _sync_metrics(self, played: Sequence[Played]) -> dict[str, float]:
        """Of the loads in this batch's work; of the newest before it where no actor had to load."""
        syncs = [p.sync for p in played if p.sync is not None] or list(self._syncs)
        seconds = sum(p.sync.seconds for p in played if p.sync is not None) / self.config.rollout.actors
        return {
            "sync/seconds": max(s.seconds for s in syncs),
            "sync/bytes": max(s.bytes for s in syncs),
            "sync/logprob_gap": max(s.gap_max for s in syncs),
            "sync/logprob_gap_mean": sum(s.gap_mean for s in syncs) / len(syncs),
            "time/sync": seconds,
        }

    def _checkpoint(self) -> None:
        """Blocks until the checkpoint is whole."""
        if self.version == self.checkpointed and self.recorder.run.latest_checkpoint() is not None:
            return
        ref = self.learner.save.remote(str(self.recorder.run.checkpoints), {"buffer": self.buffer.state()})
        try:
            ray.get(ref, timeout=self.config.learner.timeout_s)
        except ray.exceptions.GetTimeoutError:
            raise RunFailed(
                f"the checkpoint of step {self.version} took over {self.config.learner.timeout_s:g} s"
            ) from None
        self.checkpointed = self.version
