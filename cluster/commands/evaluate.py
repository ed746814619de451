"""`azero eval`: one engine in this process, no Ray."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

from actors.engines import build_engine
from actors.rollout import evaluate_solver, play_rules
from azero.config import Config, load_config, unlikely
from azero.domains import get_domain
from azero.domains.base import evaluation_problems, executor_of
from azero.engine import Engine
from azero.evaluation.proposer import proposer_summary
from azero.models.loading import require_fetched
from azero.play import Player
from azero.policies import Policies, policies_of
from azero.problems.buffer import ProblemBuffer
from azero.problems.curriculum import SlotSource
from azero.types import Assignment
from cluster.commands.models import load, source_of
from cluster.records.rundir import PROPOSER_EVALS, config_of, warn
from cluster.run.build import require_model
from cluster.supervise.room import share_threads

PROPOSALS = 240  # of all cells together
PROPOSAL_SEED = 0  # of the prompts and the sampling: the same for every model


def evaluate_model(
    model: str, data: str, config_path: str, overrides: Sequence[str], policy: str = ""
) -> dict[str, Any]:
    """Evaluate a policy as solver; return what `azero.evaluation.solver.evaluate` does. Raises UserError.

    Without `config_path` a run directory, or a checkpoint in one, is evaluated with the run's own config, anything else
    with the base config. `policy`: by default the one that plays the solver.
    """
    config = _config(model, config_path, overrides)
    config.eval.data = data or config.eval.data
    for line in unlikely(config):
        warn(line)
    source = source_of(model)
    own = source.run_config(overrides)
    played = source.policies(own, [source.policy(policy, own)])
    for path in {p.model for p in played.all}:
        require_model(path, config.eval.protocol)
    require_fetched(Path(config.eval.data), "eval.data")
    domain = get_domain(config.task.domain, config.task.options)
    items = domain.evaluation(config.eval.data)
    with _engine(config, played) as engine, executor_of(domain) as judges:
        if source.checkpoint:
            load(engine, [p for p in played.all if p.adapter], source.checkpoint)
        temperature = config.rollout.temperature
        return evaluate_solver(engine, domain, config.eval, temperature, items, judges, played.names[0])


def evaluate_proposer(model: str, config_path: str, overrides: Sequence[str]) -> dict[str, dict[str, Any]]:
    """{model: {step, and what `proposer_summary` returns}}. Raises UserError.

    Of a run directory, or a checkpoint in one, the run's start is evaluated beside it, and both results go to its
    proposer_evals.jsonl, which the report shows. References are drawn from the domain's seed problems.
    """
    config, source, file = _config(model, config_path, overrides), source_of(model), config_of(Path(model))
    config.task.source, config.task.fill_from_buffer = "selfplay", False
    config.rollout.pilot = 0  # every problem's success rate is of as many solutions
    own = source.run_config(overrides)
    played = policies_of(own) if own else source.policies(None)
    for path in {p.model for p in played.all}:
        require_model(path, config.task.protocol)
    with _engine(config, played) as engine:
        if source.checkpoint and not own:
            load(engine, [p for p in played.all if p.adapter], source.checkpoint)
        results = {"start": {"step": 0, **_propose(engine, config, played)}}
        if own and source.checkpoint:
            load(engine, played.all, source.checkpoint)
            step = source.checkpoint.step
            results[f"step {step}"] = {"step": step, **_propose(engine, config, played)}
    if file:
        (file.parent / PROPOSER_EVALS).write_text("".join(f"{json.dumps(r)}\n" for r in results.values()))
    return results


def _propose(engine: Engine, config: Config, policies: Policies) -> dict[str, Any]:
    """One proposal a slot, and the solver's samples of those that are valid."""
    task = config.task
    domain = get_domain(task.domain, task.options)
    evaluation = evaluation_problems(domain, domain.evaluation(config.eval.data) if task.exclude_evaluation else ())
    excluded = evaluation if task.exclude_evaluation else ()
    seeds = ProblemBuffer(task.buffer_size, domain.seeds(), excluded)
    slots = SlotSource(domain, task, PROPOSALS, 1, PROPOSAL_SEED, evaluation).slots(0, seeds)
    engine.reseed(PROPOSAL_SEED)
    rules = play_rules(config.rollout, config.task, config.reward.ladder)
    with executor_of(domain) as judges:
        player = Player(engine, domain, rules, evaluation, policies, judges)
        player.require_room(domain.seeds(), as_references=True)
        episodes = player.play(Assignment(id="proposals", batch=0, slots=slots))
    return proposer_summary(episodes, domain.cells)


def _config(model: str, config_path: str, overrides: Sequence[str]) -> Config:
    config = load_config(config_path or config_of(Path(model)) or "base", overrides)
    config.rollout.max_staleness = 0  # nothing learns beside it: it may use every core
    config.rollout.threads = 0
    share_threads(config, local=True)
    return config


def _engine(config: Config, policies: Policies) -> AbstractContextManager[Engine]:
    return closing(build_engine(config.model, config.rollout, config.run.seed, policies))
