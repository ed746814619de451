"""Builders of small samples, shared by the tests."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from azero.config import Config
from azero.credit.credit import Credit
from azero.domains.expression import CELLS, EASY
from azero.engine import Engine
from azero.policies import one_policy
from azero.types import (
    SHARED,
    Cell,
    Completion,
    Episode,
    Group,
    Problem,
    ProposalRequest,
    Publication,
    PublishedWeights,
    Role,
    Sample,
    Sampling,
    Verdict,
    WeightVersion,
)


def completion(
    prompt: Sequence[int] = (5, 6), tokens: Sequence[int] = (7, 8), logprob: float = -1.0, version: int = 0
) -> Completion:
    return Completion(
        prompt_ids=tuple(prompt),
        token_ids=tuple(tokens),
        logprobs=(logprob,) * len(tokens),
        text="",
        version=version,
        finish_reason="stop",
    )


def at(step: int, lineage: int = 0) -> WeightVersion:
    return WeightVersion(lineage=lineage, step=step)


def publication(step: int = 0, dtype: str = "float32", size: int = 1, **options: Any) -> Publication:
    """Of one policy, without a layout."""
    part = PublishedWeights(layout=(), dtype=dtype, bytes=size, ref=options.pop("ref", None))
    return Publication(version=at(step, options.pop("lineage", 0)), parts={SHARED: part}, **options)


def credit_of(config: Config) -> Credit:
    """As a run has it."""
    c = config
    return Credit(c.reward, c.baseline, c.algorithm, c.task, cells=CELLS, temperature=c.rollout.temperature)


def trainer_of(config: Config, path: str, **options: Any) -> Any:
    """As a run has it, without Ray."""
    from learner.trainer import Trainer

    parts = {name: getattr(config, name) for name in ("model", "algorithm", "learner")}
    return Trainer(**parts, policies=one_policy(path, config.optim), probe_texts=["1 + 2"], **options)


def metrics_of(result: Any) -> dict[str, float]:
    """What a step says in numbers that was this update of the one policy."""
    from learner.trainer import step_metrics

    return step_metrics({SHARED: result})


def sample(
    role: Role = Role.SOLVER,
    cell: Cell = EASY,
    verdict: Verdict = Verdict.RIGHT,
    reward: float = 1.0,
    **of_completion: object,
) -> Sample:
    made = completion(**of_completion)  # type: ignore[arg-type]
    return Sample(role=role, cell=cell, completion=made, verdict=verdict, reward=reward)


def problem(text: str = "1 + 2", cell: Cell = EASY, answer: str = "3", canonical: str = "") -> Problem:
    return Problem(
        id=text,
        cell=cell,
        statement=text,
        answer=answer,
        canonical=canonical or text,
        structure="s",
        author_version=0,
    )


def request(*references: str, cell: Cell = EASY) -> ProposalRequest:
    """`references`: the statements of problems."""
    return ProposalRequest(cell=cell, references=tuple(map(problem, references)))


def episode(
    slot: str,
    verdicts: Sequence[Verdict] | None,
    *,
    batch: int = 0,
    cell: Cell = EASY,
    text: str = "1 + 2",
    proposal: Verdict | None = Verdict.VALID,
    version: int = 0,
) -> Episode:
    """`verdicts` of the solver group, None where the proposal did not become a problem."""
    group = None
    if verdicts is not None:
        rewards = {Verdict.RIGHT: 1.0, Verdict.WRONG: -0.5, Verdict.MALFORMED: -1.0}
        samples = tuple(sample(cell=cell, verdict=v, reward=rewards[v], version=version) for v in verdicts)
        group = Group(id=slot, problem=problem(text, cell), samples=samples)
    return Episode(
        id=f"{slot}.0",
        batch=batch,
        requested_cell=cell,
        references=(),
        proposal=None if proposal is None else sample(Role.PROPOSER, cell, proposal, 0.0, version=version),
        group=group,
    )


def edited(rng: random.Random, text: str, fragments: Sequence[str]) -> str:
    """The text one edit away: a fragment or a character more, a piece less, or a piece many times."""
    at, end = sorted(rng.choices(range(len(text) + 1), k=2))
    match rng.randrange(4):
        case 0:
            return text[:at] + rng.choice(fragments) + text[at:]
        case 1:
            return text[:at] + text[end:]
        case 2:
            return text[:at] + text[at:end] * rng.randint(2, 20) + text[end:]
        case _:
            return text[:at] + chr(rng.randrange(0x110000)) + text[at:]


def generate(
    engine: Engine, prompts: Sequence[Sequence[int]], n: int, sampling: Sampling
) -> list[tuple[Completion, ...]]:
    """n completions of each prompt, in the order of the prompts. Nothing else may be in flight."""
    for i, prompt in enumerate(prompts):
        engine.submit(i, prompt, n, sampling)
    found: dict[object, tuple[Completion, ...]] = {}
    while engine.busy():
        found.update(engine.step())
    return [found[i] for i in range(len(prompts))]
