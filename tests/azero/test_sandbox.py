"""What both sandboxes promise: fresh state, exact values, seeds, limits a call, and a death that costs one call."""

from __future__ import annotations

import os
import signal
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from sandboxes import sandbox_here

from azero.errors import UserError
from azero.sandbox import Failure, Limits, Outcome, Sandbox, cpython, sandbox_of
from azero.sandbox.literals import canonical
from azero.sandbox.monty import MontySandbox, leaves_no_trace

PATIENT = Limits(seconds=5.0)  # for what has to end well on a busy machine


@pytest.fixture(scope="module", params=["monty", "cpython"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    found = sandbox_here(request.param)
    yield found
    found.close()


@pytest.fixture(scope="module")
def monty() -> Iterator[MontySandbox]:
    made = MontySandbox()
    yield made
    made.close()


def value(sandbox: Sandbox, program: str, *arguments: Any, seed: int = 0) -> Any:
    (outcome,) = sandbox.run(program, [arguments], PATIENT, seed)
    assert outcome.failure is None, outcome
    return outcome.value


def failure(sandbox: Sandbox, program: str, *arguments: Any) -> Failure | None:
    return sandbox.run(program, [arguments or (1,)], PATIENT)[0].failure


def test_an_outcome_a_call_in_their_order(sandbox: Sandbox) -> None:
    outcomes = sandbox.run("def f(a, b): return a // b", [(7, 2), (1, 0), (9, 3)], PATIENT)
    assert [o.value for o in outcomes] == [3, None, 3]
    assert [o.failure for o in outcomes] == [None, Failure.ERROR, None]
    assert "ZeroDivisionError" in outcomes[1].detail
    assert all(0 < o.seconds < 5 for o in outcomes)
    assert sandbox.run("def f(a): return a", [], PATIENT) == []


def test_no_call_sees_what_another_changed(sandbox: Sandbox) -> None:
    program = "seen = []\ndef f(a):\n    seen.append(len(a))\n    a.append(0)\n    return [seen, a]"
    given = [5]
    outcomes = sandbox.run(program, [(given,), (given,)], PATIENT)
    assert [o.value for o in outcomes] == [[[1], [5, 0]]] * 2 and given == [5]
    patched = "import math\ndef f(a):\n    math.pi = 3\n    return math.pi"
    sandbox.run(patched, [(1,)], PATIENT)
    assert value(sandbox, "import math\ndef f(a): return math.pi > 3.1", 1) is True


@pytest.mark.parametrize(
    "program",
    [
        "def f(a, seen=[]):\n    seen.append(a)\n    return len(seen)",
        "def f(a):\n    global n\n    try: n += 1\n    except NameError: n = 1\n    return n",
        "n = [0]\ndef f(a):\n    n[0] += 1\n    return n[0]",
        "class A:\n    n = 0\ndef f(a):\n    A.n += 1\n    return A.n",
        "try: n = n + 1\nexcept NameError: n = 1\ndef f(a): return n",
        "def g(x=(n := 1)): return x\ndef f(a): return n",
        "def f(a): return n\rtry: n = n + 1\rexcept NameError: n = 1",
        "def f(a): return n\n \ftry: n = n + 1\n \fexcept NameError: n = 1",
    ],
)
def test_state_of_every_kind_is_new_to_each_call(sandbox: Sandbox, program: str) -> None:
    assert [o.value for o in sandbox.run(program, [(5,)] * 3, PATIENT)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("program", "shared"),
    [
        ("def f(a): return a", True),
        ("def g(a):\n\n    return a\n\ndef f(a):\n\treturn g(a)", True),
        ("def f(a): return a\nx = 1", False),
        ("import math\ndef f(a): return a", False),
        ("def f(a):\n    import random\n    return a", False),
        ("def f(a):\n    global x\n    x = a", False),
        ("@g\ndef f(a): return a", False),
        ("class A:\n    x = 1\ndef f(a): return a", False),
        ("def f(a, b=(n := 1)): return a", False),
        ("def f(a): exec('x = 1')", False),
        ('def f(a): return """\nx"""', False),
        ("def f(a): return x\rx = 1", False),
        ("def f(a): return x\n \fx = 1", False),
        ("def f(a): ｅｘｅｃ('x = 1')", False),  # Python reads it as exec
    ],
)
def test_which_programs_share_a_session(program: str, shared: bool) -> None:
    assert leaves_no_trace(program) is shared


def test_a_call_that_fails_in_a_shared_session_costs_no_other(monty: MontySandbox) -> None:
    program = "def f(a):\n    x = 'x' * a\n    if a == 3: return undefined\n    if a == 4: open('x')\n    return len(x)"
    large = 30_000_000
    calls = [(1,), (3,), (2,), (10**9,), (large,), (large,), (large,), (4,), (1,)]
    assert [o.value or o.failure for o in monty.run(program, calls, PATIENT)] == [
        1, Failure.ERROR, 2, Failure.MEMORY, large, large, large, Failure.PERMISSION, 1,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "given",
    [
        None, True, False, 0, -1, 10**40, 1.0, -0.0, 0.1, 1e300, 5e-324, float("nan"), float("inf"), float("-inf"), "",
        "a'b\"c\\", "\n\t\0", "ä€😀", b"", b"\xff'", [], [1, [2.0, [True]]], (), (1,), ((), [()]), {},
        {"b": 1, "a": (2,)}, {1: "x", (1, 2): None}, set(), {1, "a", (2,)},
        "{a}%r%%'\"\\", "set()", ["float('nan')", float("nan")], "\u2028\x7f\u202e", [{(): b"'"}], -(10**190),
    ],
)  # fmt: skip
def test_values_cross_with_their_types(sandbox: Sandbox, given: Any) -> None:
    assert canonical(value(sandbox, "def f(a): return a", given)) == canonical(given)


def test_a_dicts_order_crosses(sandbox: Sandbox) -> None:
    assert value(sandbox, "def f(a): return list(a)", {"b": 1, "a": 2}) == ["b", "a"]
    assert list(value(sandbox, "def f(a): return {'b': 1, 'a': a}", 2)) == ["b", "a"]


@pytest.mark.parametrize(
    "result",
    [
        "range(3)",
        "f",
        "frozenset([1])",
        "1j",
        "...",
        "type",
        "{1: 2}.keys()",
        "iter([1])",
        "'x' * 201",
        "10**301",
        "[f]",
    ],
)
def test_what_is_no_literal_is_not_taken_for_one(sandbox: Sandbox, result: str) -> None:
    assert failure(sandbox, f"def f(a): return {result}") is Failure.NOT_LITERAL


@pytest.mark.parametrize("given", [object(), frozenset(), range(3), "x" * 201, "\ud800", [[]] * 200])
def test_arguments_are_literals(sandbox: Sandbox, given: Any) -> None:
    assert sandbox.run("def f(a): return 1", [(given,)])[0].failure is Failure.NOT_LITERAL


def test_seeds_are_of_random(sandbox: Sandbox) -> None:
    program = "import random\ndef f(a): return [random.random(), random.randint(0, a)]"
    first, again, other = (value(sandbox, program, 10**6, seed=seed) for seed in (3, 3, 4))
    assert first == again != other


def test_cpython_hashes_by_the_seed() -> None:
    program = "def f(a): return [hash(a), list(set(a))]"
    made = sandbox_here("cpython")
    first, again, other = (value(made, program, "abcdefgh", seed=seed) for seed in (0, 0, 1))
    made.close()
    assert first == again != other


def test_montys_clock_stands_still_and_depends_on_the_seed(monty: MontySandbox) -> None:
    program = "import time\ndef f(a):\n    t = time.time()\n    time.sleep(100)\n    return [t, time.time() - t]"
    assert value(monty, program, 1) == [1767225600.0, 0.0]  # 2026-01-01
    assert value(monty, program, 1, seed=2) == [1767225600.0 + 2 * 86400, 0.0]


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("def f(a): yield a", Failure.UNSUPPORTED),
        ("class A(dict): pass\ndef f(a): return 1", Failure.UNSUPPORTED),
        ("import heapq\ndef f(a): return 1", Failure.UNSUPPORTED),
        ("from collections import OrderedDict\ndef f(a): return 1", Failure.UNSUPPORTED),
        ("import functools\ndef f(a): return functools.cmp_to_key(f)", Failure.UNSUPPORTED),
        ("def f(a): return len(bytearray(3))", Failure.UNSUPPORTED),
        ("def f(a): return a.bit_length()", Failure.UNSUPPORTED),
        ("def f(a): return int.__mro__", Failure.UNSUPPORTED),
        ("def f(a): return [object()]", Failure.UNSUPPORTED),
        # The program's own fault, which CPython tells too
        ("import nothing_of_that_name\ndef f(a): return 1", Failure.ERROR),
        ("def f(a): return undefined", Failure.ERROR),
        ("def f(a): return a.undefined", Failure.ERROR),
        ("def f(a): return 'x'.undefined()", Failure.ERROR),
        ("def f(a): raise NotImplementedError('yet')", Failure.ERROR),
        ("def f(a): raise TimeoutError('late')", Failure.ERROR),
        ("def f(a, b): return a", Failure.ERROR),
        ("def g(a): return a", Failure.ERROR),
        ("def f(a): assert a == 2", Failure.ERROR),
        ("def f(a): return str(10**5000)", Failure.ERROR),
        ("def f(a) return a", Failure.SYNTAX),
        ("def f(a): return '\ud800'", Failure.SYNTAX),
        ("\0", Failure.SYNTAX),
        ("", Failure.ERROR),
    ],
)
def test_monty_tells_what_it_lacks_from_what_a_program_does_wrong(
    monty: MontySandbox, program: str, expected: Failure
) -> None:
    assert failure(monty, program) is expected


