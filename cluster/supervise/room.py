"""Is there room? What a run takes, what is there, whether it fits, and on which node each part of the run lives.

disaggregated   Each part has resources of its own. The learner's workers are reserved together, near each other, and
                keep their place when they die and return. A single worker is on the driver's node if that has room,
                because its disk holds the checkpoints. Actors take what is free, and join as nodes do.
colocated       Worker i and actor i share one bundle, and so its GPU: vLLM takes a share of the memory and sleeps
                while the learner works (rollout.sleep).
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from azero.config import ClusterConfig, Config
from azero.errors import RunFailed, UserError
from azero.policies import Policies, Policy
from cluster.records import machine
from cluster.supervise.memory import needed_memory
from cluster.supervise.runtime import cluster_address, ray_session

Bundle = dict[str, float]  # resource -> amount, of one part of a run: it lies on one node
EPSILON = 1e-9
# What to lower if a machine has too little of it in all.
LOWER = {
    "CPU": "rollout.actors, rollout.cpus_per_actor or learner.cpus_per_worker",
    "GPU": "rollout.gpus_per_actor or learner.gpus_per_worker",
}


# What a run takes.


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """The bundles of a run."""

    first: list[Bundle]  # have to be there before it can start
    later: list[Bundle]  # actors that may join while it goes on

    def total(self, resource: str) -> float:
        """The amount of "CPU" or "GPU" that all of the run takes."""
        return sum(bundle.get(resource, 0.0) for bundle in (*self.first, *self.later))


def demand(config: Config) -> Demand:
    worker, actor = worker_bundle(config), actor_bundle(config)
    if config.cluster.layout == "colocated":
        pair = {name: worker.get(name, 0) + actor.get(name, 0) for name in worker | actor}
        return Demand(first=[pair] * config.learner.workers, later=[])
    kinds = len(config.rollout.casts)  # of actors, of which a run needs one each
    first = [worker] * config.learner.workers + [actor] * kinds
    return Demand(first=first, later=[actor] * (config.rollout.actors - kinds))


def worker_bundle(config: Config) -> Bundle:
    return _bundle(CPU=config.learner.cpus_per_worker, GPU=config.learner.gpus_per_worker)


def actor_bundle(config: Config) -> Bundle:
    return _bundle(CPU=config.rollout.cpus_per_actor, GPU=config.rollout.gpus_per_actor)


def _bundle(**amounts: float) -> Bundle:
    return {name: amount for name, amount in amounts.items() if amount}


def needs(config: Config, policies: Policies) -> list[tuple[str, str]]:
    """(what, how much) for a person, from the config alone: no process is started and no weight is read."""
    rollout, roles, run = config.rollout, config.rollout.roles, demand(config)
    solutions = rollout.solutions_per_problem
    problems, samples = rollout.problems_per_step, rollout.problems_per_step * solutions
    described = f"{samples} solver samples a step"
    if rollout.pilot:
        described += f", {rollout.pilot} of a problem first"
    if rollout.batch_of == "signal":
        described = f"{problems} groups of {solutions} solver samples a step that are right and wrong, pilots of "
        described += f"{rollout.pilot} beside them for at most {rollout.reserve} problems more"
        samples += rollout.reserve * rollout.pilot
    tokens = samples * rollout.max_new_tokens + (problems + rollout.reserve) * rollout.max_proposal_tokens
    of_roles = f": {roles.proposer} of the proposer, {roles.solver} of the solver" if roles.proposer else ""
    return [
        ("policies", "; ".join(map(_described, policies.all))),
        *needed_memory(config, policies),
        ("CPUs", f"{run.total('CPU'):g}"),
        ("GPUs", f"{run.total('GPU'):g}"),
        ("rollout actors", f"{rollout.actors}{of_roles}"),
        ("batch", described),
        ("tokens", f"at most {tokens:,} completion tokens a step, proposals counted once"),
    ]


def _described(policy: Policy) -> str:
    what = f"adapter of rank {policy.adapter.rank}" if policy.adapter else "all weights"
    return f"{policy.name}: {what}{'' if policy.trains else ', frozen'}"


def share_threads(config: Config, local: bool) -> None:
    """Set rollout.threads and learner.threads where they are 0, so that a resumed run has the same.

    A `local` run shares this machine's cores out. On a cluster each part has as many threads as CPUs.
    """
    rollout, learner = config.rollout, config.learner
    beside = rollout.max_staleness > 0  # actors and learner work at the same time; otherwise they take turns
    of_actor = machine.cores() // (rollout.actors + beside) if local else int(rollout.cpus_per_actor)
    of_worker = machine.cores() // (rollout.actors + 1 if beside else 1) if local else int(learner.cpus_per_worker)
    rollout.threads = rollout.threads or max(1, of_actor)
    learner.threads = learner.threads or max(1, of_worker)


# What is there, and whether a run fits.


@dataclass(slots=True)
class Node:
    """Holds what of a node is free. A fraction of a GPU comes from one GPU, as in Ray."""

    cpus: float
    gpus: list[float]  # what is left of each

    @classmethod
    def unused(cls, resources: Mapping[str, float]) -> Node:
        return cls(resources.get("CPU", 0.0), [1.0] * int(resources.get("GPU", 0)))

    def take(self, bundle: Bundle) -> bool:
        """Whether the bundle was free; it is taken then."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Whether a run fits."""

    starts: bool  # learner and first actor fit
    whole: bool  # all of it fits now
    text: str  # the same for a person; if it cannot start, what to do comes after a semicolon


