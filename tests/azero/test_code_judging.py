"""Verdicts on solutions of the three tasks, in both protocols."""

from __future__ import annotations

from dataclasses import replace

import pytest
from helpers import completion

from azero.domains import get_domain
from azero.domains.base import judged
from azero.types import Cell, Problem, ProposalRequest, Role, Verdict

DOMAIN = get_domain("code")
WHOLE = get_domain("code", {"one_line": False})
R, W, M = Verdict.RIGHT, Verdict.WRONG, Verdict.MALFORMED
TWICE = "def f(a): return a * 2"


def made(task: str, text: str) -> Problem:
    problem = DOMAIN.read(text, ProposalRequest(cell=Cell(task=task, tier="small"), references=()), False, 0).problem
    assert problem is not None
    return problem


SLICE = made("deduction", "def f(a): return a[1:] + [True]\nassert f([4, 2, 7]) == 0")
REMAINDER = made("abduction", "def f(a, b): return [a % 5, b]\nassert 0 == f(8, 'x')")
MORE = made("induction", "def f(a): return a * 2 + 1\nf(3)\nf(0)\nf(-5)\nf(12)\n# twice and one")


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        (" [2, 7, True]", R),
        ("[2,7,True]", R),
        (" [2, 7, True]\nassert f([1]) == [True]", R),
        (" [2, 7, True]  # so", R),
        (" [2, 7, 1]", W),
        (" (2, 7, True)", W),
        (" [2.0, 7, True]", W),
        (" '[2, 7, True]'", W),
        (" [7, 2, True]", W),
        ("", M),
        ("\n[2, 7, True]", M),
        (" [2, 7, True", M),
        (" [4, 2, 7][1:] + [True]", M),  # a computation is no literal
        (" list((2, 7, True))", M),
        (" __import__('os').abort()", M),
        ("[" * 3000, M),
        ("9" * 30_000, M),
    ],
)
def test_deduction(text: str, verdict: Verdict) -> None:
    assert DOMAIN.judge(text, SLICE, False).verdict is verdict


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("8, 'x')", R),
        ("3, 'x')", R),
        ("-2, 'x')\n", R),
        ("8.0, 'x')", W),  # 3.0 is not 3
        ("9, 'x')", W),
        ("8, 'y')", W),
        ("8)", W),  # too few
        ("8, 'x', 1)", W),
        ("'8', 'x')", W),  # an error in the sandbox
        ("", M),
        (")", W),
        ("8, 'x'", M),  # the parenthesis is missing: it may go on
        ("8, x)", M),
        ("b='x', a=8)", M),
        ("*[8, 'x'])", M),
        ("8, 'x') == f(8, 'x')", M),
        ("8, 'x')(1)", M),
    ],
)
def test_abduction(text: str, verdict: Verdict) -> None:
    assert DOMAIN.judge(text, REMAINDER, False).verdict is verdict


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        (" a * 2 + 1", R),
        (" a + a + 1\n", R),
        (" sum([a, a, 1])", R),
        (" a * 2", W),
        (" {3: 7, 0: 1}[a]", W),  # the shown pairs and no others
        (" {3: 7, 0: 1}.get(a, 25)", W),
        (" 7 if a == 3 else 1", W),
        (" a * 2.0 + 1", W),
        (" a / 0", W),
        (" open('/etc/passwd').read()", W),
        ("", M),
        ("  \n", M),
        (" a *", M),
        (" a)(", M),
        ("\n    return a * 2 + 1", M),  # in one line
        (" " + "-" * 3000 + "a", M),
    ],
)
def test_induction(text: str, verdict: Verdict) -> None:
    assert DOMAIN.judge(text, MORE, False).verdict is verdict


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("\n    b = a * 2\n    return b + 1\n\nassert f(1) == 9", R),
        (" return a * 2 + 1", R),
        ("\n    b = a\n\n    return b * 2 + 1", W),  # nothing is read after the blank line
        ("\n    return a", W),
        ("\n  return a\n return b", M),
        ("", M),
    ],
)
def test_induction_of_several_lines(text: str, verdict: Verdict) -> None:
    assert WHOLE.pose(MORE, None).endswith("assert f(0) == 1\ndef f(a):")
    assert WHOLE.judge(text, MORE, False).verdict is verdict


