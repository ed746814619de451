"""From the episodes of a batch to rewarded samples with advantages, and to what the metrics say of them.

The state here is all that the algorithm remembers between steps: the novelty window, the baselines' moving averages,
and, under `improvement`, the proposals that wait for their reward.

    step t     solver samples of t + proposals that are due  -> advantages -> update v -> v + 1
    after it   improvement: success on t's groups under v + 1 minus under v  -> rewards of t's proposals
    step t+1   all proposals of t, invalid ones too, train with importance ratios
Every other learnability is known before the update, and the proposals of t train in step t.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from azero.batch import TrainRow
from azero.config import (
    Algorithm,
    AlgorithmConfig,
    Baseline,
    BaselineConfig,
    Learnability,
    RewardConfig,
    Source,
    TaskConfig,
)
from azero.credit.advantages import Scored, TaskRelativeBaseline, group_advantages
from azero.credit.rewards import (
    NoveltyWindow,
    correlation,
    improvement,
    learnability,
    proposer_floor,
    scale_improvements,
)
from azero.serial import sample_from_json, sample_to_json
from azero.types import TIERS, Episode, Role, Sample, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceLogprobs:
    """Log-probs of a group's completions under the sampling temperature, each [samples]."""

    behaviour: np.ndarray
    before: np.ndarray  # the learner's, under v
    after: np.ndarray  # the learner's, under v + 1


