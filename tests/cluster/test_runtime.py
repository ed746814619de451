"""Ray is found or started within seconds, or one line says why not."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from azero.errors import UserError
from cluster.supervise import runtime
from cluster.supervise.runtime import cluster_address, ray_folder, require_cluster

SMALL = ["rollout.engine=hf", "rollout.problems_per_step=2", "rollout.solutions_per_problem=2", "run.steps=1"]
SMALL += ["run.eval_every=0", "eval.samples=0", "rollout.max_staleness=0", "rollout.threads=1", "learner.threads=1"]


@pytest.fixture
def server() -> Iterator[Callable[[bytes | None], str]]:
    """Listens and answers every connection with the same bytes, or not at all; its address."""
    made: list[socket.socket] = []

    def listen(answer: bytes | None) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        made.append(listener)

        def serve() -> None:
            connection, _ = listener.accept()
            made.append(connection)
            if answer is not None:
                connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        return f"127.0.0.1:{listener.getsockname()[1]}"

    yield listen
    for each in made:
        each.close()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "refused"),
        ("no-such-host.invalid:6379", "not known"),
        ("127.0.0.1", "host:port"),
        ("127.0.0.1:many", "many"),
        ("127.0.0.1:99999999", "host:port"),
        ("ray://127.0.0.1:10001", "Ray Client"),
        ("http://127.0.0.1:8265", "ray jobs"),
    ],
)
def test_an_address_without_a_cluster_is_one_line_at_once(address: str, said: str) -> None:
    began = time.monotonic()
    with pytest.raises(UserError, match=rf"cluster\.address={address}: no Ray cluster there .*{said}"):
        require_cluster(address)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("answer", "said"), [(b"HTTP/1.1 400 Bad Request\r\n\r\n", "not Ray"), (b"", "timed out"), (None, "timed out")]
)
def test_what_listens_may_be_something_else_or_hang(
    server: Callable[[bytes | None], str], monkeypatch: pytest.MonkeyPatch, answer: bytes | None, said: str
) -> None:
    monkeypatch.setattr(runtime, "PROBE_S", 0.3)
    with pytest.raises(UserError, match=said):
        require_cluster(server(answer))


def test_a_grpc_server_may_be_a_head(server: Callable[[bytes | None], str]) -> None:
    require_cluster(server(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])))


def test_local_is_a_ray_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from azero.config import ClusterConfig

    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert cluster_address(ClusterConfig()) == ""


def test_a_dead_address_ends_a_run_within_ten_seconds_and_leaves_nothing(tmp_path: Path) -> None:
    began = time.monotonic()
    done = run("train", "local", f"run.dir={tmp_path}/run", RAY_ADDRESS="127.0.0.1:1")
    assert time.monotonic() - began < 10
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "cluster.address=127.0.0.1:1" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_rays_folder_is_short_and_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    assert ray_folder() == Path("/tmp/ray")
    long = tmp_path / ("a" * 60)
    for unfit in (long, Path("/dev/null/x"), Path("/proc/no")):
        monkeypatch.setenv("RAY_TMPDIR", str(unfit))
        assert ray_folder() == Path("/tmp/ray")
    monkeypatch.setattr(runtime, "_unfit", lambda folder: "cannot be written (Read-only file system)")
    with pytest.raises(UserError, match=r"/proc/no/ray cannot be written \(Read-only file system\).*set RAY_TMPDIR"):
        ray_folder()


@pytest.mark.long
@pytest.mark.timeout(200)
def test_a_run_starts_with_a_long_temporary_folder_and_without_a_home(tmp_path: Path) -> None:
    """And on one core: what the process may use is what Ray may give out."""
    long = tmp_path / ("a" * 100)
    long.mkdir()
    given = ["rollout.cpus_per_actor=0.5", "learner.cpus_per_worker=0.5", f"run.dir={tmp_path}/run", *SMALL]
    done = run("train", "local", *given, TMPDIR=str(long), HOME="/dev/null/nobody", one_core=True)
    assert done.returncode == 0, done.stderr
    assert "threads: 1" in (tmp_path / "run" / "config.yaml").read_text()


def run(*argv: str, one_core: bool = False, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    bound = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); " if one_core else ""
    code = f"{bound}import sys; from cluster.cli import main; sys.exit(main({list(argv)!r}))"
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, timeout=180
    )
