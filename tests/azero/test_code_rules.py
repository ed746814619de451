"""What a proposal has to keep: each rule with its named reason."""

from __future__ import annotations

import pytest

from azero.domains import get_domain
from azero.domains.base import Proposal
from azero.domains.code.programs import Reason
from azero.errors import UserError
from azero.types import Cell, Problem, ProposalRequest, Verdict

DOMAIN = get_domain("code", {"seconds": 2.0})
PLUS = "def f(a): return a + 4"


def read(
    task: str, text: str, given: str = "", references: tuple[Problem, ...] = (), exclude: bool = False
) -> Proposal:
    about = next((p for p in DOMAIN.seeds() if p.payload["program"] == given), None)
    assert bool(about) == bool(given)
    cell = Cell(task=task, tier="small")
    return DOMAIN.read(text, ProposalRequest(cell=cell, references=references, given=about), exclude, 3)


def valid(task: str, text: str, given: str = "") -> Problem:
    outcome = read(task, text, given)
    assert outcome.problem is not None, outcome.reason
    return outcome.problem


def of(program: str, given: str = "3", output: str = "0") -> str:
    return f"{program}\nassert f({given}) == {output}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", Reason.UNPARSEABLE),
        ("what is it", Reason.UNPARSEABLE),
        ("def f(a): return a + 1", Reason.UNPARSEABLE),  # no input
        ("assert f(3) == 4", Reason.UNPARSEABLE),  # no program
        ("def f(a): return a + 1\nassert g(3) == 4", Reason.UNPARSEABLE),
        ("def f(a): return a + 1\nassert f(3)", Reason.UNPARSEABLE),
        ("def f(a): return a + 1\nassert 4 == f(3)", Reason.UNPARSEABLE),  # abduction's form
        ("def f(a): return a + 1\n\nassert f(3) == 4", Reason.UNPARSEABLE),  # after the blank line nothing is read
        (of("def f(a) return a"), Reason.UNPARSEABLE),
        # Python cannot spell these strings inside an f-string once they are read
        (of("def f(a): return f\"{'\u200b'.join(a)}\"", "'ab'"), Reason.UNPARSEABLE),
        (of(PLUS, "f\"{'\u2028'}\""), Reason.UNPARSEABLE),
        (of("def g(a): return a + 1"), Reason.NO_FUNCTION),
        (of("def f(a): return a + 1\ndef f(a): return a + 2"), Reason.NO_FUNCTION),
        (of("def f(a): return a + 1\nf = abs"), Reason.NO_FUNCTION),
        (of("from math import floor as f\ndef f(a): return a + 1"), Reason.NO_FUNCTION),
        (of("async def f(a): return a + 1"), Reason.NO_FUNCTION),
        (of("def f(f): return f + 1"), Reason.NO_FUNCTION),  # else "def f(a): return a + 1" under another name
        (of("def f(a): return " + "+".join("a" * 150)), Reason.SIZE),
        (of("def f(a): return a + 1\nassert f(1) == 2"), Reason.TOP_LEVEL),
        (of("for i in []: pass\ndef f(a): return a + 1"), Reason.TOP_LEVEL),
        (of("def f(): return 1", ""), Reason.SIGNATURE),
        (of("def f(*a): return a"), Reason.SIGNATURE),
        (of("def f(a, b=1): return a + b"), Reason.SIGNATURE),
        (of("def f(a, *, b): return a + b"), Reason.SIGNATURE),
        (of("def f(a): a + 1"), Reason.NO_VALUE),
        (of("def f(a):\n    def g():\n        return a\n    g()"), Reason.NO_VALUE),
        (of("import os\ndef f(a): return os.getpid() + a"), Reason.IMPORT),
        (of("from random import random\ndef f(a): return a * random()"), Reason.IMPORT),
        (of("def f(a):\n    import time\n    return a + time.time()"), Reason.IMPORT),
        (of("from . import x\ndef f(a): return a + x"), Reason.IMPORT),
        (of("def f(a): return eval(a)"), Reason.NAME),
        (of("def f(a): return hash(a)"), Reason.NAME),
        (of("def f(a): return a.__class__"), Reason.NAME),
        (of("x = 0\ndef f(a):\n    global x\n    x += a\n    return x"), Reason.NAME),
        (of("def f(a, b): return a + 1", "3, 4"), Reason.UNUSED),
        (of("def f(a):\n    a = 7\n    return 8"), Reason.UNUSED),
        (of(PLUS, "x"), Reason.INPUT),
        (of(PLUS, "3, 4"), Reason.INPUT),
        (of(PLUS, "open('x')"), Reason.INPUT),
        (of("def f(a): return range(a)"), Reason.NOT_LITERAL),
        (of("def f(a):\n    yield a\n    return a"), Reason.UNSUPPORTED),
        (of("def f(a): return a / 0"), Reason.RAISES),
        (of("def f(a): return a[7]", "[1]"), Reason.RAISES),
        (of("def f(a):\n    while True:\n        a += 1\n    return a"), Reason.TIME),
        (of("def f(a): return len('x' * 10**8) + a"), Reason.MEMORY),
        (of("def f(a): return f(a + 1)"), Reason.RECURSION),
        (of("def f(a): return a ** 2000", "33"), Reason.NOT_LITERAL),
        (of("def f(a): return 'x' * a", "250"), Reason.NOT_LITERAL),
        (of("def f(a): return len", "a"), Reason.UNUSED),
        (of("def f(a): return len if a else a"), Reason.NOT_LITERAL),
        (of("def f(a): return a * 0 + 5"), Reason.CONSTANT),
        (of("def f(a): return len([a])"), Reason.CONSTANT),
        (of("def f(a): return 7 if a == a else a"), Reason.CONSTANT),
        (of("def f(a): return a"), Reason.IDENTITY),
        (of("def f(a): return a + 0"), Reason.IDENTITY),
        (of("def f(a): return a[:]", "[1, 2]"), Reason.IDENTITY),
        (of("def f(a, b): return a if b else a", "3, 'x'"), Reason.IDENTITY),
        (of("def f(a): return 7 if a == 3 else a + 1"), Reason.ANSWER_SHOWN),
        (of("def f(a): return {3: 7}.get(a, a + 2)"), Reason.ANSWER_SHOWN),
    ],
)
def test_what_deduction_rejects(text: str, reason: Reason) -> None:
    outcome = read("deduction", text)
    assert outcome.reason == reason and outcome.problem is None
    assert outcome.verdict is (Verdict.UNPARSEABLE if reason is Reason.UNPARSEABLE else Verdict.REJECTED)


