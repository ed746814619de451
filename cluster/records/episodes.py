"""An episode as samples.jsonl has it."""

from __future__ import annotations

from typing import Any

from azero.types import Episode, Group, Sample


def episode_record(episode: Episode, step: int, with_text: bool) -> dict[str, Any]:
    """A line of samples.jsonl: {id, step, batch, requested_cell, proposal, problem, solver}, of which the last three
    may be null. `step` is the step that trained it. `with_text` adds references, prompts and completions."""
    record = {
        "id": episode.id,
        "step": step,
        "batch": episode.batch,
        "requested_cell": str(episode.requested_cell),
        "proposal": _proposal(episode.proposal, episode.prompt, with_text) if episode.proposal else None,
        "problem": _problem(episode.group) if episode.group else None,
        "solver": _solutions(episode.group, with_text) if episode.group else None,
    }
    return record | {"references": list(episode.references)} if with_text else record


def _proposal(sample: Sample, prompt: str, with_text: bool) -> dict[str, Any]:
    record = {
        "policy": sample.completion.policy,
        "version": sample.completion.version,
        "verdict": sample.verdict.value,
        "reason": sample.reason,
        "reward": sample.reward,
        "reward_parts": dict(sample.reward_parts),
        "tokens": len(sample.completion.token_ids),
        "finish_reason": sample.completion.finish_reason,
    }
    return record | {"prompt": prompt, "completion": sample.completion.text} if with_text else record


def _problem(group: Group) -> dict[str, Any]:
    problem = group.problem
    return {
        "id": problem.id,
        "text": problem.statement,
        "answer": problem.answer,
        "cell": str(problem.cell),
        "canonical": problem.canonical,
        "structure": problem.structure,
        "payload": dict(problem.payload),
        "author_version": problem.author_version,
    }


def _solutions(group: Group, with_text: bool) -> dict[str, Any]:
    """Lists are [samples]."""
    samples = group.samples
    record = {
        "group": group.id,
        "policy": group.samples[0].completion.policy,
        "success_rate": group.success_rate,
        "rewards": [s.reward for s in samples],
        "reward_parts": [dict(s.reward_parts) for s in samples],
        "verdicts": [s.verdict.value for s in samples],
        "reasons": [s.reason for s in samples],
        "versions": [s.completion.version for s in samples],
        "tokens": [len(s.completion.token_ids) for s in samples],
        "finish_reasons": [s.completion.finish_reason for s in samples],
    }
    texts = {"prompt": group.prompt, "completions": [s.completion.text for s in samples]}
    return record | texts if with_text else record
