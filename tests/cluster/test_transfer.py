"""`rollout.transfer: nccl`: weights from the learner straight to vLLM, on real Ray, with gloo in NCCL's place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from gloo import in_place_of_nccl
from helpers import at, credit_of

from actors.rollout import RolloutActor
from actors.transfer import SENDING, Sender
from azero.config import Config, load_config
from azero.domains import get_domain
from azero.errors import UserError, VersionGone
from azero.models.weights import flatten
from azero.policies import policies_of
from azero.problems.buffer import ProblemBuffer
from azero.problems.curriculum import SlotSource
from azero.types import Assignment, Played, Publication
from cluster.run.build import probe_texts
from learner.learner import Learner

GPUS = ["rollout.gpus_per_actor=1", "learner.gpus_per_worker=1"]
HALVES = ["rollout.gpus_per_actor=0.5", "learner.gpus_per_worker=0.5"]


def test_only_the_newest_versions_are_held_and_as_they_were() -> None:
    sender, state = Sender(torch.device("cpu"), keep=2), {"a": torch.zeros(3)}
    for version in range(4):
        weights, manifest = flatten(state, torch.float32)
        sender.hold(version, weights, manifest, "float32")
        weights += 1  # the learner's next version
    assert sender.prepare(0, "process", 2)
    assert sender.prepare(0, "process", 2)  # the two did not meet: again
    ended: list[bool] = []
    sender._channels[0].trainer = SimpleNamespace(shutdown=lambda: ended.append(True))
    assert sender.prepare(0, "process", 3) is None and not ended
    assert sender.prepare(0, "another process", 3) and not any(t.any() for t in sender._versions[3].values())
    assert ended
    with pytest.raises(VersionGone, match=r"holds versions \[2, 3\], not 1"):
        sender.prepare(0, "process", 1)


@pytest.mark.parametrize(
    "given",
    [[], ["rollout.gpus_per_actor=1"], [*GPUS, "rollout.engine=hf"], HALVES, [*HALVES, "cluster.layout=colocated"]],
    ids=str,
)
def test_it_takes_vllm_and_gpus_of_their_own(given: list[str]) -> None:
    assert load_config("local", ["rollout.transfer=nccl", *GPUS])
    with pytest.raises(UserError, match=r"rollout\.transfer=nccl: needs rollout\.engine=vllm"):
        load_config("local", ["rollout.transfer=nccl", *given])


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Any]:
    """(config, a learner's maker, an actor)."""
    config: Config = load_config("local", ["rollout.problems_per_step=4", "rollout.solutions_per_problem=2"])
    config.rollout.transfer = "nccl"  # after the check, which asks for GPUs
    policies = policies_of(config)
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    everywhere = {"worker_process_setup_hook": in_place_of_nccl, "env_vars": {"PYTHONPATH": paths}}
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=everywhere)

    def learner(lineage: int = 0) -> Any:
        texts, log = probe_texts(get_domain("arithmetic")), str(tmp_path / "learner.log")
        made = ray.remote(num_cpus=0, concurrency_groups={SENDING: 2})(Learner)
        return made.remote(0, config, policies, lineage, None, [], texts, log, partial(Sender, keep=2))

    actor = RolloutActor.options(num_cpus=0)  # type: ignore[attr-defined]
    yield config, learner, actor.remote(0, config, policies, str(tmp_path / "actor.log"))
    ray.shutdown()


def published(learner: Any, returned: Any) -> Publication:
    """As cluster/supervise/learning.py has it: a publication is a part of the first result."""
    outcome, ref = returned
    publication = next(p for p in ray.get(outcome, timeout=120) if isinstance(p, Publication))
    return replace(with_ref(publication, ref), probes=learner.probe.remote())


def with_ref(publication: Publication, ref: Any) -> Publication:
    return replace(publication, parts={name: replace(part, ref=ref) for name, part in publication.parts.items()})


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_actor_follows_a_learner_that_sends_and_then_the_next_one(workers: Any) -> None:
    config, new_learner, actor = workers
    credit = credit_of(config)
    domain = get_domain("arithmetic")
    source = SlotSource(domain, config.task, 4, config.rollout.max_tries, seed=0)
    buffer = ProblemBuffer(100, domain.seeds())

    def play(batch: int, publication: Publication) -> Played:
        assignment = Assignment(id=f"{batch}/0", batch=batch, slots=source.slots(batch, buffer))
        return ray.get(actor.play.remote(assignment, publication), timeout=120)

    def step(played: Played) -> Publication:
        return published(learner, learner.step.remote(credit.assign(played.episodes, played.assignment.batch).batch))

    learner = new_learner()
    first = published(learner, learner.start.remote(""))
    assert first.sender is not None
    played = play(0, with_ref(first, None))  # so that it can come by no other way
    assert played.sync and played.sync.version == at(0) and played.sync.gap_max < 1e-4
    second = step(played)
    for publication in (second, first):  # over the same channel; then an older one, as an evaluation may want
        assert (sync := play(1, with_ref(publication, None)).sync)
        assert sync.version == publication.version and sync.gap_max < 1e-4
    third = step(play(1, second))
    assert (sync := play(2, first).sync) and sync.version == at(0)  # no longer held: from the object store
    ray.kill(learner)
    assert (sync := play(2, third).sync) and sync.version == at(2)  # what it published outlives it
    learner = new_learner(lineage=1)
    again = published(learner, learner.start.remote(""))
    assert (sync := play(0, with_ref(again, None)).sync) and sync.version == at(0, lineage=1) and sync.gap_max < 1e-4