def test_what_monty_lacks_cpython_has() -> None:
    made = sandbox_here("cpython")
    program = (
        "import heapq\nclass A(dict):\n    def g(self): yield from self\ndef f(a): return heapq.nsmallest(2, A(a).g())"
    )
    assert value(made, program, {3: 0, 1: 0, 2: 0}) == [1, 2]
    made.close()


def test_limits_are_of_each_call_and_not_of_waiting(sandbox: Sandbox) -> None:
    """16 threads that compute for 0.1 s each on few cores: a call waits longer than its limit, and is not ended."""
    program = "def f(a):\n    n = 0\n    while n < a: n += 1\n    return n"
    rate = 10_000 / max(sandbox.run(program, [(10_000,)], PATIENT)[0].seconds, 1e-4)
    steps = int(0.05 * min(rate, 2e7))
    with ThreadPoolExecutor(16) as threads:
        began = time.monotonic()
        found = list(threads.map(lambda _: sandbox.run(program, [(steps,)], Limits(seconds=2.0)), range(16)))
        wall = time.monotonic() - began
    assert all(o.value == steps for (o,) in found), wall


@pytest.mark.parametrize(
    ("limits", "program", "expected"),
    [
        (Limits(seconds=0.02), "def f(a):\n    while True: pass", Failure.TIME),
        (Limits(seconds=5.0, memory_mib=8), "def f(a): return len('x' * 30_000_000)", Failure.MEMORY),
        (Limits(seconds=5.0, memory_mib=128), "def f(a): return len('x' * 30_000_000)", None),
        (Limits(seconds=5.0, recursion=30), "def f(a): return a and f(a - 1)", Failure.RECURSION),
        (Limits(seconds=5.0, recursion=500), "def f(a): return a and f(a - 1)", None),
    ],
)
def test_each_call_has_its_own_limits(sandbox: Sandbox, limits: Limits, program: str, expected: Failure | None) -> None:
    assert sandbox.run(program, [(100,)], limits)[0].failure is expected


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


