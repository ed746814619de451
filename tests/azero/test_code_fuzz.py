"""Any text gets a verdict, in bounded time: what models write, and what they might."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial

import pytest
from forms import Programs
from helpers import edited
from timing import timed

from azero.domains import get_domain
from azero.types import Problem, ProposalRequest, Verdict

DOMAIN = get_domain("code", {"seconds": 0.2})
FORMS = Programs()
WORST_SECONDS = 5.0  # of one text: some run out of time

HOSTILE = (
    *("(" * 10_000, "[" * 30_000, "9" * 30_000, "-" * 30_000, "\0" * 999, "\n" * 50_000, " " * 50_000, "\ud800", "٣"),
    *("```" * 20_000, "```python\n" * 9_000, "```input\n```\n" * 9_000, "f(1)\n" * 9_000, "# x\n" * 9_000),
    *("assert f(1) == 2\n" * 2_000, "def f(a): return a\n" * 2_000, "assert " + "f(" * 5_000),
    "assert f(" + "1," * 20_000,
    *("'" * 9_999, '"""' * 5_000, "\\" * 9_999, "if a:" * 5_000, "lambda: " * 2_000, "f'{" * 3_000, "a" * 50_000),
    "def f(a): return 9 ** 9 ** 9\nassert f(1) == 1",
    "def f(a): return 'x' * 10 ** 10 + a\nassert f('') == 1",
    "def f(a): return [0] * 10 ** 9 + a\nassert f([]) == 1",
    "def f(a): return f(a)\nassert f(1) == 1",
    "def f(a):\n    while a: pass\n    return a\nassert f(1) == 1",
    "def f(a):\n    try:\n        while a: pass\n    except: return a\nassert f(1) == 1",
    "def f(a): return a.__class__.__base__.__subclasses__()\nassert f(1) == 1",
    "def f(a): return __import__('os').system('true') + a\nassert f(1) == 1",
    "def f(a): return sorted(range(10 ** 9))[a]\nassert f(1) == 1",
)  # fmt: skip
FRAGMENTS = (
    *"()[]{}:,.=+-*/%'\"#\n \t\0\\",
    *(
        "def ",
        "return ",
        "f(",
        "assert ",
        " == ",
        "\n\n",
        "\n    ",
        "lambda x: ",
        "while True: ",
        "for x in a: ",
        "```",
    ),
    *("```python\n", "```input\n", "10**9", "1e999", "nan", "None", "import os\n", "\ud800", "f(f(", "'" * 3, "# "),
)


def texts(rng: random.Random, number: int) -> Iterator[str]:
    """Proposals and answers some edits away from well formed ones, and characters at random."""
    seeds = DOMAIN.seeds()
    for _ in range(number):
        problem = rng.choice(seeds)
        raw, chat = FORMS.answers(problem)
        text = rng.choice([*FORMS.proposals(problem), *raw, chat])
        for _ in range(rng.randrange(6)):
            text = edited(rng, text, FRAGMENTS)
        if rng.random() < 0.2:
            text = "".join(chr(rng.randrange(256)) for _ in range(rng.randrange(200)))
        yield text


def play(text: str, problems: list[Problem]) -> float:
    """Seconds of the slowest call."""
    slowest = 0.0
    for problem in problems:
        task = problem.cell.task
        for given in (None, problem) if task == "induction" else (None,):
            asked = ProposalRequest(cell=problem.cell, references=(), given=given)
            read = partial(DOMAIN.read, text, asked, True, 0)
            outcome, seconds = timed(read, WORST_SECONDS)
            slowest = max(slowest, seconds)
            assert (outcome.verdict is Verdict.VALID) == (outcome.problem is not None) == (not outcome.reason)
            if outcome.problem is not None:
                asked = ProposalRequest(cell=problem.cell, references=())
                again = DOMAIN.read(outcome.problem.statement, asked, True, 0).problem
                assert again is not None and again.canonical == outcome.problem.canonical, outcome.problem
        for chat in (False, True):
            judge = partial(DOMAIN.judge, text, problem, chat)
            judgement, seconds = timed(judge, WORST_SECONDS)
            slowest = max(slowest, seconds)
            assert judgement.verdict in (Verdict.RIGHT, Verdict.WRONG, Verdict.MALFORMED)
    return slowest


def problems() -> list[Problem]:
    DOMAIN.is_evaluation("")  # draws the evaluation sets
    return list({p.cell.task: p for p in DOMAIN.seeds()}.values())


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:24]))
def test_hostile_texts(text: str) -> None:
    assert play(text, problems()) < WORST_SECONDS
    assert play(f"```python\n{text}\n```\n```input\n{text}\n```\n```output\n{text}\n```", problems()) < WORST_SECONDS


def test_mutated_texts() -> None:
    some = problems()
    assert max(play(text, some) for text in texts(random.Random(0), 300)) < WORST_SECONDS


@pytest.mark.long
def test_many_mutated_texts() -> None:
    some = problems()
    assert max(play(text, some) for text in texts(random.Random(1), 10_000)) < WORST_SECONDS