def test_what_ends_a_raw_completion() -> None:
    for domain, end in ((DOMAIN, "\n"), (WHOLE, "\n\n")):
        assert domain.stops[Role.SOLVER, "induction"] == (end,)  # type: ignore[attr-defined]
        for task in ("deduction", "abduction"):
            assert domain.stops[Role.SOLVER, task] == ("\n",)  # type: ignore[attr-defined]
            assert domain.stops[Role.PROPOSER, task] == ("\n\n",)  # type: ignore[attr-defined]


def test_in_chat_the_last_block_of_its_kind_counts() -> None:
    assert DOMAIN.judge("```output\n[2, 7, True]\n```", SLICE, True).verdict is R
    assert (
        DOMAIN.judge("```output\n[]\n```\nNo:\n```output\n[2, 7, True]\n```\n```python\nx\n```", SLICE, True).verdict
        is R
    )
    assert DOMAIN.judge("```output\n[2, 7, True]\n```\n```output\n[]\n```", SLICE, True).verdict is W
    assert DOMAIN.judge("```output\n[2, 7, True]\n", SLICE, True).verdict is M  # is not closed
    assert DOMAIN.judge("```python\n[2, 7, True]\n```", SLICE, True).verdict is M
    assert DOMAIN.judge("[2, 7, True]", SLICE, True).verdict is M
    assert DOMAIN.judge("```input\n13, 'x'\n```", REMAINDER, True).verdict is R
    program = "def twice(n):\n    return n + n\n\ndef f(n):\n    return twice(n) + 1"
    assert DOMAIN.judge(f"Think.\n```py\n{program}\n```", MORE, True).verdict is R
    assert DOMAIN.judge("```python\ndef g(n): return 2 * n + 1\n```", MORE, True).verdict is M  # no f
    assert DOMAIN.judge("```python\ndef f(n): return 7 if n == 3 else 1\n```", MORE, True).verdict is W


def test_a_completion_that_was_cut_is_malformed() -> None:
    for problem, text in ((SLICE, " [2, 7, True] "), (REMAINDER, "8, 'x') "), (MORE, " a * 2 + 1 +")):
        whole = replace(completion(), text=text.removesuffix("+"))
        assert judged(DOMAIN, whole, problem, False) is R
        cut = replace(whole, finish_reason="length", text=text)
        assert judged(DOMAIN, cut, problem, False) is judged(DOMAIN, cut, problem, True) is M


@pytest.mark.parametrize(
    ("problem", "text", "judgement"),
    [
        (SLICE, "[2, 7, True]", (R, "")),
        (SLICE, "[2, 7, 1]", (W, "")),  # another value
        (SLICE, "list((2, 7, True))", (M, "not_literal")),
        (SLICE, "", (M, "unparseable")),
        (REMAINDER, "9, 'x')", (W, "")),
        (REMAINDER, "'8', 'x')", (W, "raises")),
        (REMAINDER, "8, 'x'", (M, "unparseable")),
        (MORE, " a * 2", (W, "")),
        (MORE, " {3: 7, 0: 1}[a]", (W, "raises")),
        (MORE, " open('/etc/passwd').read()", (W, "permission")),
        (MORE, " f(a)", (W, "recursion_limit")),
        (MORE, " [0] * 10**9", (W, "memory_limit")),
        (MORE, " [i for i in range(10**12) if i < 0]", (W, "time_limit")),
        (MORE, " lambda: a", (W, "not_literal")),
        (MORE, " (yield a)", (W, "unsupported")),
        (MORE, " a *", (M, "unparseable")),
        (MORE, " a + 1; f = abs" + " + a" * 200, (M, "program_size")),
    ],
)
def test_a_reason_tells_wrong_answers_apart(problem: Problem, text: str, judgement: tuple[Verdict, str]) -> None:
    found = DOMAIN.judge(text, problem, False)
    assert (found.verdict, found.reason) == judgement


def test_any_input_that_gives_the_value_is_right_and_limits_hold() -> None:
    halved = made("abduction", "def f(a):\n    while a > 9:\n        a = a - 3\n    return [a]\nassert 0 == f(10)")
    assert halved.payload["output"] == "[7]"
    assert DOMAIN.judge("16)", halved, False).verdict is DOMAIN.judge("7)", halved, False).verdict is R
    quick = get_domain("code", {"seconds": 0.05})
    assert quick.judge(f"{10**12})", halved, False).verdict is W  # too many turns
