"""`ray job submit` against a real head node with the real job server on this machine."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.rundir import read_jsonl

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture
def head() -> Iterator[tuple[str, dict[str, str]]]:
    """A head node on loopback: (address of the job server, environment)."""
    port, dashboard = free_port(), free_port()
    # A socket's path may not be long, and pytest's temporary folders are.
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "RAY_USAGE_STATS_ENABLED": "0"}
    environment.pop("RAY_ADDRESS", None)
    # Ray asks for a token where it finds one in the home folder, which any local run leaves; say it and give one.
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    command = [BIN / "ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--num-cpus=2", f"--temp-dir={folder}"]
    with open(Path(folder) / "head.log", "wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            wait_for_port(dashboard, process)
            yield f"http://127.0.0.1:{dashboard}", environment
        finally:
            process.terminate()
            process.wait(timeout=60)
            shutil.rmtree(folder, ignore_errors=True)


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise AssertionError(f"the job server did not come up: {process.args}")


@pytest.mark.timeout(400)
def test_a_submitted_job_trains_and_its_logs_and_status_are_there(
    head: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    address, environment = head
    run = tmp_path / "run"

    def ray(*arguments: str, cwd: Path = ROOT) -> str:
        command = [BIN / "ray", "job", *arguments]
        for _ in range(30):  # the job server answers some seconds before its node's agent takes jobs
            done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, check=False)
            if "No available agent" not in done.stderr:
                break
            time.sleep(1)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    small = ["run.steps=2", "rollout.problems_per_step=4", "rollout.solutions_per_problem=4", "eval.samples=0"]
    output = ray(
        "submit", f"--address={address}", "--submission-id=test", "--working-dir=.", "--",
        "azero", "train", "configs/local.yaml", f"run.dir={run}", *small,
    )  # fmt: skip
    assert "succeeded" in output
    assert "succeeded" in ray("status", f"--address={address}", "test")
    assert "step 2/2" in ray("logs", f"--address={address}", "test")
    assert [m["step"] for m in read_jsonl(run / "metrics.jsonl")] == [0, 1, 2]
