"""From the episodes of a batch to rows with advantages, and back to rewards that need the step itself.

    assign   before the step: novelty, rewards, advantages -> what the trainer trains on
    settle   after it: rewards that need the weights after the step, and what the metrics say

The state here is all that the algorithm remembers between steps: the novelty window, the baselines' moving averages,
and, under `improvement`, the proposals that wait for their reward.

    step t     solver samples of t + proposals that are due  -> advantages -> update v -> v + 1
    after it   improvement: success on t's groups under v + 1 minus under v  -> rewards of t's proposals
    step t+1   all proposals of t, invalid ones too, train with importance ratios
Every other learnability is known before the update, and the proposals of t train in step t.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from azero.config import AlgorithmConfig, BaselineConfig, RewardConfig, TaskConfig
from azero.credit.advantages import CheckedEstimator, Scored
from azero.credit.rewards import (
    NoveltyWindow,
    correlation,
    improvement,
    learnability_shape,
    proposer_floor,
    scale_improvements,
    variance,
)
from azero.domains.base import levels
from azero.policies import ONE_POLICY, Policies
from azero.types import Cell, Episode, Role, Sample, StepResult, TrainBatch, TrainRow, Verdict

SAMPLE = TypeAdapter(Sample)


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceLogprobs:
    """Log-probs of a group's completions under the sampling temperature, each [samples]."""

    behaviour: np.ndarray
    before: np.ndarray  # the learner's, under v
    after: np.ndarray  # the learner's, under v + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Assigned:
    """A batch on its way through the trainer."""

    batch: TrainBatch
    episodes: Sequence[Episode]  # with the rewards that are known before the step
    novelties: Sequence[float]  # of the episodes' problems
    metrics: Mapping[str, float]


