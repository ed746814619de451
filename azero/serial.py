"""Samples and problems as JSON values, for checkpoints. No pickle is ever read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from azero.types import Cell, Completion, Problem, Role, Sample, Verdict


def sample_to_json(sample: Sample) -> dict[str, Any]:
    return asdict(sample)


def sample_from_json(value: Mapping[str, Any]) -> Sample:
    completion = dict(value["completion"])
    for key in ("prompt_ids", "token_ids", "logprobs"):
        completion[key] = tuple(completion[key])
    return Sample(
        role=Role(value["role"]),
        cell=Cell(**value["cell"]),
        completion=Completion(**completion),
        verdict=Verdict(value["verdict"]),
        reward=value["reward"],
        reward_parts=dict(value["reward_parts"]),
        reason=value["reason"],
    )


def problem_to_json(problem: Problem) -> dict[str, Any]:
    return asdict(problem)


def problem_from_json(value: Mapping[str, Any]) -> Problem:
    return Problem(**{**value, "cell": Cell(**value["cell"])})
