"""Nodes that come and go, on Ray's multi-node test cluster; and who can reach a local Ray."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from chaos import Victim, check_whole
from ray.cluster_utils import Cluster

from cluster.records.rundir import read_jsonl

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SMALL = ["rollout.engine=hf", "rollout.problems_per_step=6", "rollout.solutions_per_problem=4", "eval.samples=0"]
SMALL += ["run.eval_every=0", "rollout.threads=1", "learner.threads=1", "cluster.progress=plain"]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head with room for the learner and one rollout actor."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    yield made
    made.shutdown()


def serving(folder: Path) -> int:
    lines = read_jsonl(folder / "metrics.jsonl")
    return int(lines[-1].get("actors/serving", 0)) if lines else 0


def wait(condition: Callable[[], bool], what: str, limit_s: float = 120.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


@pytest.mark.long
def test_actors_join_and_leave_with_nodes(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    folder = tmp_path / "run"
    victim = Victim.start(folder, [*SMALL, "rollout.actors=2", "run.steps=2000"])
    victim.wait_for_step(2)
    assert serving(folder) == 1 and "1 of 2 rollout actors do not fit yet (1 CPU)" in victim.said()
    node = cluster.add_node(num_cpus=1)
    victim.wait_until(lambda: serving(folder) == 2, "a second actor")
    cluster.remove_node(node, allow_graceful=False)
    victim.wait_until(lambda: serving(folder) == 1, "the loss of it")
    left_at = victim.step
    victim.wait_for_step(left_at + 5)
    cluster.add_node(num_cpus=1)
    victim.wait_until(lambda: serving(folder) == 2, "another second actor")
    victim.process.terminate()
    assert victim.finish() == 130, victim.said()
    check_whole(folder, victim.step, 6)
    assert "Traceback" not in victim.said()


@pytest.mark.long
def test_a_job_that_waits_for_its_nodes_can_be_stopped(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    victim = Victim.start(tmp_path / "run", [*SMALL, "learner.cpus_per_worker=8"])
    victim.wait_to_say("waiting for nodes", 60)
    time.sleep(2)
    victim.process.terminate()
    assert victim.finish(20) == 130
    assert "stopped before its first step" in victim.said() and "Traceback" not in victim.said()
    resumed = Victim.start(tmp_path / "run", [*SMALL, "run.steps=1"], resume=True)
    assert resumed.finish() == 0, resumed.said()


def test_a_local_ray_is_its_own_and_listens_on_loopback_alone() -> None:
    code = """
import os, psutil
from azero.config import ClusterConfig
from cluster.supervise.runtime import ray_session
with ray_session(ClusterConfig()):
    import ray
    ray.get(ray.remote(lambda: 1).remote())
    pids = {os.getpid(), *(c.pid for c in psutil.Process().children(recursive=True))}
    sockets = [c for c in psutil.net_connections("inet") if c.status == "LISTEN" and c.pid in pids]
    print(len(sockets), *sorted({c.laddr.ip.removeprefix("::ffff:") for c in sockets}))
"""
    with TemporaryDirectory(dir="/tmp") as folder:  # a socket's path has 107 characters at most
        (Path(folder) / "ray").mkdir()
        (Path(folder) / "ray" / "ray_current_cluster").write_text("192.0.2.1:6379")  # of a cluster that was killed
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {"RAY_TMPDIR": folder}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    count, *addresses = done.stdout.split()
    assert int(count) > 3 and addresses == ["127.0.0.1"]