@pytest.mark.parametrize(
    ("program", "given", "reason"),
    [
        ("def f(a): return max(a, 2)", "9", Reason.ANSWER_SHOWN),  # the output is the input
        ("def f(a): return a[::-1]", "'abba'", Reason.ANSWER_SHOWN),
        ("def f(a): return sorted(a)", "[3, 1]", Reason.ANSWER_SHOWN),  # the output gives itself
        ("def f(a): return a.upper()", "'ab'", Reason.ANSWER_SHOWN),
        ("def f(a, b): return (a, b) if a < b else (b, a)", "3, 4", Reason.ANSWER_SHOWN),
        ("def f(a, b): return a if a > b else a + b", "5, 3", Reason.ANSWER_SHOWN),  # one of the arguments
        ("def f(a): return 5 + a - a", "3", Reason.CONSTANT),
    ],
)
def test_what_abduction_rejects(program: str, given: str, reason: Reason) -> None:
    assert read("abduction", f"{program}\nassert 0 == f({given})").reason == reason


def test_abduction_takes_what_deduction_would_not() -> None:
    assert valid("abduction", "def f(a): return 7 if a == 3 else a + 1\nassert 0 == f(3)").payload["output"] == "7"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("f(1)\nf(2)\nf(3)\nf(4)", Reason.NO_MESSAGE),
        ("f(1)\nf(2)\nf(3)\nf(4)\n#", Reason.NO_MESSAGE),
        ("f(1)\nf(2)\nf(3)\nf(4)\n# " + "so " * 100, Reason.NO_MESSAGE),  # too long
        ("f(1)\nf(2)\nf(3)\n# four more", Reason.FEW_INPUTS),
        ("f(1)\nf(2)\nf(2)\nf(1)\n# four more", Reason.FEW_INPUTS),
        ("f(1)\nf(2)\nf(x)\nf(4)\n# four more", Reason.INPUT),
        ("f(1)\nf(2)\nf(3, 3)\nf(4)\n# four more", Reason.INPUT),
        ("f(1)\nf(2)\nf('a')\nf(4)\n# four more", Reason.RAISES),
        ("# four more\nf(1)\nf(2)\nf(3)\nf(4)", Reason.UNPARSEABLE),
        ("def f(a): return a\nf(1)\nf(2)\nf(3)\nf(4)\n# x", Reason.UNPARSEABLE),  # the program is given
        ("", Reason.UNPARSEABLE),
        ("f(1)\nf(2)\nf(3)\nf(4)\n# it is def f(a): return a + 4", Reason.MESSAGE_SHOWS_PROGRAM),
        ("f(1)\nf(2)\nf(3)\nf(4)\n# DEF F ( A ) : RETURN A+4", Reason.MESSAGE_SHOWS_PROGRAM),
        ("f(1)\nf(2)\nf(3)\nf(4)\n# gives A  +4", Reason.MESSAGE_SHOWS_PROGRAM),
        ("f(1)\nf(2)\nf(3)\nf(4)\n# f(3) is 7 and f( 4 ) is 8", Reason.MESSAGE_SHOWS_PROGRAM),
        ("f(1)\nf(2)\nf(3)\nf(4)\n# lambda x: x+4", Reason.MESSAGE_SHOWS_PROGRAM),
        ("f(1)\nf(2)\nf(3)\nf(4)\n# a ＋ 4", Reason.MESSAGE_SHOWS_PROGRAM),
        ("f(1)\nf(2)\nf(3)\nf(4)\n# {3: 7, 4: 8}", Reason.MESSAGE_SHOWS_PROGRAM),  # the hidden pairs
    ],
)
def test_what_induction_rejects(text: str, reason: Reason) -> None:
    assert read("induction", text, PLUS).reason == reason


