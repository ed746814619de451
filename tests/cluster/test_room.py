"""Who needs what, and whether nodes have it."""

from __future__ import annotations

import re

import pytest

from azero.config import load_config
from azero.errors import UserError
from cluster.supervise.room import Answer, Demand, Node, Room, demand, lacking

HEAD, GPU8 = {"CPU": 8.0}, {"CPU": 64.0, "GPU": 8.0}
TP = ["rollout.tensor_parallel=4", "rollout.gpus_per_actor=4", "rollout.cpus_per_actor=2", "rollout.actors=3"]
TP += ["rollout.engine=vllm", "learner.workers=4", "learner.gpus_per_worker=1", "rollout.problems_per_step=16"]


def free(*nodes: dict[str, float]) -> list[Node]:
    return [Node.unused(node) for node in nodes]


def answer(given: list[str], *nodes: dict[str, float]) -> Answer:
    return Room(nodes, "the cluster").answer(load_config("local", given))


def test_a_bundle_lies_on_one_node() -> None:
    assert lacking([{"CPU": 4}] * 4, free({"CPU": 6.0}, {"CPU": 6.0})) == [{"CPU": 4}] * 2
    assert lacking([{"CPU": 2}, {"CPU": 4}, {"GPU": 1.0}], free({"CPU": 6.0, "GPU": 1.0})) == []


def test_a_fraction_of_a_gpu_lies_on_one_gpu() -> None:
    assert lacking([{"GPU": 0.5}] * 3, free({"GPU": 1.0})) == [{"GPU": 0.5}]
    assert lacking([{"GPU": 0.6}] * 3, free({"GPU": 2.0})) == [{"GPU": 0.6}]
    assert lacking([{"GPU": 0.5}, {"GPU": 1.0}, {"GPU": 0.5}], free({"GPU": 2.0})) == []
    assert lacking([{"GPU": 0.5}, {"GPU": 2.0}], free({"GPU": 2.0})) == [{"GPU": 0.5}]


def test_disaggregated() -> None:
    config = load_config("local", TP)
    needed = demand(config)
    assert needed.first == [{"CPU": 1.0, "GPU": 1.0}] * 4 + [{"CPU": 2.0, "GPU": 4.0}]
    assert needed.later == [{"CPU": 2.0, "GPU": 4.0}] * 2
    assert needed.total("CPU") == 10 and needed.total("GPU") == 16
    whole = answer(TP, HEAD, GPU8, GPU8)
    assert whole == Answer(starts=True, whole=True, text="the cluster can hold all of it now")
    text = "2 of 3 rollout actors do not fit yet (2 x (2 CPU, 4 GPU)) and join when they do"
    assert answer(TP, HEAD, GPU8) == Answer(starts=True, whole=False, text=text)
    none = answer(TP, HEAD, {"CPU": 8.0, "GPU": 6.0})
    said = r"cannot hold .* no node has 2 x \(1 CPU, 1 GPU\) left, of 8 CPU \| 8 CPU, 6 GPU"
    assert not none.starts and re.search(said, none.text)


def test_colocated_pairs() -> None:
    given = ["cluster.layout=colocated", "rollout.actors=2", "learner.workers=2", "rollout.gpus_per_actor=0.5"]
    given += ["learner.gpus_per_worker=0.5", "rollout.max_staleness=0", "rollout.sleep=true"]
    config = load_config("local", given)
    assert demand(config).first == [{"CPU": 2.0, "GPU": 1.0}] * 2 and demand(config).later == []
    assert answer(given, GPU8).whole
    none = answer(given, {"CPU": 8.0, "GPU": 1.0})
    assert not none.starts and "no node has 2 CPU, 1 GPU left" in none.text


def test_a_run_starts_with_an_actor_of_each_role() -> None:
    given = [*TP, "policies=separate", "rollout.roles.proposer=1", "rollout.roles.solver=2"]
    needed = demand(load_config("local", given))
    assert len(needed.first) == 4 + 2 and len(needed.later) == 1
    assert answer(given, HEAD, GPU8).text.startswith("the cluster cannot hold learner and an actor of each role")
    text = "1 of 3 rollout actors do not fit yet (2 CPU, 4 GPU) and join when they do"
    assert answer(given, HEAD, GPU8, {"CPU": 8.0, "GPU": 4.0}).text == text


def test_what_takes_more_than_all_nodes_have() -> None:
    run = demand(load_config("local", TP))
    Room([HEAD, GPU8, GPU8], "this machine").require_all(run)
    said = r"16 GPUs needed, this machine has 8: lower rollout\.gpus_per_actor or .*, or use a larger cluster"
    with pytest.raises(UserError, match=said):
        Room([HEAD, GPU8], "this machine").require_all(run)


@pytest.mark.parametrize(
    ("running", "lacks"),
    [([], ""), ([(2, 1)], ""), ([(3, 0)], "CPU"), ([(1, 2)], "GPU"), ([(1, 1), (1, 1)], "GPU")],
)
def test_runs_beside_each_other(running: list[tuple[int, int]], lacks: str) -> None:
    runs = [Demand(first=[{"CPU": cpus, "GPU": gpus}], later=[]) for cpus, gpus in [*running, (2, 1)]]
    assert Room([{"CPU": 4.0, "GPU": 2.0}], "the cluster").short_of(runs) == lacks


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["cluster.layout=colocated", "rollout.actors=2"], "must be equal"),
        (["cluster.layout=colocated", "rollout.gpus_per_actor=1", "learner.gpus_per_worker=0.5"], "share one GPU"),
        (["learner.workers=2", "learner.gpus_per_worker=0.5"], "NCCL refuses"),
        (
            ["cluster.layout=colocated", "rollout.actors=2", "learner.workers=2", "rollout.gpus_per_actor=0.25"]
            + ["learner.gpus_per_worker=0.25"],
            "NCCL refuses",
        ),
        (["rollout.sleep=true"], "rollout.max_staleness=0"),
        (["rollout.sleep=true", "rollout.max_staleness=0", "rollout.engine=hf"], "rollout.engine=vllm"),
    ],
)
def test_what_does_not_go_together(given: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_config("local", given)
