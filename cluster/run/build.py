"""A training run from its config: what is checked before it starts, and its parts, each built from what was checked.

All that would fail later for a reason that is known now fails in `prepare`. Nothing starts here but in `start_both`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray

from actors.rollout import RolloutActor
from azero.config import Config, unlikely
from azero.credit.credit import Credit
from azero.domains import get_domain
from azero.domains.base import Domain, evaluation_problems
from azero.errors import UserError
from azero.models.loading import require_fetched, require_weights, resolve_model_path
from azero.policies import Policies, policies_of
from azero.problems.buffer import ProblemBuffer
from azero.problems.curriculum import SlotSource
from azero.types import EvalItem
from cluster.records.rundir import RunDirectory, warn
from cluster.records.trace import Trace
from cluster.run.recorder import ExtraMetrics
from cluster.run.sinks import require_packages
from cluster.supervise.fleet import Fleet
from cluster.supervise.learning import LearnerHost, LearnerStart
from cluster.supervise.memory import count_parameters, named_model
from cluster.supervise.room import Placement, demand, room_here, share_threads
from cluster.supervise.runtime import cluster_address
from learner.checkpoint import Checkpoint
from learner.learner import Learner
from learner.mirror import Mirror, newest_anywhere

HUB_ID, FILE_ENDING = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+"), re.compile(r"\.[a-z]{2,8}")
Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A run that has passed the checks, before any process is started."""

    config: Config
    domain: Domain
    policies: Policies
    models: dict[str, str]  # key of the configuration that names a model -> what is loaded
    items: list[EvalItem]
    buffer: ProblemBuffer
    source: SlotSource
    credit: Credit
    extra: ExtraMetrics


def prepare(config: Config, *, dry: bool = False) -> Prepared:
    """Fills in the config's threads. Raises UserError for whatever would fail later for a reason that is known now.

    If `dry`, nothing is converted and nothing is asked of the Hub: `unchecked` says what is left out.
    """
    require_packages(config.run.sinks)
    for line in unlikely(config):
        warn(line)
    domain = get_domain(config.task.domain, config.task.options)

    def checked(name: str) -> str:
        """The folder or Hub id of a model."""
        path = named_model(name) if dry else resolve_model_path(name)
        require_model(path, config.task.protocol, config.eval.protocol)
        return path

    policies, models = policies_of(config, checked), {key: checked(name) for key, name in models_of(config).items()}
    require_fetched(Path(config.eval.data), "eval.data")
    items = [] if dry and is_of_hub(config.eval.data) else domain.evaluation(config.eval.data)
    if config.run.mirror:
        Mirror(config.run.mirror)
    evaluation = evaluation_problems(domain, items)
    excluded = evaluation if config.task.exclude_evaluation else ()
    local = not cluster_address(config.cluster)
    share_threads(config, local)
    for policy in policies.all:
        count_parameters(Path(policy.model))  # reads the heads of its files
    if local:
        room_here().require_all(demand(config))
    rollout = config.rollout
    return Prepared(
        config=config,
        domain=domain,
        policies=policies,
        models=models,
        items=items,
        buffer=ProblemBuffer(config.task.buffer_size, domain.seeds(), excluded),
        source=SlotSource(
            domain,
            config.task,
            rollout.problems_per_step,
            rollout.max_tries,
            config.run.seed,
            evaluation,
            rollout.reserve,
        ),
        credit=Credit(
            config.reward,
            config.baseline,
            config.algorithm,
            config.task,
            cells=domain.cells,
            temperature=rollout.temperature,
            policies=policies,
            only_mixed=rollout.batch_of == "signal",
        ),
        extra=ExtraMetrics(config.run.metrics),
    )


def unchecked(config: Config) -> list[str]:
    """Return what of a run only its start will show, in words."""
    named = {**models_of(config), "eval.data": config.eval.data}
    return [f"{key}={value}, of the Hugging Face Hub" for key, value in named.items() if is_of_hub(value)]


def models_of(config: Config) -> dict[str, str]:
    """Key -> name of each model that a configuration asks for."""
    own = {f"policies.{name}.model": policy.model for name, policy in config.policies.items() if policy.model}
    return {"model.path": config.model.path, **own}


