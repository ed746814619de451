"""The synchronous algorithm as one plain loop in one process: no Ray, no player, no fleet, no book.

`python plain_loop.py OUT.json key=value ...` runs configs/local.yaml with the overrides and writes, for each step, the
loss and what was sampled. A test compares a real run with it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from helpers import at, credit_of, generate, trainer_of

from actors.engines import build_engine
from actors.rollout import play_rules, sampling_seed
from azero.config import Config, load_config
from azero.credit.rewards import solver_reward
from azero.domains import get_domain
from azero.domains.base import judged
from azero.models.loading import resolve_model_path
from azero.models.weights import unflatten
from azero.policies import one_policy
from azero.problems.buffer import ProblemBuffer
from azero.problems.curriculum import SlotSource
from azero.types import Episode, Group, Problem, Role, Sample


def plain_loop(config: Config) -> list[dict[str, Any]]:
    domain, rules = get_domain(config.task.domain), play_rules(config.rollout, config.task, config.reward.ladder)
    path = resolve_model_path(config.model.path)
    credit, trainer = credit_of(config), trainer_of(config, path)
    engine = build_engine(config.model, config.rollout, config.run.seed, one_policy(path))
    buffer = ProblemBuffer(config.task.buffer_size, domain.seeds())
    source = SlotSource(
        domain, config.task, config.rollout.problems_per_step, config.rollout.max_tries, config.run.seed
    )
    steps = []
    for version in range(config.run.steps):
        ((weights, part),) = trainer.publish().values()
        engine.load(at(version), unflatten(weights, part.layout, part.dtype))
        engine.reseed(sampling_seed(config.run.seed, version, f"{version}/0"))
        slots = source.slots(version, buffer)

        proposed: dict[tuple[int, int], tuple[Sample, Problem | None]] = {}
        wave = [(i, 0) for i in range(len(slots))]
        while wave:
            requests = [slots[i].tries[t] for i, t in wave]
            prompts = [engine.encode(domain.ask(r, None)) for r in requests]
            for key, request, (c,) in zip(wave, requests, generate(engine, prompts, 1, rules.proposer), strict=True):
                outcome = domain.read(c.text, request, rules.exclude_evaluation, c.version)
                made = Sample(
                    role=Role.PROPOSER,
                    cell=request.cell,
                    completion=c,
                    verdict=outcome.verdict,
                    reward=0.0,
                    reason=outcome.reason,
                )
                proposed[key] = (made, outcome.problem)
            wave = [(i, t + 1) for i, t in wave if proposed[i, t][1] is None and t + 1 < len(slots[i].tries)]

        valid = {key: problem for key, (_, problem) in sorted(proposed.items()) if problem is not None}
        prompts = [engine.encode(domain.pose(problem, None)) for problem in valid.values()]
        answers = dict(zip(valid, generate(engine, prompts, rules.solutions, rules.solver), strict=True))

        episodes = []
        for (i, t), (proposal, _) in sorted(proposed.items(), key=lambda item: item[0]):
            group = None
            if (i, t) in valid:
                problem = valid[i, t]
                samples = []
                for c in answers[i, t]:
                    verdict = judged(domain, c, problem, False)
                    reward = solver_reward(verdict, rules.ladder)
                    samples.append(
                        Sample(role=Role.SOLVER, cell=problem.cell, completion=c, verdict=verdict, reward=reward)
                    )
                group = Group(id=slots[i].id, problem=problem, samples=tuple(samples))
                buffer.add(problem)
            request = slots[i].tries[t]
            episodes.append(
                Episode(
                    id=f"{slots[i].id}.{t}",
                    batch=version,
                    requested_cell=request.cell,
                    references=tuple(r.statement for r in request.references),
                    proposal=proposal,
                    group=group,
                )
            )
        assigned = credit.assign(episodes, version)
        rewarded, metrics = credit.settle(assigned, trainer.step(assigned.batch))
        steps.append({"loss": metrics["loss/total"], "episodes": [_texts(e) for e in rewarded]})
    engine.close()
    return steps


def _texts(episode: Episode) -> dict[str, Any]:
    assert episode.proposal is not None
    group = episode.group
    return {
        "id": episode.id,
        "proposal": episode.proposal.completion.text,
        "reward": episode.proposal.reward,
        "completions": [s.completion.text for s in group.samples] if group else None,
    }


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(plain_loop(load_config("local", sys.argv[2:]))))
