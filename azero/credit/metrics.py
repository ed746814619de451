"""What the episodes of one step say: the numbers of a metrics line that need no learner."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from azero.domains.base import levels
from azero.types import Cell, Episode, Sample, Verdict


def trainable_proposals(episodes: Sequence[Episode]) -> list[Sample]:
    """Every proposal but those that are in the evaluation set."""
    return [e.proposal for e in episodes if e.proposal is not None and e.proposal.verdict is not Verdict.EXCLUDED]


def _reasons(proposals: Sequence[Sample]) -> list[str]:
    """Why some were turned down."""
    return sorted({s.reason for s in proposals} - {""})


def batch_metrics(episodes: Sequence[Episode], version: int, cells: Sequence[Cell]) -> dict[str, float]:
    """Return the metrics of one step's episodes in a domain of these cells: solver/*, proposer/*, problems/* and so on.

    Where there is a proposer problems/* are of what it wrote, without places that were filled from the buffer. A key
    without anything to take the mean of is left out.
    """
    groups = [e.group for e in episodes if e.group is not None]
    solver = [s for g in groups for s in g.samples]
    proposals = trainable_proposals(episodes)
    wrote = [e for e in episodes if e.proposal is not None and e.group is not None]
    has_proposer = any(e.proposal is not None for e in episodes)
    problems = [e.group.problem for e in wrote if e.group is not None] if has_proposer else [g.problem for g in groups]
    level = levels(cells)
    staleness = [version - s.completion.version for s in solver]
    means: dict[str, Sequence[float]] = {
        "solver/accuracy": [s.correct for s in solver],
        "solver/reward": [s.reward for s in solver],
        "solver/format_rate": [s.verdict is not Verdict.MALFORMED for s in solver],
        "proposer/reward": [s.reward for s in proposals],
        "proposer/valid_rate": [s.verdict is Verdict.VALID for s in proposals],
        "problems/difficulty_mean": [level[p.cell] for p in problems],
        "problems/tier_match": [e.group is not None and e.requested_cell == e.group.problem.cell for e in wrote],
        **{f"proposer/reasons/{reason}": [s.reason == reason for s in proposals] for reason in _reasons(proposals)},
        **{f"problems/share/{cell}": [p.cell == cell for p in problems] for cell in cells},
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
