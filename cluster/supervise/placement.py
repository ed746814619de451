"""Where learner workers and rollout actors live, from the configuration alone.

disaggregated   each on resources of its own. The workers' are reserved together, near each other, and stay theirs
                between a death and a return; one alone is on the driver's node where that has room, whose disk holds
                the checkpoints. Actors take what is free, and join as nodes do.
colocated       pairs: worker i and actor i share one bundle, and so its GPU, by vLLM's share of the memory and its
                sleep mode (rollout.sleep).
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from azero.config import ClusterConfig, Config, Layout
from azero.errors import RunFailed, UserError
from cluster.records import machine
from cluster.supervise.runtime import cluster_address, ray_session

Bundle = dict[str, float]
ANYWHERE = "DEFAULT"  # Ray's own choice
EPSILON = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What has to be there before a run can start, and what may join later; a bundle lies on one node."""

    first: list[Bundle]
    later: list[Bundle]


def demand(config: Config) -> Demand:
    worker, actor = worker_bundle(config), actor_bundle(config)
    if config.cluster.layout is Layout.colocated:
        pair = {name: worker.get(name, 0) + actor.get(name, 0) for name in worker | actor}
        return Demand(first=[pair] * config.learner.workers, later=[])
    return Demand(first=[worker] * config.learner.workers + [actor], later=[actor] * (config.rollout.actors - 1))


def worker_bundle(config: Config) -> Bundle:
    return _bundle(CPU=config.learner.cpus_per_worker, GPU=config.learner.gpus_per_worker)


def actor_bundle(config: Config) -> Bundle:
    return _bundle(CPU=config.rollout.cpus_per_actor, GPU=config.rollout.gpus_per_actor)


def _bundle(**amounts: float) -> Bundle:
    return {name: amount for name, amount in amounts.items() if amount}


@dataclass(slots=True)
class Free:
    """What of a node is not taken. A fraction of a GPU comes from one GPU; Ray has it so."""

    cpus: float
    gpus: list[float]  # what is left of each

    @classmethod
    def of(cls, node: Mapping[str, float]) -> Free:
        return cls(node.get("CPU", 0.0), [1.0] * int(node.get("GPU", 0)))

    def take(self, bundle: Bundle) -> bool:
        """Whether it was there."""
        cpus, wanted = bundle.get("CPU", 0.0), bundle.get("GPU", 0.0)
        share = wanted if wanted < 1 else 1.0
        fitting = sorted((left, i) for i, left in enumerate(self.gpus) if left + EPSILON >= share)  # the fullest first
        count = math.ceil(wanted)
        if self.cpus + EPSILON < cpus or len(fitting) < count:
            return False
        self.cpus -= cpus
        for _, i in fitting[:count]:
            self.gpus[i] -= share
        return True


def lacking(bundles: Sequence[Bundle], left: Sequence[Free]) -> list[Bundle]:
    """The bundles that nodes cannot hold all at once, by first fit, the largest first; `left` loses what is placed."""
    largest_first = sorted(bundles, key=lambda b: (-b.get("GPU", 0), -b.get("CPU", 0)))
    return [bundle for bundle in largest_first if not any(node.take(bundle) for node in left)]


def require_room(config: Config, nodes: Sequence[Mapping[str, float]], where: str) -> str:
    """What is not there yet and may join later, in words, or nothing. Raises UserError where a run cannot start."""
    needed, left = demand(config), [Free.of(node) for node in nodes]
    if missing := lacking(needed.first, left):
        raise UserError(
            f"{where} cannot hold learner and first rollout actor: no node has {_words(missing)} left, of "
            f"{' | '.join(_words([_known(n)]) for n in nodes) or 'no node at all'}; lower learner.workers or what a "
            "part takes (rollout.cpus_per_actor, learner.cpus_per_worker, ...), or use larger nodes or more"
        )
    missing = lacking(needed.later, left)
    if not missing:
        return ""
    actors = config.rollout.actors
    return f"{len(missing)} of {actors} rollout actors do not fit yet ({_words(missing)}) and join when they do"


def nodes_of(cluster: ClusterConfig) -> tuple[list[dict[str, float]], str]:
    """(resources of each node that a run would have, where that is). Connects to the cluster, where there is one."""
    if not cluster_address(cluster):
        return [{"CPU": machine.cores(), "GPU": visible_gpus()}], "this machine"
    with ray_session(cluster):
        return alive_nodes(), "the cluster"


def alive_nodes() -> list[dict[str, float]]:
    """Resources of each node of the cluster that this process is connected to."""
    return [n["Resources"] for n in ray.nodes() if n["Alive"]]


def visible_gpus() -> int:
    """GPUs of this machine as Ray would count them."""
    from ray._private.accelerators import NvidiaGPUAcceleratorManager

    return int(NvidiaGPUAcceleratorManager.get_current_node_num_accelerators())


def _known(node: Mapping[str, float]) -> Bundle:
    return {name: node.get(name, 0.0) for name in ("CPU", "GPU") if node.get(name)}


def _words(bundles: Sequence[Mapping[str, float]]) -> str:
    """Like "2 x (4 CPU, 1 GPU), 1 CPU"."""
    counts = Counter(", ".join(f"{amount:g} {name}" for name, amount in bundle.items()) for bundle in bundles)
    return ", ".join(f"{n} x ({text})" if n > 1 else text for text, n in counts.items())


class Rooms:
    """Scheduling strategies of workers and actors. Reserves what `demand` says has to be there."""

    def __init__(self, config: Config) -> None:
        """Raises RunFailed where the cluster has no room in time."""
        self._group: PlacementGroup | None = None
        self._shared = config.cluster.layout is Layout.colocated
        bundles = demand(config).first if self._shared else [worker_bundle(config)] * config.learner.workers
        if not bundles[0]:
            return
        self._group = _near(bundles)
        deadline = time.monotonic() + config.cluster.start_timeout_s
        while not self._group.wait(1):  # a second at a time: no signal is heard meanwhile
            if time.monotonic() < deadline:
                continue
            raise RunFailed(
                f"no room for the learner after {config.cluster.start_timeout_s:g} s (cluster.start_timeout_s): "
                f"{len(bundles)} x ({_words([bundles[0]])}) are not there, or in use by others"
            )

    def worker(self, rank: int) -> Any:
        return self._bundle(rank) if self._group else ANYWHERE

    def actor(self, index: int) -> Any:
        return self._bundle(index) if self._group and self._shared else ANYWHERE

    def _bundle(self, index: int) -> PlacementGroupSchedulingStrategy:
        return PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=index)


def _near(bundles: list[Bundle]) -> PlacementGroup:
    if len(bundles) > 1:
        return placement_group(bundles, strategy="PACK")
    home = ray.get_runtime_context().get_node_id()
    return placement_group(bundles, strategy="STRICT_PACK", _soft_target_node_id=home)  # Ray knows it with this alone
