"""The parts of a training run, each built from what its config names; nothing starts here but in `start_both`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import ray

from actors.rollout import RolloutActor
from azero.config import Config
from azero.domains.base import Domain
from cluster.records.rundir import RunDirectory
from cluster.records.trace import Trace
from cluster.run.preparation import Prepared
from cluster.supervise.fleet import Fleet
from cluster.supervise.learning import LearnerHost, LearnerStart
from cluster.supervise.room import Placement
from learner.checkpoint import Checkpoint
from learner.learner import Learner
from learner.mirror import Mirror, newest_anywhere

Report = Callable[[str], None]


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