@dataclass(frozen=True, slots=True)
class Room:
    """The resources of each node, used or not, and what to call the place."""

    nodes: Sequence[Mapping[str, float]]
    where: str

    def answer(self, config: Config) -> Answer:
        """Whether its nodes can hold the run if nothing else used them."""
        run, free = demand(config), [Node.unused(node) for node in self.nodes]
        if missing := lacking(run.first, free):
            nodes = " | ".join(_words([_bundle(CPU=n.get("CPU", 0), GPU=n.get("GPU", 0))]) for n in self.nodes)
            first = "an actor of each role" if config.rollout.roles.proposer else "first rollout actor"
            text = (
                f"{self.where} cannot hold learner and {first}: no node has {_words(missing)} left, of "
                f"{nodes or 'no node at all'}; lower learner.workers or what a part takes (rollout.cpus_per_actor, "
                "learner.cpus_per_worker, ...), or use larger nodes or more"
            )
            return Answer(starts=False, whole=False, text=text)
        if missing := lacking(run.later, free):
            late = f"{len(missing)} of {config.rollout.actors} rollout actors do not fit yet ({_words(missing)})"
            return Answer(starts=True, whole=False, text=f"{late} and join when they do")
        return Answer(starts=True, whole=True, text=f"{self.where} can hold all of it now")

    def require_all(self, run: Demand) -> None:
        """Raises UserError if the run takes more than all nodes together have, where no more will join."""
        if name := self.short_of([run]):
            raise UserError(
                f"{run.total(name):g} {name}s needed, {self.where} has {self.total(name):g}: lower {LOWER[name]}, or "
                "use a larger cluster"
            )

    def short_of(self, runs: Iterable[Demand]) -> str:
        """The first resource of which the runs together take more than all nodes have; empty if there is none."""
        demands = list(runs)
        return next((r for r in LOWER if sum(d.total(r) for d in demands) > self.total(r) + EPSILON), "")

    def total(self, resource: str) -> float:
        return sum(node.get(resource, 0.0) for node in self.nodes)


def room_here() -> Room:
    """This machine, with its GPUs as Ray would count them."""
    from ray._private.accelerators import NvidiaGPUAcceleratorManager

    gpus = int(NvidiaGPUAcceleratorManager.get_current_node_num_accelerators())
    return Room([{"CPU": machine.cores(), "GPU": gpus}], "this machine")


def room_of_cluster() -> Room:
    """The cluster that this process is connected to."""
    return Room([n["Resources"] for n in ray.nodes() if n["Alive"]], "the cluster")


def room_for(cluster: ClusterConfig) -> Room:
    """Return what a run would have. Connects to the cluster if the config names one."""
    if not cluster_address(cluster):
        return room_here()
    with ray_session(cluster):
        return room_of_cluster()


def lacking(bundles: Sequence[Bundle], free: Sequence[Node]) -> list[Bundle]:
    """The bundles that nodes cannot hold all at once, by first fit, the largest first; what is placed is taken."""
    largest_first = sorted(bundles, key=lambda b: (-b.get("GPU", 0), -b.get("CPU", 0)))
    return [bundle for bundle in largest_first if not any(node.take(bundle) for node in free)]


def _words(bundles: Sequence[Mapping[str, float]]) -> str:
    """Return a text like "2 x (4 CPU, 1 GPU), 1 CPU"."""
    counts = Counter(", ".join(f"{amount:g} {name}" for name, amount in bundle.items()) for bundle in bundles)
    return ", ".join(f"{n} x ({text})" if n > 1 else text for text, n in counts.items())


# Where the parts live.


class Placement:
    """Options for Ray of each worker and actor. `reserve` comes first."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._is_shared = config.cluster.layout == "colocated"
        self._group: PlacementGroup | None = None

    def reserve(self) -> None:
        """Reserve the workers' bundles, which colocated actors share. Raises RunFailed if there is no room in time."""
        config = self.config
        bundles = demand(config).first if self._is_shared else [worker_bundle(config)] * config.learner.workers
        if not bundles[0]:
            return
        if len(bundles) > 1:
            self._group = placement_group(bundles, strategy="PACK")
        else:  # on this process's node, if that has room; Ray knows the option with this strategy alone
            home = ray.get_runtime_context().get_node_id()
            self._group = placement_group(bundles, strategy="STRICT_PACK", _soft_target_node_id=home)
        deadline = time.monotonic() + config.cluster.start_timeout_s
        while not self._group.wait(1):  # a second at a time: no signal is heard meanwhile
            if time.monotonic() >= deadline:
                raise RunFailed(
                    f"no room for the learner after {config.cluster.start_timeout_s:g} s (cluster.start_timeout_s): "
                    f"{len(bundles)} x ({_words([bundles[0]])}) are not there, or in use by others"
                )

    def of_worker(self, rank: int) -> dict[str, Any]:
        return self._options(worker_bundle(self.config), rank, self._group)

    def of_actor(self, index: int) -> dict[str, Any]:
        return self._options(actor_bundle(self.config), index, self._group if self._is_shared else None)

    @staticmethod
    def _options(bundle: Bundle, index: int, group: PlacementGroup | None) -> dict[str, Any]:
        strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index) if group else "DEFAULT"
        return {
            "num_cpus": bundle.get("CPU", 0),
            "num_gpus": bundle.get("GPU", 0),
            "scheduling_strategy": strategy,  # DEFAULT: wherever Ray finds room
        }
