"""What is checked before a run starts: all that would fail later for a reason that is known now."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from azero.config import Config, unlikely
from azero.credit.credit import Credit
from azero.domains import get_domain
from azero.domains.base import Domain
from azero.errors import UserError
from azero.models.lfs import require_fetched
from azero.models.loading import require_weights, resolve_model_path
from azero.policies import Policies, policies_of
from azero.problems.buffer import ProblemBuffer
from azero.problems.curriculum import SlotSource
from azero.problems.exclusion import evaluation_problems
from azero.types import EvalItem
from cluster.records.rundir import warn
from cluster.run.recorder import ExtraMetrics
from cluster.run.sinks import require_packages
from cluster.supervise.memory import count_parameters, named_model
from cluster.supervise.room import demand, room_here, share_threads
from cluster.supervise.runtime import cluster_address
from learner.mirror import Mirror

HUB_ID, FILE_ENDING = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+"), re.compile(r"\.[a-z]{2,8}")


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
            domain, config.task, rollout.problems_per_step, rollout.max_tries, config.run.seed, evaluation
        ),
        credit=Credit(
            config.reward,
            config.baseline,
            config.algorithm,
            config.task,
            cells=domain.cells,
            temperature=rollout.temperature,
            policies=policies,
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
