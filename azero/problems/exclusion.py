"""Which problems are evaluation problems, whatever the domain: those that a run leaves out of its training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from azero.domains.base import Domain
from azero.types import EvalItem, Problem

IN_EVALUATION = "in_evaluation"  # why a proposal is dropped


@dataclass(frozen=True, slots=True)
class EvaluationProblems:
    """Those of the evaluation set that a run loaded (`eval.data`), and those that its domain knows by itself."""

    domain: Domain
    forms: frozenset[str] = frozenset()  # canonical

    def __contains__(self, problem: object) -> bool:
        assert isinstance(problem, Problem)
        return problem.canonical in self.forms or self.domain.is_evaluation(problem.canonical)


def evaluation_problems(domain: Domain, items: Sequence[EvalItem]) -> EvaluationProblems:
    """The problems of the set `items`, beside those that the domain knows."""
    return EvaluationProblems(domain, frozenset(item.problem.canonical for item in items))
