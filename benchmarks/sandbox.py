"""Judgements of programs a second, on one core, the sandbox's worker with it.

    python benchmarks/sandbox.py [--pairs 5] [--seconds 2]

A judgement of a deduction reads an answer and compares; that of an abduction reads an argument list, runs a program on
it and compares; that of an induction runs a written program on three hidden inputs and compares. `all` takes them in
turns. Beside it stands what most do: a fresh CPython process a program, which isolates nothing.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from azero.sandbox import Limits, Outcome, Sandbox, sandbox_of
from azero.sandbox.literals import canonical, read_arguments, read_value, write

KINDS = ("deduction", "abduction", "induction", "all")
PATIENT = Limits(seconds=60.0)  # a core that others use too would otherwise be measured as programs that fail

PROGRAMS = (  # and a right argument list with its value
    ("def f(a): return sorted(a)[1:]", "[3, 1, 2]", "[2, 3]"),
    ("def f(a, b): return a * 2 + b", "3, 4", "10"),
    ("def f(a): return a[::-1].upper()", "'hello'", "'OLLEH'"),
    ("def f(a): return sum(x for x in a if x % 2 == 0)", "[1, 2, 3, 4]", "6"),
    ("def f(a):\n    seen = {}\n    for x in a:\n        seen[x] = seen.get(x, 0) + 1\n    return seen", "'abca'",
     "{'a': 2, 'b': 1, 'c': 1}"),
)  # fmt: skip


class Processes:
    """A CPython process a program, which makes all calls of it one after the other."""

    def run(
        self, program: str, calls: Sequence[Sequence[Any]], limits: Limits | None = None, seed: int = 0
    ) -> list[Outcome]:
        code = program + "".join(f"\nprint(repr(f({', '.join(map(write, arguments))})))" for arguments in calls)
        done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
        return [Outcome(value=read_value(line)) for line in done.stdout.splitlines()]

    def close(self) -> None: ...


def judged(sandbox: Sandbox, kind: str, program: str, arguments: str, output: str) -> bool:
    """One judgement, of a right answer."""
    expected = canonical(read_value(output))
    if kind == "deduction":
        return canonical(read_value(output)) == expected
    calls = [read_arguments(arguments)] * (1 if kind == "abduction" else 3)
    return all(canonical(o.value) == expected for o in sandbox.run(program, calls, PATIENT))


def judgements(sandbox: str, kind: str, seconds: float = 2.0) -> dict[str, float]:
    """Judgements a second of this process and all that it starts, on the first core that it may use."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    made = Processes() if sandbox == "processes" else sandbox_of(sandbox)
    kinds = KINDS[:-1] if kind == "all" else (kind,)
    work = itertools.cycle([(k, *p) for p in PROGRAMS for k in kinds])
    assert all(judged(made, *next(work)) for _ in range(15))  # the first start a worker
    number, began = 0, time.perf_counter()
    while number % 15 or time.perf_counter() - began < seconds:
        assert judged(made, *next(work))
        number += 1
    rate = number / (time.perf_counter() - began)
    made.close()
    return {"judgements_per_s": rate}


def median(rates: Sequence[float]) -> str:
    return f"{statistics.median(rates):9,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    given = parser.parse_args()
    measure: Callable[[str, str], float] = lambda s, k: judgements(s, k, given.seconds)["judgements_per_s"]  # noqa: E731
    print(f"judgements a second on one core, median of {given.pairs} (range)")
    for kind in KINDS:
        pairs = [(measure("monty", kind), measure("processes", kind)) for _ in range(given.pairs)]
        ours, theirs = zip(*pairs)
        print(f"{kind:10s} monty {median(ours)}   a process a program {median(theirs)}", flush=True)


if __name__ == "__main__":
    main()
