"""Hostile programs: each has its verdict, costs its limits at most, and leaves host and sandbox as they were."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile import HOSTILE, program
from sandboxes import sandbox_here

from azero.sandbox import Failure, Limits, Sandbox
from azero.sandbox.monty import GRACE

SECRET = "the secret of the host"
LIMITS = Limits(seconds=0.1, memory_mib=64, recursion=200)
PATIENT = Limits(seconds=2.0, memory_mib=64, recursion=200)  # where the machine was busy
MARGIN = GRACE + 1.5  # seconds on top of a limit; of it 1.5 for a machine that does other things, and a new worker


@pytest.fixture(scope="module", params=["monty", "cpython"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[tuple[Sandbox, int]]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SECRET", SECRET)
        made = sandbox_here(request.param)
        yield made, ["monty", "cpython"].index(request.param)
        made.close()


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("host") / "canary"
    path.write_text(SECRET)
    return path


@pytest.fixture(scope="module")
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_there_are_many() -> None:
    assert len(HOSTILE) > 100


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_gets_its_verdict_and_nothing_else(
    name: str, sandbox: tuple[Sandbox, int], canary: Path, listener: socket.socket
) -> None:
    made, column = sandbox
    text, *expected = HOSTILE[name]
    allowed = expected[column] if isinstance(expected[column], tuple) else (expected[column],)
    text = program(text, str(canary), listener.getsockname()[1])
    began = time.monotonic()
    (outcome,) = made.run(text, [[1]], LIMITS)
    assert time.monotonic() - began < LIMITS.seconds + MARGIN
    if outcome.failure is Failure.TIME and Failure.TIME not in allowed:
        (outcome,) = made.run(text, [[1]], PATIENT)
    assert outcome.failure in allowed, outcome
    assert SECRET not in f"{outcome.value}{outcome.detail}" and len(outcome.detail) <= 200
    assert canary.read_text() == SECRET and list(canary.parent.iterdir()) == [canary]
    assert not select.select([listener], [], [], 0)[0], "it reached the host's port"
    (after,) = made.run("def f(a): return a + 1", [[1]], PATIENT)
    assert after.value == 2