@pytest.mark.parametrize("name", ["monty", "cpython"])
def test_a_worker_that_dies_costs_one_call(name: str) -> None:
    before = children()
    made = sandbox_here(name)
    assert value(made, "def f(a): return a", 1) == 1
    workers = children() - before
    assert workers

    def kill() -> None:
        for pid in workers:
            os.killpg(pid, signal.SIGKILL) if name == "cpython" else os.kill(pid, signal.SIGKILL)

    timer = threading.Timer(0.3, kill)
    timer.start()
    (outcome,) = made.run("def f(a):\n    while True: pass", [(1,)], Limits(seconds=20.0))
    assert outcome.failure is Failure.CRASH and outcome.seconds < 10
    assert value(made, "def f(a): return a", 2) == 2
    made.close()
    assert not children() - before


@pytest.mark.parametrize("name", ["monty", "cpython"])
def test_a_worker_that_died_unused_costs_nothing(name: str) -> None:
    before = children()
    made = sandbox_here(name)
    assert value(made, "def f(a): return a", 1) == 1
    for pid in children() - before:
        os.kill(pid, signal.SIGKILL)
    time.sleep(0.2)
    assert value(made, "def f(a): return a", 2) == 2
    made.close()


def test_a_worker_that_dies_before_it_has_a_call_costs_nothing() -> None:
    before = children()
    made = MontySandbox()
    assert value(made, "def f(a): return a", 1) == 1
    (pid,) = children() - before
    os.kill(pid, signal.SIGSTOP)  # it does not answer, until
    timer = threading.Timer(0.2, os.kill, (pid, signal.SIGKILL))
    timer.start()
    assert value(made, "def f(a): return a", 2) == 2
    timer.join()
    made.close()