def test_arguments_may_be_as_long_as_literals_each() -> None:
    longest, half = repr("x" * 198), repr("y" * 150)
    for task, form in (("deduction", "assert f({}) == 0"), ("abduction", "assert 0 == f({})")):
        assert valid(task, f"def f(a): return a[3:90]\n{form.format(longest)}").payload["arguments"] == longest
        both = f"{half}, {half}"
        assert valid(task, f"def f(a, b): return len(a) + len(b)\n{form.format(both)}").payload["arguments"] == both
    inputs = "\n".join(f"f({half}, {half[: 9 + i]}')" for i in range(4))
    assert valid("induction", f"def f(a, b): return len(a) + len(b)\n{inputs}\n# both sizes").payload["message"]


@pytest.mark.parametrize(
    "message", ["for 3 it is 7", "plus 4", "4 more than the well-known 3, 7 and 1 + 4", "a plus 4"]
)
def test_messages_that_tell_no_program_and_not_every_hidden_pair(message: str) -> None:
    assert valid("induction", f"f(1)\nf(2)\nf(3)\nf(5)\n# {message}", PLUS).payload["message"] == message


def test_induction_rejects_equal_outputs_and_copies() -> None:
    assert read("induction", "def f(a): return a > 9\nf(1)\nf(2)\nf(3)\nf(4)\n# large").reason == Reason.CONSTANT
    assert read("induction", "def f(a): return max(a, 0)\nf(1)\nf(2)\nf(3)\nf(4)\n# x").reason == Reason.IDENTITY


def test_what_differs_between_runs_is_rejected() -> None:
    """Monty has one order of sets and a clock that stands still; its random module differs by the seed alone."""
    domain = get_domain("code", {"sandbox": "code_sandboxes:Drifting"})
    cell = Cell(task="deduction", tier="small")
    outcome = domain.read(of(PLUS), ProposalRequest(cell=cell, references=()), False, 0)
    assert outcome.reason == Reason.NOT_DETERMINISTIC