def is_of_hub(name: str) -> bool:
    """Whether it looks like the Hub id of a model or a data set, and is nothing on this disk."""
    path = Path(name)
    return bool(HUB_ID.fullmatch(name)) and not FILE_ENDING.fullmatch(path.suffix) and not path.exists()


def require_model(model: str, *protocols: str) -> None:
    """Raises UserError for a model folder without weights or, if a protocol is chat, without a chat template.

    A Hub id is checked when it is loaded.
    """
    require_weights(model)
    folder = Path(model)
    if "chat" not in protocols or not folder.is_dir() or (folder / "chat_template.jinja").exists():
        return
    settings = folder / "tokenizer_config.json"
    if not (settings.exists() and "chat_template" in json.loads(settings.read_text())):
        raise UserError(f"task.protocol or eval.protocol=chat: the tokenizer of {model} has no chat template; use raw")


def build_learner(ready: Prepared, run: RunDirectory, placement: Placement, report: Report) -> LearnerHost:
    """`report` is told of damaged checkpoints."""
    config, texts, options, make_sender = ready.config, probe_texts(ready.domain), dict[str, Any](), None
    if config.rollout.transfer == "nccl":
        from actors.transfer import SENDING

        options = {"concurrency_groups": {SENDING: 2 * config.rollout.actors}}
        # What actors play on, and one more for an evaluation.
        make_sender = partial(_sender, config.rollout.max_staleness + 2)

    def spawn(lineage: int, checkpoint: Checkpoint | None, copies: Sequence[Any]) -> list[Any]:
        return [
            ray.remote(**placement.of_worker(rank), **options)(Learner).remote(
                rank,
                config,
                ready.policies,
                lineage,
                str(checkpoint.path) if checkpoint else None,
                list(copies),
                texts,
                _log(run, "learner" if rank == 0 else f"learner-{rank}"),
                make_sender,
            )
            for rank in range(config.learner.workers)
        ]

    newest = partial(newest_checkpoint, config, run, report)
    return LearnerHost(spawn, newest, config.learner.timeout_s, config.cluster.start_timeout_s)


def build_fleet(ready: Prepared, run: RunDirectory, placement: Placement, report: Report, trace: Trace) -> Fleet:
    """`report` is told what becomes of actors."""
    config, known_problems = ready.config, ready.source.examples()

    def spawn(index: int) -> Any:
        actor = RolloutActor.options(**placement.of_actor(index))  # type: ignore[attr-defined]
        log = _log(run, f"actor-{index}")
        return actor.remote(index, config, ready.policies, log, ready.items, known_problems)

    rollout, start_timeout_s = config.rollout, config.cluster.start_timeout_s
    return Fleet(spawn, rollout.actors, rollout.timeout_s, start_timeout_s, report, trace, rollout.played_by)


def start_both(config: Config, learner: LearnerHost, fleet: Fleet, checkpoint: Checkpoint | None) -> LearnerStart:
    """Start learner and actors beside each other; returns when the learner and one actor of each role are ready.

    Raises as LearnerHost.start and Fleet.wait_ready do.
    """
    # An engine takes of its GPU what it finds free, so that it must not start while a learner on the same one does.
    may_share_a_gpu = config.rollout.gpus_per_actor % 1 and config.learner.gpus_per_worker % 1
    if not may_share_a_gpu:
        fleet.start()
    started = learner.start(checkpoint)
    if may_share_a_gpu:
        fleet.start()
    fleet.wait_ready()
    return started


def newest_checkpoint(config: Config, run: RunDirectory, report: Report) -> Checkpoint | None:
    """Find the newest checkpoint in the run directory or its mirror; None before the first."""
    mirror = Mirror(config.run.mirror) if config.run.mirror else None
    return newest_anywhere(lambda: run.latest_checkpoint(report), mirror, run.checkpoints, report)


def probe_texts(domain: Domain) -> list[str]:
    """An easy and a hard seed problem, worked: what the proof of sync is scored on at every step, hence short."""
    seeds = domain.seeds()
    return ["".join(f"{domain.pose(p, None)}{p.answer}\n" for p in (seeds[0], seeds[-1]))]


def _log(run: RunDirectory, name: str) -> str:
    return str(run.logs.absolute() / f"{name}.log")


def _sender(keep: int, device: Any) -> Any:
    """Made in the learner's process, after its threads are set: it brings torch."""
    from actors.transfer import Sender

    return Sender(device, keep)