class Credit:
    """Rewards and advantages, with the state that goes into checkpoints."""

    def __init__(
        self,
        reward: RewardConfig,
        baseline: BaselineConfig,
        algorithm: AlgorithmConfig,
        task: TaskConfig,
        *,
        cells: Sequence[Cell],
        temperature: float,
        policies: Policies = ONE_POLICY,
        only_mixed: bool = False,
    ) -> None:
        """`cells`: the domain's. `temperature`: that of all samples. `only_mixed`: no other solutions are trained on.

        Raises UserError where a part of the user's own cannot be had.
        """
        self.reward, self.algorithm, self.task = reward, algorithm, task
        self.cells, self.temperature, self.policies, self.only_mixed = cells, temperature, policies, only_mixed
        self.shape = learnability_shape(reward.learnability)
        self.window = NoveltyWindow(reward.novelty_window)
        self.baseline = CheckedEstimator(baseline, algorithm.advantage_clip)
        self.pending: list[Sample] = []  # proposals whose reward came after their own step's update
        self.tokens = {"generated": 0, "trained": 0}  # since the run began

    def assign(self, episodes: Sequence[Episode], step: int) -> Assigned:
        """Return what the trainer trains on at `step`, the batch's number. Remembers the novelty of its problems.

        Raises ValueError where an episode is of another batch, or a group is there twice: each is trained once.
        """
        _refuse_repeats(episodes, step)
        metrics = batch_metrics(episodes, step, self.cells, self.only_mixed)
        novelties = self.novelties(episodes)
        rewarded = list(episodes)
        if not self.is_deferred:
            rewarded, diagnostics = self.reward_proposals(episodes, novelties)
            metrics |= diagnostics
        weights = {Role.PROPOSER: self.algorithm.proposer_weight, Role.SOLVER: 1.0}
        batch = TrainBatch(
            step=step,
            rows=self.rows(rewarded, self.due_proposals(rewarded)),
            weights={policy.name: {role: weights[role] for role in policy.roles} for policy in self.policies.all},
            measured=Role.SOLVER if self.is_deferred else "",
        )
        return Assigned(batch=batch, episodes=rewarded, novelties=novelties, metrics=metrics)

    def settle(self, assigned: Assigned, result: StepResult) -> tuple[list[Episode], dict[str, float]]:
        """(episodes with all rewards, metrics of the batch and of the step)."""
        rewarded, metrics = list(assigned.episodes), dict(assigned.metrics)
        if self.is_deferred:  # without an update nothing has improved, and the proposals have no reward
            self.pending = []
            if result.is_finite or result.after.get(self.policies.of(Role.SOLVER)):
                logprobs = self._logprobs(rewarded, assigned.batch, result)
                rewarded, diagnostics = self.reward_proposals(rewarded, assigned.novelties, logprobs)
                metrics |= diagnostics
                self.pending = trainable_proposals(rewarded)
        if proposals := trainable_proposals(rewarded):
            metrics["proposer/reward"] = float(np.mean([p.reward for p in proposals]))
        metrics |= {f"baseline/{cell}": value for cell, value in self.baseline.baselines().items()}
        self.tokens["generated"] += sum(len(s.completion.token_ids) for e in rewarded for s in samples_of(e))
        if result.is_finite:
            rows = assigned.batch.rows.values()
            self.tokens["trained"] += sum(len(row.token_ids) for of_policy in rows for row in of_policy)
        metrics |= {f"tokens/{what}": float(count) for what, count in self.tokens.items()}
        return rewarded, metrics | dict(result.metrics)

    @property
    def is_deferred(self) -> bool:
        """Whether rewards of proposals need the weights after the update."""
        return self.shape is None and self.has_proposals

    @property
    def has_proposals(self) -> bool:
        return self.task.source in ("selfplay", "solver_only")

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
        if self.shape is not None:
            shaped = [self.shape(g.success_rate) for g in groups]
            return dict(zip([e.id for e in valid], shaped, strict=True)), {"learnability/mean": float(np.mean(shaped))}
        assert logprobs is not None
        raw = []
        for g in groups:
            lp = logprobs[g.id]
            correct = np.array([s.correct for s in g.samples])
            raw.append(improvement(lp.after - lp.before, correct, lp.before - lp.behaviour))
        scaled = scale_improvements(np.array(raw))
        variances = np.array([variance(g.success_rate) for g in groups])
        diagnostics = {
            "learnability/mean": float(np.mean(scaled)),
            "learnability/improvement_raw": float(np.mean(raw)),
        }
        if (correlated := correlation(np.array(raw), variances)) is not None:
            diagnostics["learnability/variance_correlation"] = correlated
        return dict(zip([e.id for e in valid], map(float, scaled), strict=True)), diagnostics

    def due_proposals(self, episodes: Sequence[Episode]) -> list[Sample]:
        """The proposals that train in this step: last step's under improvement, else this step's (rewarded)."""
        return list(self.pending) if self.is_deferred else trainable_proposals(episodes)

    def rows(self, episodes: Sequence[Episode], proposals: Sequence[Sample]) -> dict[str, list[TrainRow]]:
        """Return by policy the solver's rows in order of the episodes, then proposer rows, each with its advantage."""
        named: list[tuple[str, Sample]] = []
        if self.policies.train(Role.SOLVER):
            groups = [e.group for e in episodes if e.group is not None and (e.group.is_mixed or not self.only_mixed)]
            named += [(group.id, s) for group in groups for s in group.samples]
        if self.task.source == "selfplay" and self.policies.train(Role.PROPOSER):
            named += [(f"p{i}", s) for i, s in enumerate(proposals)]
        scored = [Scored(role=s.role, cell=s.cell, group=group, reward=s.reward) for group, s in named]
        found: dict[str, list[TrainRow]] = {name: [] for name in self.policies.names}
        for (_, sample), advantage in zip(named, self.baseline.advantages(scored).tolist(), strict=True):
            row = TrainRow(
                prompt_ids=sample.completion.prompt_ids,
                token_ids=sample.completion.token_ids,
                behaviour=sample.completion.logprobs,
                temperature=self.temperature,
                advantage=advantage,
                part=sample.role,
            )
            found[self.policies.of(sample.role)].append(row)
        return found

    def _logprobs(
        self, episodes: Sequence[Episode], batch: TrainBatch, result: StepResult
    ) -> dict[str, SequenceLogprobs]:
        """Return them by group id. The solver's rows come first of their policy's, in the order of the episodes."""
        policy = self.policies.of(Role.SOLVER)
        before, after = np.array(result.before.get(policy, ())), np.array(result.after.get(policy, ()))
        found, start = {}, 0
        for group in (e.group for e in episodes if e.group is not None):
            part = slice(start, start + len(group.samples))
            start = part.stop
            # Fresh samples were drawn from the weights under "before": the engine's own log-probs then differ by
            # rounding only, and the weight pi_v / pi_behaviour is one. Stale ones keep what the engine logged, in bf16
            # too: it is the probability that they were drawn with, and its rounding moves a weight by percents alone.
            behaviour = np.array(
                [
                    sum(s.completion.logprobs) if s.completion.version < batch.step else b
                    for s, b in zip(group.samples, before[part], strict=True)
                ]
            )
            found[group.id] = SequenceLogprobs(behaviour=behaviour, before=before[part], after=after[part])
        return found

    def state(self) -> dict[str, Any]:
        return {
            "window": self.window.state(),
            "baseline": self.baseline.state(),
            "pending": [asdict(sample) for sample in self.pending],
            "tokens": dict(self.tokens),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        self.window.load(state["window"])
        self.baseline.load(state["baseline"])
        self.pending = [SAMPLE.validate_python(sample) for sample in state["pending"]]
        self.tokens = dict(state.get("tokens", {"generated": 0, "trained": 0}))  # earlier versions did not count


def _refuse_repeats(episodes: Sequence[Episode], step: int) -> None:
    """Batch v is trained exactly once, at step v, and each of its groups once."""
    ids = [e.group.id for e in episodes if e.group is not None]
    if any(e.batch != step for e in episodes) or len(set(ids)) < len(ids):
        raise ValueError(
            f"batch {step}: got episodes of batches {sorted({e.batch for e in episodes})}, "
            f"{len(ids)} groups of which {len(set(ids))} are distinct"
        )


def trainable_proposals(episodes: Sequence[Episode]) -> list[Sample]:
    """Every proposal but those that are in the evaluation set."""
    return [e.proposal for e in episodes if e.proposal is not None and e.proposal.verdict is not Verdict.EXCLUDED]


def samples_of(episode: Episode) -> tuple[Sample, ...]:
    """All that was sampled for an episode, the solutions first."""
    solutions = episode.group.samples if episode.group is not None else ()
    return solutions if episode.proposal is None else (*solutions, episode.proposal)


def batch_metrics(
    episodes: Sequence[Episode], version: int, cells: Sequence[Cell], only_mixed: bool = False
) -> dict[str, float]:
    """Return the metrics of one step's episodes in a domain of these cells: solver/*, proposer/*, problems/* and so on.

    With `only_mixed` samples of the solver are those of mixed groups, which are all that is trained on. Where there is
    a proposer problems/* are of what it wrote, without places that were filled from the buffer. A key without anything
    to take the mean of is left out.
    """
    groups = [e.group for e in episodes if e.group is not None]
    mixed = [g for g in groups if g.is_mixed]
    solver = [s for g in (mixed if only_mixed else groups) for s in g.samples]
    drawn = sum(len(s.completion.token_ids) for g in groups for s in g.samples)
    proposals = trainable_proposals(episodes)
    wrote = [e for e in episodes if e.proposal is not None and e.group is not None]
    has_proposer = any(e.proposal is not None for e in episodes)
    problems = [e.group.problem for e in wrote if e.group is not None] if has_proposer else [g.problem for g in groups]
    level = levels(cells)
    reasons = sorted({s.reason for s in proposals} - {""})
    staleness = [version - s.completion.version for s in solver]
    means: dict[str, Sequence[float]] = {
        "solver/accuracy": [s.correct for s in solver],
        "solver/success_rate": [g.success_rate for g in groups],
        "solver/reward": [s.reward for s in solver],
        "solver/format_rate": [s.verdict is not Verdict.MALFORMED for s in solver],
        "proposer/reward": [s.reward for s in proposals],
        "proposer/valid_rate": [s.verdict is Verdict.VALID for s in proposals],
        "problems/difficulty_mean": [level[p.cell] for p in problems],
        "problems/tier_match": [e.group is not None and e.requested_cell == e.group.problem.cell for e in wrote],
        **{f"proposer/reasons/{reason}": [s.reason == reason for s in proposals] for reason in reasons},
        **{f"problems/share/{cell}": [p.cell == cell for p in problems] for cell in cells},
        "staleness/mean": staleness,
        "groups/zero_variance_rate": [len({s.reward for s in g.samples}) == 1 for g in groups],
        "groups/stopped_rate": [g.is_stopped for g in groups],
        "groups/informative_per_ktoken": [1000 * len(mixed) / drawn] if drawn else [],
    }
    metrics = {key: float(np.mean(values)) for key, values in means.items() if values}
    if problems:
        metrics["problems/unique_rate"] = len({p.canonical for p in problems}) / len(problems)
    if staleness:
        metrics["staleness/max"] = float(max(staleness))
    return metrics | {
        "groups/informative": float(len(mixed)),
        "problems/structures": float(len({p.structure for p in problems})),
        "problems/contaminated": float(
            sum(e.proposal is not None and e.proposal.verdict is Verdict.EXCLUDED for e in episodes)
        ),
    }