def test_repeats_and_evaluation_problems_are_known_under_other_names() -> None:
    earlier = valid("deduction", of("def f(a): return a + 5"))
    renamed = of("def f(number):  # plus five\n    return number+5")
    assert read("deduction", renamed, references=(earlier,)).reason == Reason.REPEATS_REFERENCE
    assert read("deduction", of("def f(a): return a + 5", "9"), references=(earlier,)).verdict is Verdict.VALID
    item = DOMAIN.evaluation("test")[0].problem
    hidden = item.statement.replace("def f(a)", "def f(value)").replace("return a + a", "return value + value")
    assert hidden != item.statement
    assert read("deduction", hidden, exclude=True).verdict is Verdict.EXCLUDED
    assert read("deduction", hidden).verdict is Verdict.VALID


def test_a_proposed_output_is_not_believed() -> None:
    problem = valid("deduction", of(PLUS, "3", "'anything'"))
    assert (problem.answer, problem.statement) == ("7", f"{PLUS}\nassert f(3) == 7")


def test_what_a_problem_of_induction_holds() -> None:
    problem = valid("induction", "f(1)\nf(20)\nf(300)\nf(-4)\nf(5)\n#  four   more", PLUS)
    assert problem.statement == f"{PLUS}\nf(1)\nf(20)\nf(300)\nf(-4)\n# four more"  # four inputs are asked for
    assert problem.payload == {
        "program": PLUS,
        "parameters": 1,
        "message": "four more",
        "shown": [["1", "5"], ["20", "24"]],
        "hidden": [["300", "304"], ["-4", "0"]],
    }
    turned = valid("induction", "f(-4)\nf(300)\nf(20)\nf(1)\n# more by 4", PLUS)
    assert turned.canonical == problem.canonical and turned.id != problem.id


def test_the_tier_goes_by_what_runs() -> None:
    dead = "def f(a):\n    if a < 0:\n        a = a * 2 + a * 3 - a * 4\n    return a + 1"
    assert valid("deduction", of(dead)).cell.tier == "medium"
    assert valid("deduction", of(dead, "-3")).cell.tier == "large"
    assert valid("deduction", of("def f(a): return a + 1")).cell.tier == "small"


def test_options_are_used() -> None:
    domain = get_domain("code", {"inputs": 6, "tiers": [4, 5, 30], "characters": 60})
    by_task = {p.cell.task: p for p in domain.seeds()}
    assert [len(by_task["induction"].payload[part]) for part in ("shown", "hidden")] == [3, 3]
    cell = Cell(task="deduction", tier="small")
    long = "def f(a): return a + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1"
    request = ProposalRequest(cell=cell, references=())
    assert domain.read(of(long), request, False, 0).reason == Reason.SIZE
    short = domain.read(of("def f(a): return a + 2"), request, False, 0).problem
    assert short is not None and short.cell.tier == "medium"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"size": 3}, "task.options.size: unknown; give some of sandbox, one_line, inputs, tiers"),
        ({"seconds": -1}, "task.options.seconds=-1: must be greater than 0"),
        ({"seconds": "soon"}, "task.options.seconds=soon: must be a number"),
        ({"inputs": 1}, "task.options.inputs=1: must be 2 or more"),
        ({"inputs": 13}, "task.options.inputs=13: must be 12 or less"),
        ({"tiers": [9, 6, 200]}, "task.options.tiers=[9, 6, 200]: must be three numbers that grow"),
        ({"tiers": [6, 9]}, "task.options.tiers=[6, 9]: must be three numbers that grow"),
        ({"sandbox": "none"}, "task.options.sandbox=none: unknown; give one of cpython, monty"),
    ],
)
def test_options_that_are_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(UserError) as error:
        get_domain("code", options).seeds()
    assert str(error.value).startswith(says) and "\n" not in str(error.value)