def test_time_in_which_a_worker_could_not_compute_does_not_count() -> None:
    before = children()
    made = MontySandbox()
    program = "def f(a):\n    n = 0\n    while n < a: n += 1\n    return n"
    assert value(made, program, 10) == 10
    (pid,) = children() - before
    timers = [threading.Timer(at, os.kill, (pid, s)) for at, s in ((0.01, signal.SIGSTOP), (0.6, signal.SIGCONT))]
    for timer in timers:
        timer.start()
    (outcome,) = made.run(program, [(300_000,)], Limits(seconds=0.4))
    for timer in timers:
        timer.join()
    made.close()
    assert outcome.value == 300_000 and outcome.seconds < 0.2


def test_a_closed_sandbox_starts_again(sandbox: Sandbox) -> None:
    sandbox.close()
    sandbox.close()
    assert value(sandbox, "def f(a): return a", 1) == 1


def test_monty_prints_to_nobody(monty: MontySandbox, capfd: pytest.CaptureFixture[str]) -> None:
    assert value(monty, "def f(a):\n    print('hello')\n    return a", 1) == 1
    assert capfd.readouterr() == ("", "")


def test_a_sandbox_of_ones_own() -> None:
    with pytest.raises(UserError, match=r"^task\.options\.sandbox=docker: unknown; give one of cpython, monty, or the"):
        sandbox_of("docker")
    with pytest.raises(UserError, match=r"Outcome\(\) fails|lacks run, close of the Sandbox protocol"):
        sandbox_of("azero.sandbox:Outcome")
    assert isinstance(sandbox_of("azero.sandbox.monty:MontySandbox"), MontySandbox)
    assert Outcome().failure is None


def test_cpython_is_refused_where_there_is_no_bubblewrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpython, "found_bwrap", lambda: "")
    with pytest.raises(UserError, match=r"^task\.options\.sandbox=cpython: there is no bwrap .* give monty where") as e:
        sandbox_of("cpython")
    assert "\n" not in str(e.value)


def test_cpython_is_refused_where_bubblewrap_cannot_isolate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bwrap = tmp_path / "bwrap"
    bwrap.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    bwrap.chmod(bwrap.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(cpython, "found_bwrap", lambda: str(bwrap))
    with pytest.raises(
        UserError, match=r"^task\.options\.sandbox=cpython: .*No permissions to create.*give monty"
    ) as e:
        sandbox_of("cpython")
    assert "\n" not in str(e.value)


def test_cpython_is_refused_on_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpython.platform, "machine", lambda: "aarch64")
    with pytest.raises(UserError, match=r"this machine is linux on aarch64; it needs user namespaces on x86-64 Linux"):
        sandbox_of("cpython")
