"""`ray job submit` to a cluster of separate Ray processes, each with its own ports and folder, on this machine."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from cluster.records.rundir import read_jsonl

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]
ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@dataclass
class Hosts:
    """A head with its job server, and what joins it; all on loopback."""

    port: int = field(default_factory=free_port)
    dashboard: int = field(default_factory=free_port)
    environment: dict[str, str] = field(default_factory=dict)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "RAY_USAGE_STATS_ENABLED": "0"}
        self.environment.pop("RAY_ADDRESS", None)
        # Ray asks for a token where it finds one in the home folder, which any local run leaves; say it and give one.
        self.environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self._start("--head", f"--port={self.port}", "--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard}")
        wait_until(lambda: self._answers(self.dashboard), "the job server")

    def join(self) -> None:
        self._start(f"--address=127.0.0.1:{self.port}")

    def _start(self, *options: str) -> None:
        """A node with one CPU."""
        folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # a socket's path may not be long, as pytest's folders are
        command = [BIN / "ray", "start", "--block", "--node-ip-address=127.0.0.1", "--num-cpus=1", *options]
        with open(Path(folder) / "node.log", "wb") as log:
            process = subprocess.Popen(
                [*command, f"--temp-dir={folder}"], env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        self.processes.append(process)
        self.folders.append(folder)

    def job(self, *arguments: str) -> str:
        """`ray job ...`: what it printed."""
        command = [BIN / "ray", "job", arguments[0], f"--address=http://127.0.0.1:{self.dashboard}", *arguments[1:]]
        for _ in range(30):  # the job server answers some seconds before it knows its routes and its agent takes jobs
            done = subprocess.run(command, env=self.environment, cwd=ROOT, capture_output=True, text=True, check=False)
            if not any(sign in done.stderr for sign in ("No available agent", "JSONDecodeError")):
                break
            time.sleep(1)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @staticmethod
    def _answers(port: int) -> bool:
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", port)) == 0

    def end(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            process.wait(timeout=60)
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)


def wait_until(condition: Callable[[], bool], what: str, limit_s: float = 120.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"no {what} in {limit_s:g} s"
        time.sleep(0.2)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    made = Hosts()
    yield made
    made.end()


def small_training(run: Path) -> list[str]:
    """Arguments of `ray job submit` for a run of tiny steps."""
    small = ["rollout.engine=hf", "rollout.problems_per_step=8", "rollout.solutions_per_problem=4", "eval.samples=0"]
    small += ["run.eval_every=0", "rollout.threads=1", "learner.threads=1", f"run.dir={run}"]
    patience = '--runtime-env-json={"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60"}}'
    return ["--working-dir=.", patience, "--", "azero", "train", "configs/local.yaml", *small]


def serving(run: Path) -> int:
    """How many actors served the newest step."""
    lines = read_jsonl(run / "metrics.jsonl")
    return int(lines[-1].get("actors/serving", 0)) if lines else 0


def test_a_submitted_job_uses_every_host(hosts: Hosts, tmp_path: Path) -> None:
    """The learner on the head and an actor on the other."""
    run = tmp_path / "run"
    hosts.join()
    output = hosts.job("submit", "--submission-id=first", *small_training(run), "run.steps=2")
    assert "succeeded" in output and "step 2/2" in hosts.job("logs", "first")
    assert serving(run) == 1


@pytest.mark.long
def test_a_submitted_job_stops_with_a_checkpoint_and_goes_on(hosts: Hosts, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train = small_training(run)
    hosts.join()
    hosts.job("submit", "--no-wait", "--submission-id=first", *train, "run.steps=5000")
    wait_until(lambda: serving(run) == 1, "actor")
    hosts.job("stop", "first")
    wait_until(lambda: "stopped" in hosts.job("status", "first").lower(), "stop", 60)
    assert "stopped with a checkpoint" in hosts.job("logs", "first")
    done = read_jsonl(run / "metrics.jsonl")[-1]["step"]

    output = hosts.job("submit", "--submission-id=second", *train, f"run.steps={done + 3}", "--resume")
    assert "succeeded" in output and f"step {done + 3}/{done + 3}" in hosts.job("logs", "second")
    assert [m["step"] for m in read_jsonl(run / "metrics.jsonl")] == list(range(done + 4))


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_local_config_learns_on_four_hosts(hosts: Hosts, tmp_path: Path) -> None:
    """As it ships: the learner on the head, an actor on each of three others, the last of which joins in the middle."""
    run = tmp_path / "run"
    actors = ["rollout.actors=3", "rollout.threads=1", "learner.threads=1", f"run.dir={run}"]

    def step() -> int:
        lines = read_jsonl(run / "metrics.jsonl")
        return int(lines[-1]["step"]) if lines else -1

    hosts.join()
    hosts.join()
    command = ["--working-dir=.", "--", "azero", "train", "configs/local.yaml", *actors]
    hosts.job("submit", "--no-wait", "--submission-id=whole", *command)
    wait_until(lambda: step() >= 20, "step 20", 900)
    head, first, second = ({p.name() for p in psutil.Process(h.pid).children(recursive=True)} for h in hosts.processes)
    assert any(name.startswith("ray::Learner") for name in head)
    assert all(any(name.startswith("ray::Rollout") for name in names) for names in (first, second))
    hosts.join()
    wait_until(lambda: "succeeded" in hosts.job("status", "whole").lower(), "end", 900)
    metrics = read_jsonl(run / "metrics.jsonl")
    assert [m["step"] for m in metrics] == list(range(81)) and metrics[-1]["actors/serving"] == 3
    before, *_, after = read_jsonl(run / "evals.jsonl")
    print(f"accuracy {before['accuracy']:.1%} -> {after['accuracy']:.1%}")
    assert after["accuracy"] > 0.75
