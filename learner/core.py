"""The learner without Ray: one batch of episodes in, one update, one weight version out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from azero.config import Config
from azero.credit import Credit, SequenceLogprobs, batch_metrics, trainable_proposals
from azero.models import load_tokenizer
from azero.process import peak_memory_gib
from azero.types import Episode, Role, TensorSpec
from azero.weights import flatten, owned_state
from learner.checkpoints import load_checkpoint, save_checkpoint
from learner.policy import PolicyOptimizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """Outcome of one learner step."""

    version: int
    metrics: dict[str, float]
    episodes: list[Episode]  # with the rewards of their proposals
    warnings: tuple[str, ...]


class LearnerCore:
    """Owns the policy, the credit state and the weight version."""

    def __init__(self, config: Config, model_path: str, checkpoint: Path | None, probe_texts: Sequence[str]) -> None:
        self.config = config
        self.policy = PolicyOptimizer(
            model_config=config.model,
            path=str(checkpoint / "model") if checkpoint else model_path,
            reference_path=model_path,
            algorithm=config.algorithm,
            optim=config.optim,
            learner=config.learner,
            temperature=config.rollout.temperature,
        )
        self.tokenizer = load_tokenizer(model_path)
        self.credit = Credit(config.reward, config.baseline, config.algorithm, config.task)
        self.probes = [tuple(self.tokenizer(t)["input_ids"]) for t in probe_texts]
        self.version = 0
        self.driver_state: dict[str, Any] = {}
        if checkpoint:
            state = load_checkpoint(checkpoint, self.policy)
            self.version = state["step"]
            self.credit.load(state["credit"])
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
        if deferred:
            rewarded, diagnostics = self.credit.reward_proposals(
                episodes, novelties, self._logprobs(rewarded, rows, result.logprobs)
            )
            self.credit.pending = trainable_proposals(rewarded)
        self.version += 1
        proposals = trainable_proposals(rewarded)
        if proposals:
            metrics["proposer/reward"] = float(np.mean([p.reward for p in proposals]))
        metrics |= diagnostics | result.metrics
        metrics |= {f"baseline/{cell}": value for cell, value in self.credit.baseline.baselines().items()}
        metrics["time/learn"] = time.monotonic() - began
        metrics["memory/learner_gib"] = peak_memory_gib()
        return Update(version=self.version, metrics=metrics, episodes=rewarded, warnings=self._warnings(metrics))

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
            # rounding only, and the weight pi_v / pi_behaviour is one.
            behaviour = np.array(
                [
                    sum(s.completion.logprobs) if s.completion.version < self.version else b
                    for s, b in zip(episode.group.samples, before[part], strict=True)
                ]
            )
            found[episode.group.id] = SequenceLogprobs(behaviour=behaviour, before=before[part], after=after[part])
        return found

    def _warnings(self, metrics: dict[str, float]) -> tuple[str, ...]:
        if self.credit.has_proposals and self.credit.alarm.update(metrics["problems/unique_rate"]):
            limit, steps = self.config.reward.collapse_unique_rate, self.config.reward.collapse_steps
            return (f"collapse: problems/unique_rate is under {limit} for {steps} steps or more",)
        return ()

    def weights(self) -> tuple[np.ndarray, tuple[TensorSpec, ...]]:
        """(bytes, manifest) of the present version in the engines' dtype."""
        return flatten(owned_state(self.policy.model), getattr(torch, self.config.model.dtype.value))

    def save(self, folder: Path, driver: dict[str, Any]) -> Path:
        state = {"credit": self.credit.state(), "driver": driver}
        return save_checkpoint(
            folder, self.version, self.policy, self.tokenizer, state, self.config.run.keep_checkpoints
        )
