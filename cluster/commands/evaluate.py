"""`azero eval`: one engine in this process, no Ray."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from actors.engines import build_engine
from actors.rollout import evaluate_solver, play_rules
from azero.config import Config, load_config, unlikely
from azero.domains import get_domain
from azero.engine import Engine
from azero.evaluation.proposer import proposer_summary
from azero.judging import executor_of
from azero.models.lfs import require_fetched
from azero.models.loading import require_weights, resolve_model_path
from azero.play import Player
from azero.problems.buffer import ProblemBuffer
from azero.problems.curriculum import SlotSource
from azero.problems.exclusion import evaluation_problems
from azero.types import Assignment, WeightVersion
from cluster.commands.export import checkpoint_of, resolve_model
from cluster.records.rundir import CONFIG, PROPOSER_EVALS, is_run, warn
from cluster.run.preparation import require_chat_template
from cluster.supervise.room import share_threads

PROPOSALS = 240  # of all cells together
PROPOSAL_SEED = 0  # of the prompts and the sampling: the same for every model


def evaluate_model(model: str, data: str, config_path: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Evaluate the solver; return what `azero.evaluation.solver.evaluate` does. Raises UserError.

    Without `config_path` a run directory, or a checkpoint in one, is evaluated with the run's own config, anything else
    with the base config.
    """
    config = _config(model, config_path, overrides)
    config.eval.data = data or config.eval.data
    for line in unlikely(config):
        warn(line)
    path = resolve_model_path(resolve_model(model))
    require_weights(path)
    if config.eval.protocol == "chat":
        require_chat_template(path)
    require_fetched(Path(config.eval.data), "eval.data")
    domain = get_domain(config.task.domain)
    items = domain.evaluation(config.eval.data)
    with _engine(config, path) as engine, executor_of(domain) as judges:
        return evaluate_solver(engine, domain, config.eval, config.rollout.temperature, items, judges)


def evaluate_proposer(model: str, config_path: str, overrides: Sequence[str]) -> dict[str, dict[str, Any]]:
    """{model: {step, and what `proposer_summary` returns}}. Raises UserError.

    Of a run directory, or a checkpoint in one, the run's start model is evaluated beside it, and both results go to
    its proposer_evals.jsonl, which the report shows. References are drawn from the domain's seed problems.
    """
    config = _config(model, config_path, overrides)
    config.task.source, config.task.fill_from_buffer = "selfplay", False
    path, own = Path(resolve_model_path(resolve_model(model))), _own_config(Path(model))
    start = resolve_model_path(config.model.path) if own else str(path)
    for each in (start, str(path)):
        require_weights(each)
    if config.task.protocol == "chat":
        require_chat_template(start)
    with _engine(config, start) as engine:
        results = {"start": {"step": 0, **_propose(engine, config)}}
        if own:
            step = checkpoint_of(path).step
            engine.load(WeightVersion(lineage=0, step=step), load_file(path / "model.safetensors"))
            results[f"step {step}"] = {"step": step, **_propose(engine, config)}
    if own:
        (own.parent / PROPOSER_EVALS).write_text("".join(f"{json.dumps(r)}\n" for r in results.values()))
    return results


def _propose(engine: Engine, config: Config) -> dict[str, Any]:
    """One proposal a slot, and the solver's samples of those that are valid."""
    domain, task = get_domain(config.task.domain), config.task
    evaluation = evaluation_problems(domain, domain.evaluation(config.eval.data) if task.exclude_evaluation else ())
    excluded = evaluation if task.exclude_evaluation else ()
    seeds = ProblemBuffer(task.buffer_size, domain.seeds(), excluded)
    slots = SlotSource(domain, task, PROPOSALS, 1, PROPOSAL_SEED, evaluation).slots(0, seeds)
    engine.reseed(PROPOSAL_SEED)
    rules = play_rules(config.rollout, config.task, config.reward.ladder)
    with executor_of(domain) as judges:
        player = Player(engine, domain, rules, evaluation, judges=judges)
        player.require_room(domain.seeds(), as_references=True)
        episodes = player.play(Assignment(id="proposals", batch=0, slots=slots))
    return proposer_summary(episodes, domain.cells)


def _config(model: str, config_path: str, overrides: Sequence[str]) -> Config:
    config = load_config(config_path or _own_config(Path(model)) or "base", overrides)
    config.rollout.max_staleness = 0  # nothing learns beside it: it may use every core
    config.rollout.threads = 0
    share_threads(config, local=True)
    return config


@contextmanager
def _engine(config: Config, path: str) -> Iterator[Engine]:
    engine = build_engine(config.model, config.rollout, seed=config.run.seed, path=path)
    try:
        yield engine
    finally:
        engine.close()


def _own_config(model: Path) -> Path | None:
    """config.yaml of the run directory that this is, or that this checkpoint is in."""
    return next((folder / CONFIG for folder in (model, model / "../..") if is_run(folder)), None)
