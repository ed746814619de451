"""What a run needs, worked out from its config alone, and whether a machine or a cluster has it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from azero.config import Config, Dtype
from azero.errors import UserError
from cluster.records import machine

GIB = 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourcePlan:
    cpus: float
    gpus: float
    actors: int
    batch: int  # solver samples a step
    completion_tokens: int  # a step, at most, both roles
    parameters: int | None  # None where the model is not on this disk
    learner_bytes: int | None
    actor_bytes: int | None
    store_bytes: int | None

    def lines(self) -> list[tuple[str, str]]:
        """(what, how much) for a person."""
        size = "unknown until the model is loaded"
        if self.parameters is not None:
            size = f"{self.parameters / 1e6:.2f} million parameters"
        return [
            ("model", size),
            ("CPUs", f"{self.cpus:g}"),
            ("GPUs", f"{self.gpus:g}"),
            ("rollout actors", str(self.actors)),
            ("batch", f"{self.batch} solver samples a step"),
            ("tokens", f"at most {self.completion_tokens:,} completion tokens a step, proposals counted once"),
            (
                "memory, learner",
                _gib(self.learner_bytes)
                + " weights, gradients, moments, reference, published bytes; activations beside",
            ),
            ("memory, each actor", _gib(self.actor_bytes) + " weights and KV cache"),
            ("memory, Ray's object store", _gib(self.store_bytes) + " published versions, copy of the learner's state"),
        ]


def plan(config: Config, model_path: str) -> ResourcePlan:
    """The arithmetic behind --dry-run. No process is started, nothing is loaded."""
    rollout, learner = config.rollout, config.learner
    parameters = count_parameters(Path(model_path))
    width = 4 if config.model.dtype is Dtype.float32 else 2
    learner_bytes = actor_bytes = store_bytes = None
    if parameters is not None:
        copies = 5 + (config.algorithm.kl_beta > 0)  # weights, 2 gradients (a role each), 2 moments, reference
        learner_bytes = parameters * 4 * copies // learner.workers + parameters * width  # and what it publishes
        store_bytes = parameters * ((2 + rollout.max_staleness) * width + (12 if learner.keep_every else 0))
        actor_bytes = parameters * width // rollout.tensor_parallel + int(rollout.kv_cache_gib * GIB)
    batch = rollout.problems_per_step * rollout.solutions_per_problem
    return ResourcePlan(
        cpus=rollout.actors * rollout.cpus_per_actor + learner.workers * learner.cpus_per_worker,
        gpus=rollout.actors * rollout.gpus_per_actor + learner.workers * learner.gpus_per_worker,
        actors=rollout.actors,
        batch=batch,
        completion_tokens=batch * rollout.max_new_tokens + rollout.problems_per_step * rollout.max_proposal_tokens,
        parameters=parameters,
        learner_bytes=learner_bytes,
        actor_bytes=actor_bytes,
        store_bytes=store_bytes,
    )


def count_parameters(folder: Path) -> int | None:
    """From the headers of the safetensors files of a model folder; None where there are none. Raises UserError."""
    total = 0
    for file in folder.glob("*.safetensors") if folder.is_dir() else ():
        with file.open("rb") as f:
            size = int.from_bytes(f.read(8), "little")
            try:
                header = json.loads(f.read(size) if size < file.stat().st_size else b"")
                total += sum(prod(t["shape"]) for name, t in header.items() if name != "__metadata__")
            except (ValueError, LookupError, TypeError, AttributeError):
                raise UserError(f"{file}: is no safetensors file, or a part of one; download it again") from None
    return total or None


def require(needed: ResourcePlan, available: Mapping[str, float], where: str) -> None:
    """Raises UserError where the run does not fit."""
    for name, amount, hint in (
        ("CPU", needed.cpus, "rollout.actors, rollout.cpus_per_actor or learner.cpus_per_worker"),
        ("GPU", needed.gpus, "rollout.gpus_per_actor or learner.gpus_per_worker"),
    ):
        have = available.get(name, 0.0)
        if amount > have + 1e-9:
            raise UserError(f"{amount:g} {name}s needed, {where} has {have:g}: lower {hint}, or use a larger cluster")


def share_threads(config: Config, local: bool) -> None:
    """Fill rollout.threads and learner.threads where they are 0 (in place), so that a resumed run has the same."""
    rollout, learner = config.rollout, config.learner
    cores = machine.cores()
    alone = rollout.max_staleness == 0  # actors and learner take turns
    rollout.threads = rollout.threads or _share(
        local, cores, rollout.actors + (0 if alone else 1), rollout.cpus_per_actor
    )
    learner.threads = learner.threads or _share(
        local, cores, 1 if alone else rollout.actors + 1, learner.cpus_per_worker
    )


def _share(local: bool, cores: int, parts: int, cpus: float) -> int:
    return max(1, cores // parts if local else int(cpus))


def _gib(size: int | None) -> str:
    return "unknown:" if size is None else f"{size / GIB:.2f} GiB:"