class Credit:
    """Rewards and advantages, with the state that goes into checkpoints."""

    def __init__(
        self, reward: RewardConfig, baseline: BaselineConfig, algorithm: AlgorithmConfig, task: TaskConfig
    ) -> None:
        self.reward, self.algorithm, self.task = reward, algorithm, task
        self.epsilon, self.by = baseline.epsilon, baseline.by
        self.window = NoveltyWindow(reward.novelty_window)
        self.baseline = TaskRelativeBaseline(
            baseline.by, baseline.min_groups, baseline.ema_decay, baseline.epsilon, algorithm.advantage_clip
        )
        self.pending: list[Sample] = []  # proposals whose reward came after their own step's update

    @property
    def is_deferred(self) -> bool:
        """Whether rewards of proposals need the weights after the update."""
        return self.reward.learnability is Learnability.improvement and self.has_proposals

    @property
    def has_proposals(self) -> bool:
        return self.task.source in (Source.selfplay, Source.frozen)

    @property
    def trains_proposer(self) -> bool:
        return self.task.source is Source.selfplay and self.algorithm.name is Algorithm.trr

    @property
    def has_group_baseline(self) -> bool:
        """Whether a solution is compared with the other solutions of its problem alone."""
        return self.algorithm.name is Algorithm.grpo or self.by is Baseline.problem

    def novelties(self, episodes: Sequence[Episode]) -> list[float]:
        """Novelty of each episode's problem in [0, 1], 0 where there is none. Each is scored, then remembered."""
        values = []
        for episode in episodes:
            values.append(self.window.novelty(episode.group.problem) if episode.group and episode.proposal else 0.0)
            if episode.group and episode.proposal:
                self.window.add(episode.group.problem)
        return values

    def reward_proposals(
        self,
        episodes: Sequence[Episode],
        novelties: Sequence[float],
        logprobs: Mapping[str, SequenceLogprobs] | None = None,
    ) -> tuple[list[Episode], dict[str, float]]:
        """The episodes with their proposals' rewards, and diagnostics. `logprobs` by group id: for improvement only."""
        valid = [e for e in episodes if e.group is not None and e.proposal is not None]
        values, diagnostics = self._learnabilities(valid, logprobs)
        rewarded = []
        for episode, novelty in zip(episodes, novelties, strict=True):
            proposal = episode.proposal
            if proposal is None or proposal.verdict is Verdict.EXCLUDED:
                rewarded.append(episode)
                continue
            parts = {"floor": proposer_floor(proposal.verdict, self.reward.ladder) or 0.0}
            if episode.group is not None:
                counts = self.reward.novelty_of_all or 0 < episode.group.success_rate < 1
                parts = {"learnability": values[episode.id], "diversity": self.reward.diversity * novelty * counts}
            scored = replace(proposal, reward=sum(parts.values()), reward_parts=parts)
            rewarded.append(replace(episode, proposal=scored))
        return rewarded, diagnostics

    def _learnabilities(
        self, valid: Sequence[Episode], logprobs: Mapping[str, SequenceLogprobs] | None
    ) -> tuple[dict[str, float], dict[str, float]]:
        groups = [e.group for e in valid if e.group is not None]
        if not groups:
            return {}, {}
        if not self.is_deferred:
            shaped = [learnability(self.reward.learnability, g.success_rate) for g in groups]
            return dict(zip([e.id for e in valid], shaped, strict=True)), {"learnability/mean": float(np.mean(shaped))}
        assert logprobs is not None
        raw = []
        for g in groups:
            lp = logprobs[g.id]
            correct = np.array([s.correct for s in g.samples])
            raw.append(improvement(lp.after - lp.before, correct, lp.before - lp.behaviour))
        scaled = scale_improvements(np.array(raw))
        variance = np.array([learnability(Learnability.variance, g.success_rate) for g in groups])
        diagnostics = {
            "learnability/mean": float(np.mean(scaled)),
            "learnability/improvement_raw": float(np.mean(raw)),
        }
        if (correlated := correlation(np.array(raw), variance)) is not None:
            diagnostics["learnability/variance_correlation"] = correlated
        return dict(zip([e.id for e in valid], map(float, scaled), strict=True)), diagnostics

    def due_proposals(self, episodes: Sequence[Episode]) -> list[Sample]:
        """The proposals that train in this step: last step's under improvement, else this step's (rewarded)."""
        return list(self.pending) if self.is_deferred else trainable_proposals(episodes)

    def rows(self, episodes: Sequence[Episode], proposals: Sequence[Sample]) -> list[TrainRow]:
        """Solver rows in order of the episodes, then proposer rows, each with its advantage."""
        groups = [e.group for e in episodes if e.group is not None]
        solver = [s for g in groups for s in g.samples]
        proposer = list(proposals) if self.trains_proposer else []
        name = self.task.domain
        scored = [
            Scored(role=Role.SOLVER, tier=s.tier, task=name, group=g.id, reward=s.reward)
            for g in groups
            for s in g.samples
        ]
        scored += [
            Scored(role=Role.PROPOSER, tier=s.tier, task=name, group=f"p{i}", reward=s.reward)
            for i, s in enumerate(proposer)
        ]
        values = self.baseline.advantages(scored)
        if self.has_group_baseline:
            rewards = np.array([[s.reward for s in g.samples] for g in groups])
            clip = self.algorithm.advantage_clip
            values[: len(solver)] = group_advantages(rewards, self.epsilon).reshape(-1).clip(-clip, clip)
        return [TrainRow(sample=s, advantage=float(a)) for s, a in zip(solver + proposer, values, strict=True)]

    def state(self) -> dict[str, Any]:
        return {
            "window": self.window.state(),
            "baseline": self.baseline.state(),
            "pending": [sample_to_json(s) for s in self.pending],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        self.window.load(state["window"])
        self.baseline.load(state["baseline"])
        self.pending = [sample_from_json(s) for s in state["pending"]]


def trainable_proposals(episodes: Sequence[Episode]) -> list[Sample]:
    """Every proposal but those that are in the evaluation set."""
    return [e.proposal for e in episodes if e.proposal is not None and e.proposal.verdict is not Verdict.EXCLUDED]


def batch_metrics(episodes: Sequence[Episode], version: int) -> dict[str, float]:
    """What the episodes of one step say: solver/*, proposer/*, problems/*, staleness/*, groups/*.

    Where there is a proposer problems/* are of what it wrote, without places that were filled from the buffer. A key
    without anything to take the mean of is left out.
    """
    groups = [e.group for e in episodes if e.group is not None]
    solver = [s for g in groups for s in g.samples]
    proposals = trainable_proposals(episodes)
    wrote = [e for e in episodes if e.proposal is not None and e.group is not None]
    has_proposer = any(e.proposal is not None for e in episodes)
    problems = [e.group.problem for e in wrote if e.group is not None] if has_proposer else [g.problem for g in groups]
    staleness = [version - s.completion.version for s in solver]
    means: dict[str, Sequence[float]] = {
        "solver/accuracy": [s.correct for s in solver],
        "solver/reward": [s.reward for s in solver],
        "solver/format_rate": [s.verdict is not Verdict.MALFORMED for s in solver],
        "proposer/reward": [s.reward for s in proposals],
        "proposer/valid_rate": [s.verdict is Verdict.VALID for s in proposals],
        "problems/difficulty_mean": [p.tier.level for p in problems],
        "problems/tier_match": [e.group is not None and e.requested_tier is e.group.problem.tier for e in wrote],
        **{f"problems/share/{tier}": [p.tier is tier for p in problems] for tier in TIERS},
        "staleness/mean": staleness,
        "groups/zero_variance_rate": [len({s.reward for s in g.samples}) == 1 for g in groups],
    }
    metrics = {key: float(np.mean(values)) for key, values in means.items() if values}
    if problems:
        metrics["problems/unique_rate"] = len({p.canonical for p in problems}) / len(problems)
    if staleness:
        metrics["staleness/max"] = float(max(staleness))
    return metrics | {
        "problems/structures": float(len({p.structure for p in problems})),
        "problems/contaminated": float(
            sum(e.proposal is not None and e.proposal.verdict is Verdict.EXCLUDED for e in episodes)
        ),
    }
