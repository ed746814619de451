"""The learner without Ray: one batch of episodes in, one update, one weight version out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from azero.config import Config
from azero.credit.credit import Credit, SequenceLogprobs, batch_metrics, trainable_proposals
from azero.credit.guards import Guards
from azero.models.loading import generation_file, load_tokenizer
from azero.models.weights import digests, flatten
from azero.process import peak_memory_gib
from azero.types import Episode, ProbeSet, Role, TensorSpec, Update
from learner.checkpoints import Kept, load_checkpoint, require_writable, save_checkpoint
from learner.policy import CPU, PolicyOptimizer
from learner.workers import Workers


class LearnerCore:
    """Owns the policy, the credit state and the weight version."""

    def __init__(
        self,
        config: Config,
        model_path: str,
        checkpoint: Path | None,
        probe_texts: Sequence[str],
        kept: Kept | None = None,
        workers: Workers | None = None,
        device: torch.device = CPU,
    ) -> None:
        """Begins at version 0 with the model of `model_path`, or goes on from a checkpoint or from what `keep` gave.

        Each of the workers has a core, is given the same, and does the same, but for the rows that it runs.
        """
        self.config = config
        self.workers = workers or Workers()
        self.policy = PolicyOptimizer(
            model_config=config.model,
            path=str(checkpoint / "model") if checkpoint else model_path,
            reference_path=model_path,
            algorithm=config.algorithm,
            optim=config.optim,
            learner=config.learner,
            temperature=config.rollout.temperature,
            workers=self.workers,
            device=device,
        )
        self.tokenizer = load_tokenizer(model_path)
        self.generation = generation_file(model_path)  # every checkpoint has it as it is
        require_writable(self.policy.model, self.tokenizer, self.generation)
        self.credit = Credit(config.reward, config.baseline, config.algorithm, config.task)
        self.probes = [tuple(self.tokenizer(t)["input_ids"]) for t in probe_texts]
        self.guards = Guards(config.guard, self.credit.has_proposals)
        self.version = 0
        self.driver_state: dict[str, Any] = {}
        self._skipped = 0  # updates in a row
        self._published: tuple[np.ndarray, tuple[TensorSpec, ...]] | None = None
        if kept:
            self.policy.load_weights({k: torch.from_numpy(v) for k, v in kept.weights.items()})
            self.policy.load_optimizer_state({k: torch.from_numpy(v.copy()) for k, v in kept.moments.items()})
            self._go_on(kept.state)
        elif checkpoint:
            moments, state = load_checkpoint(checkpoint)
            self.policy.load_optimizer_state(moments)
            self._go_on(state)

    def _go_on(self, state: dict[str, Any]) -> None:
        self.version, self.policy.steps_done = state["step"], state["steps_done"]
        self.credit.load(state["credit"])
        self.guards.load(state["guards"])
        self._skipped = state["skipped"]
        self.driver_state = state["driver"]

    def update(self, episodes: Sequence[Episode]) -> Update:
        """One TRR++ update of both roles on the episodes of batch `version`; the version goes up by one."""
        began = time.monotonic()
        self._refuse_repeats(episodes)
        metrics = batch_metrics(episodes, self.version)
        novelties = self.credit.novelties(episodes)
        rewarded: list[Episode] = list(episodes)
        diagnostics: dict[str, float] = {}
        deferred = self.credit.is_deferred
        if not deferred:
            rewarded, diagnostics = self.credit.reward_proposals(episodes, novelties)
        rows = self.credit.rows(rewarded, self.credit.due_proposals(rewarded))
        result = self.policy.update(rows, keep_all=deferred)
        if deferred and result.is_finite:
            rewarded, diagnostics = self.credit.reward_proposals(
                episodes, novelties, self._logprobs(rewarded, rows, result.logprobs)
            )
        if deferred:  # without an update nothing has improved, and the proposals have no reward
            self.credit.pending = trainable_proposals(rewarded) if result.is_finite else []
        self.version += 1
        proposals = trainable_proposals(rewarded)
        if proposals:
            metrics["proposer/reward"] = float(np.mean([p.reward for p in proposals]))
        metrics |= diagnostics | result.metrics
        metrics |= {f"baseline/{cell}": value for cell, value in self.credit.baseline.baselines().items()}
        metrics["time/learn"] = time.monotonic() - began
        metrics["memory/learner_gib"] = peak_memory_gib()
        warnings = self.guards.check(metrics)
        failure = warnings[0] if warnings and self.config.guard.stops else ""
        self._skipped = 0 if result.is_finite else self._skipped + 1
        if self._skipped:
            warnings += (f"update skipped: its loss or gradient is not finite ({self._skipped} in a row)",)
        if self._skipped >= self.config.guard.max_skipped:
            failure = f"{self._skipped} updates in a row had no finite loss and gradient (guard.max_skipped)"
        return Update(version=self.version, metrics=metrics, episodes=rewarded, warnings=warnings, failure=failure)

    def _refuse_repeats(self, episodes: Sequence[Episode]) -> None:
        """Batch v is trained exactly once, at version v, and each of its groups once."""
        ids = [e.group.id for e in episodes if e.group is not None]
        if any(e.batch != self.version for e in episodes) or len(set(ids)) < len(ids):
            raise ValueError(
                f"batch {self.version}: got episodes of batches {sorted({e.batch for e in episodes})}, "
                f"{len(ids)} groups of which {len(set(ids))} are distinct"
            )

    def _logprobs(
        self, episodes: Sequence[Episode], rows: Sequence[Any], before: np.ndarray
    ) -> dict[str, SequenceLogprobs]:
        """By group id; rows begin with the solver samples in the order of the episodes."""
        solver = [i for i, r in enumerate(rows) if r.sample.role is Role.SOLVER]
        after = self.policy.sequence_logprobs(rows, solver)
        found, start = {}, 0
        for episode in episodes:
            if episode.group is None:
                continue
            part = slice(start, start + len(episode.group.samples))
            start = part.stop
            # Fresh samples were drawn from the weights under "before": the engine's own log-probs then differ by
            # rounding only, and the weight pi_v / pi_behaviour is one. Stale ones keep what the engine logged, in bf16
            # too: it is the probability that they were drawn with, and its rounding moves a weight by percents alone.
            behaviour = np.array(
                [
                    sum(s.completion.logprobs) if s.completion.version < self.version else b
                    for s, b in zip(episode.group.samples, before[part], strict=True)
                ]
            )
            found[episode.group.id] = SequenceLogprobs(behaviour=behaviour, before=before[part], after=after[part])
        return found

    def weights(self) -> tuple[np.ndarray, tuple[TensorSpec, ...]]:
        """(bytes, manifest) of the present version in the engines' dtype; of no bytes but at the first worker.

        The next call overwrites the bytes.
        """
        out = self._published[0] if self._published else None
        self._published = flatten(self.policy.weights(), getattr(torch, self.config.model.dtype.value), out)
        return self._published

    def probe(self) -> ProbeSet:
        """Of what `weights` gave last; its digests at the first worker alone."""
        assert self._published is not None, "weights comes first"
        published = digests(*self._published, self.config.model.dtype.value) if self.workers.is_first else {}
        return replace(self.policy.probe(self.probes), digests=published)

    def keep(self, driver: dict[str, Any]) -> Kept:
        """All that a checkpoint holds, in memory; no tensors but at the first worker."""
        return Kept(
            weights={k: v.numpy() for k, v in self.policy.weights().items()},
            moments={k: v.numpy() for k, v in self.policy.optimizer_state().items()},
            state=self._state(driver),
        )

    def save(self, folder: Path, driver: dict[str, Any]) -> Path | None:
        """The checkpoint, where this is the first worker. Raises OSError, as for a full disk."""
        kept = self.keep(driver)
        if not self.workers.is_first:
            return None
        return save_checkpoint(
            folder, kept, self.policy.model, self.tokenizer, self.config.run.keep_checkpoints, self.generation
        )

    def _state(self, driver: dict[str, Any]) -> dict[str, Any]:
        return {
            "step": self.version,
            "steps_done": self.policy.steps_done,
            "credit": self.credit.state(),
            "guards": self.guards.state(),
            "skipped": self._skipped,
            "driver": driver,
        }
