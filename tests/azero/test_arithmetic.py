"""The arithmetic domain against tables worked out by hand."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from helpers import problem as stated
from helpers import request
from hypothesis import given
from hypothesis import strategies as st

from azero.domains import get_domain
from azero.domains.arithmetic import SEED_TEXTS, Arithmetic
from azero.domains.expression import (
    CELLS,
    EASY,
    HARD,
    MEDIUM,
    Expression,
    Operation,
    Reason,
    Rejected,
    canonical,
    cell,
    check,
    make_problem,
    parse,
    render,
    structure,
)
from azero.errors import UserError
from azero.types import Cell, Verdict

DOMAIN = Arithmetic()
RIGHT, WRONG, MALFORMED = Verdict.RIGHT, Verdict.WRONG, Verdict.MALFORMED

EXPRESSIONS: st.SearchStrategy[Expression] = st.recursive(
    st.integers(0, 999), lambda part: st.builds(Operation, st.sampled_from("+-*/"), part, part), max_leaves=4
)
OPERATIONS = EXPRESSIONS.filter(lambda e: isinstance(e, Operation))


# Grammar


@pytest.mark.parametrize(
    ("written", "text", "value"),
    [
        ("3+5", "3 + 5", 8),
        ("  3 +\t5  \n", "3 + 5", 8),
        ("Calculate: 3 + 5 = ", "3 + 5", 8),
        ("3 + 5 =", "3 + 5", 8),
        ("((3)) + 5", "3 + 5", 8),
        ("(12-4)*3", "(12 - 4) * 3", 24),
        ("12-(4*3)", "12 - 4 * 3", 0),
        ("2+3*4", "2 + 3 * 4", 14),
        ("20-5-3", "20 - 5 - 3", 12),
        ("20-(5-3)", "20 - (5 - 3)", 18),
        ("24/4/2", "24 / 4 / 2", 3),
        ("24/(4/2)", "24 / (4 / 2)", 12),
        ("3-9", "3 - 9", -6),
        ("(3-9)/2", "(3 - 9) / 2", -3),
        ("0/7", "0 / 7", 0),
        ("999*999+1-0", "999 * 999 + 1 - 0", 998_002),
    ],
)
def test_parse_normalises_and_evaluates(written: str, text: str, value: int) -> None:
    problem = make_problem(written, 7)
    assert (problem.statement, problem.answer, problem.author_version) == (text, str(value), 7)


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("", Reason.UNPARSEABLE),
        ("3 +", Reason.UNPARSEABLE),
        ("+ 3", Reason.UNPARSEABLE),
        ("-3 + 5", Reason.UNPARSEABLE),
        ("3 5", Reason.UNPARSEABLE),
        ("3 + 5 = 8", Reason.UNPARSEABLE),
        ("3 + 5 ==", Reason.UNPARSEABLE),
        ("03 + 5", Reason.UNPARSEABLE),
        ("3.0 + 5", Reason.UNPARSEABLE),
        ("3 ** 5", Reason.UNPARSEABLE),
        ("9 // 3", Reason.UNPARSEABLE),
        ("9 % 3", Reason.UNPARSEABLE),
        ("3 × 5", Reason.UNPARSEABLE),
        ("٣ + ٥", Reason.UNPARSEABLE),
        ("²+3", Reason.UNPARSEABLE),
        ("3\n+ 5", Reason.UNPARSEABLE),
        ("(3 + 5", Reason.UNPARSEABLE),
        ("3 + 5)", Reason.UNPARSEABLE),
        ("()", Reason.UNPARSEABLE),
        ("((((3 + 5))))", Reason.UNPARSEABLE),
        ("3 + 5" + " " * 60 + "+ 1", Reason.UNPARSEABLE),
        ("__import__('os')", Reason.UNPARSEABLE),
        ("8", Reason.NO_OPERATION),
        ("(8)", Reason.NO_OPERATION),
        ("1 + 2 + 3 + 4 + 5", Reason.TOO_MANY_OPERATIONS),
        ("1000 - 1", Reason.OPERAND_BOUNDS),
        ("9" * 40 + " + 1", Reason.OPERAND_BOUNDS),
        ("999 * 999 * 2", Reason.RESULT_BOUNDS),
        ("0 - 999 * 999 - 999 * 2", Reason.TOO_MANY_OPERATIONS),
        ("0 - 999 * 999 * 2", Reason.RESULT_BOUNDS),
        ("999 * 999 * 2 / 2", Reason.RESULT_BOUNDS),  # an intermediate result counts
        ("7 / 2", Reason.DIVISION_INEXACT),
        ("7 / 2 * 2", Reason.DIVISION_INEXACT),
        ("7 / 0", Reason.DIVISION_INEXACT),
        ("7 / (3 - 3)", Reason.DIVISION_INEXACT),
    ],
)
def test_rejected_with_the_named_reason(written: str, reason: Reason) -> None:
    with pytest.raises(Rejected) as rejected:
        make_problem(written, 0)
    assert rejected.value.reason == reason


@given(EXPRESSIONS)
def test_text_and_tree_are_one_to_one(expression: Expression) -> None:
    assert parse(render(expression)) == expression


@given(OPERATIONS)
def test_value_agrees_with_exact_fractions(expression: Expression) -> None:
    def exact(e: Expression) -> Fraction:
        if isinstance(e, int):
            return Fraction(e)
        a, b = exact(e.left), exact(e.right)
        return {"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "/": lambda: a / b}[e.operator]()

    try:
        value = check(expression)
    except Rejected:
        return
    assert exact(expression) == value and abs(value) <= 1_000_000


# Pure functions of a problem


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0 + 0", EASY),
        ("10 * 10", EASY),
        ("3 - 9", EASY),
        ("11 + 0", MEDIUM),
        ("6 / 3", MEDIUM),
        ("20 / 20", MEDIUM),
        ("20 * 20", MEDIUM),
        ("21 + 0", HARD),
        ("0 / 92", HARD),
        ("1 + 1 + 1", HARD),
    ],
)
def test_cell(text: str, expected: Cell) -> None:
    assert cell(parse(text)) is expected


@given(OPERATIONS, st.data())
def test_tier_is_monotone(expression: Expression, data: st.DataObject) -> None:
    def grow(e: Expression) -> Expression:
        if isinstance(e, int):
            return e + data.draw(st.integers(0, 30))
        operator = data.draw(st.sampled_from([e.operator, "/"]))
        return Operation(operator, grow(e.left), grow(e.right))

    level = CELLS.index(cell(expression))
    assert CELLS.index(cell(grow(expression))) >= level
    assert CELLS.index(cell(Operation(data.draw(st.sampled_from("+-*/")), expression, 0))) >= level


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("3 + 5", "5 + 3", True),
        ("3 * 5", "5 * 3", True),
        ("3 - 5", "5 - 3", False),
        ("8 / 4", "4 / 8", False),
        ("3 + 5", "3 * 5", False),
        ("1 + 2 + 3", "3 + (1 + 2)", True),
        ("2 * 3 * 4", "4 * (3 * 2)", True),
        ("1 + 2 * 3", "3 * 2 + 1", True),
        ("(1 + 2) * 3", "1 + 2 * 3", False),
        ("(1 + 2) * 3", "3 * (2 + 1)", True),
        ("9 - (1 + 2)", "9 - (2 + 1)", True),
        ("9 - 1 - 2", "9 - (1 - 2)", False),
        ("1 + 23", "12 + 3", False),
    ],
)
def test_canonical(one: str, other: str, same: bool) -> None:
    assert (canonical(parse(one)) == canonical(parse(other))) is same


def test_canonical_and_structure_are_written_as_documented() -> None:
    assert canonical(parse("5 + 3")) == "+(3,5)"
    assert structure(parse("3 + 5")) == "+:1,1:d1"
    assert structure(parse("(12 - 4) * 3")) == "-*:2,1,1:d2"
    assert structure(parse("2 + 3 * 100")) == "*+:1,1,3:d2"


def test_a_problem_is_a_pure_function_of_its_text() -> None:
    one, other = make_problem("3+5", 1), make_problem("Calculate: 3 + 5 =", 1)
    assert one == other
    assert one.id != make_problem("5 + 3", 1).id and one.canonical == make_problem("5 + 3", 1).canonical


# Prompts and proposals


def test_raw_prompts_are_exact() -> None:
    assert DOMAIN.pose(make_problem("3 + 5", 0), None) == "Calculate: 3 + 5 = "
    assert DOMAIN.ask(request("3 + 5", "9 - 2"), None) == "Different easy problems:\n3 + 5\n9 - 2\n"
    assert DOMAIN.ask(request(cell=HARD), None) == "Different hard problems:\n"


@pytest.mark.parametrize("asked", CELLS)
def test_chat_prompts_go_through_the_template(asked: Cell) -> None:
    def chat(message: str) -> str:
        return f"<user>{message}<assistant>"

    assert DOMAIN.pose(make_problem("3 + 5", 0), chat) == (
        "<user>Calculate: 3 + 5\n"
        'Give the result as an integer on a last line of the form "Answer: <integer>".<assistant>'
    )
    prompt = DOMAIN.ask(request("3 + 5", "9 - 2", cell=asked), chat)
    assert prompt.startswith("<user>") and prompt.endswith('"Problem: <expression>".<assistant>')
    assert asked.tier in prompt and "\n3 + 5\n9 - 2\n" in prompt


@pytest.mark.parametrize(
    ("completion", "text"),
    [
        ("47 + 35", "47 + 35"),
        ("\n\n 47 + 35\n12 + 9\nnonsense", "47 + 35"),
        ("Calculate: 47+35 = ", "47 + 35"),
        ("Here is one.\nProblem: 47 + 35", "47 + 35"),
        ("problem: 1 + 1\nNo, better:\nPROBLEM: 47 + 35\nIt is new.", "47 + 35"),
        ("**Problem:** 47 + 35\r\n", "47 + 35"),
        ("thinking " * 2000 + "\nProblem: 47 + 35", "47 + 35"),
    ],
)
def test_proposal_line(completion: str, text: str) -> None:
    proposal = DOMAIN.read(completion, request(), False, 3)
    assert proposal.verdict is Verdict.VALID and proposal.problem == make_problem(text, 3)


@pytest.mark.parametrize(
    ("completion", "exclude", "verdict", "reason"),
    [
        ("", False, Verdict.UNPARSEABLE, "unparseable"),
        ("\n \n", False, Verdict.UNPARSEABLE, "unparseable"),
        ("What is 3 + 5?", False, Verdict.UNPARSEABLE, "unparseable"),
        ("9**9**9", False, Verdict.UNPARSEABLE, "unparseable"),
        ("Problem: none\n", False, Verdict.UNPARSEABLE, "unparseable"),
        ("8", False, Verdict.REJECTED, "no_operation"),
        ("7 / 2", False, Verdict.REJECTED, "division_inexact"),
        ("1000 + 1", False, Verdict.REJECTED, "operand_bounds"),
        ("999 * 999 * 9", False, Verdict.REJECTED, "result_bounds"),
        ("1+1+1+1+1", False, Verdict.REJECTED, "too_many_operations"),
        ("47+35", False, Verdict.REJECTED, "repeats_reference"),
        ("35 + 47", False, Verdict.VALID, ""),  # only an exact repeat is one
        ("3 + 5", False, Verdict.VALID, ""),
        ("3 + 5", True, Verdict.EXCLUDED, "in_evaluation"),
        ("5 + 3", True, Verdict.EXCLUDED, "in_evaluation"),
        ("3 + (5 + 1)", True, Verdict.VALID, ""),
    ],
)
def test_proposal_verdicts(completion: str, exclude: bool, verdict: Verdict, reason: str) -> None:
    proposal = DOMAIN.read(completion, request("47 + 35"), exclude, 0)
    assert (proposal.verdict, proposal.reason) == (verdict, reason)
    assert (proposal.problem is not None) is (verdict is Verdict.VALID)


# Verification


@pytest.mark.parametrize(
    ("completion", "answer", "verdict"),
    [
        ("8", "8", RIGHT),
        ("8\n", "8", RIGHT),
        ("  8 apples, not 9", "8", RIGHT),
        ("= 8", "8", RIGHT),
        ("008", "8", RIGHT),
        ("8.", "8", RIGHT),
        ("8, 9", "8", RIGHT),
        ("-6", "-6", RIGHT),
        ("\u22126", "-6", RIGHT),
        ("-0", "0", RIGHT),
        ("- 6", "-6", RIGHT),
        ("6", "-6", WRONG),
        ("-8", "8", WRONG),
        ("8.5", "8", WRONG),
        ("8/3", "8", WRONG),
        ("88", "8", WRONG),
        ("9 8", "8", WRONG),
        ("Calculate: 3 + 5 = 8", "8", WRONG),  # the first integer of an echo is an operand
        ("Calculate: 3 + 5 = ", "3", RIGHT),
        ("", "8", MALFORMED),
        ("eight", "8", MALFORMED),
        ("٨", "8", MALFORMED),
        ("⁸", "8", MALFORMED),
        (" " * 5000 + "8", "8", MALFORMED),  # beyond what is read
        ("8" * 10_000, "8", WRONG),
        ("0" * 4000 + "8", "8", RIGHT),
    ],
)
def test_verify_raw(completion: str, answer: str, verdict: Verdict) -> None:
    assert DOMAIN.judge(completion, stated(answer=answer), chat=False) is verdict


@pytest.mark.parametrize(
    ("completion", "answer", "verdict"),
    [
        ("Answer: 8", "8", RIGHT),
        ("3 + 5 = 8\n\nanswer: 8 (for 2 numbers)", "8", RIGHT),
        ("Answer: 7\nNo.\nANSWER: 8", "8", RIGHT),
        ("**Answer:** 8", "8", RIGHT),
        ("**Answer**: **8**", "8", RIGHT),
        ("Answer: \\boxed{8}", "8", RIGHT),
        ("Answer: -8", "-8", RIGHT),
        ("Answer: \u22128", "-8", RIGHT),
        ("Answer: 1,234", "1234", RIGHT),
        ("Answer: 1,000,000.", "1000000", RIGHT),
        ("Answer: 12,34", "1234", WRONG),
        ("Answer: 1234", "234", WRONG),
        ("Answer: 8.5", "8", WRONG),
        ("Answer: 8/3", "8", WRONG),
        ("Answer: 8/3", "3", WRONG),
        ("Answer: - 8", "-8", RIGHT),
        ("Answer: 9\nso 8", "8", WRONG),
        ("3 + 5 is 8", "8", RIGHT),
        ("8\nAnswer:", "8", RIGHT),
        ("10-8", "8", RIGHT),  # after a digit a hyphen is no sign
        ("I think it is eight", "8", MALFORMED),
        ("Answer: ٨", "8", MALFORMED),
        ("", "8", MALFORMED),
        ("Answer: 8" + " " * 5000, "8", MALFORMED),  # beyond what is read
        ("9" * 10_000 + " Answer: 8", "8", RIGHT),
        ("9" * 10_000, "9", WRONG),
    ],
)
def test_verify_chat(completion: str, answer: str, verdict: Verdict) -> None:
    assert DOMAIN.judge(completion, stated(answer=answer), chat=True) is verdict


@pytest.mark.parametrize("chat", [False, True])
def test_no_prompt_is_sliced_off_a_completion(chat: bool) -> None:
    """Completions shorter than the prompt, and right: cutting len(prompt) characters off them made them wrong."""
    for problem in DOMAIN.seeds():
        completion = f"Answer: {problem.answer}" if chat else problem.answer
        assert DOMAIN.judge(completion, problem, chat) is RIGHT


@given(st.integers(-1_000_000, 1_000_000), st.integers(-1_000_000, 1_000_000))
def test_only_the_answer_is_right(answer: int, other: int) -> None:
    for chat, written in [(False, f"{other}\n"), (True, f"Answer: {other}"), (True, f"Answer: {other:,}.")]:
        assert (DOMAIN.judge(written, stated(answer=str(answer)), chat) is RIGHT) is (answer == other)


# Sources of problems


def test_seeds_are_balanced_and_nearly_all_outside_the_evaluation_sets() -> None:
    seeds = DOMAIN.seeds()
    assert Counter(seed.cell for seed in seeds) == dict.fromkeys(CELLS, 12)
    assert [seed.statement for seed in seeds] == [text for asked in CELLS for text in SEED_TEXTS[asked]]
    # The evaluation sets hold 9 + 0 and 8 + 0: with task.exclude_evaluation the buffer begins without these two.
    assert [seed.statement for seed in seeds if DOMAIN.is_evaluation(seed.canonical)] == ["9 - 0", "8 * 1"]
    for asked, wanted in {EASY: "+-*", MEDIUM: "+-*/", HARD: "+-*/("}.items():
        assert set(wanted) <= set("".join(SEED_TEXTS[asked]))


@pytest.mark.parametrize("asked", CELLS)
def test_generate_gives_the_tier_and_repeats_with_the_seed(asked: Cell) -> None:
    def batch(seed: int) -> list[str]:
        rng = random.Random(seed)
        problems = [DOMAIN.generate(rng, asked) for _ in range(400)]
        assert {problem.cell for problem in problems} == {asked}
        assert all(problem == make_problem(problem.statement, -1) for problem in problems)
        return [problem.statement for problem in problems]

    assert batch(1) == batch(1) != batch(2)


def test_generate_draws_the_documented_shares() -> None:
    rng = random.Random(0)
    hard = [DOMAIN.generate(rng, HARD) for _ in range(4000)]
    shares = Counter(
        "two" if problem.structure.endswith("d2") else "/" if "/" in problem.statement else "one" for problem in hard
    )
    assert shares["two"] / 4000 == pytest.approx(0.15, abs=0.02)
    assert shares["/"] / 4000 == pytest.approx(0.45 / 4, abs=0.02)
    easy = [DOMAIN.generate(rng, EASY).statement for _ in range(4000)]
    assert sum("+" in text for text in easy) / 4000 == pytest.approx(1 / 2 + 1 / 6, abs=0.03)


class Smallest(random.Random):
    """Always draws the least of a range: never a medium problem by itself."""

    def random(self) -> float:
        return 0.0

    def getrandbits(self, k: int) -> int:
        return 0


def test_generate_is_total_even_where_every_draw_is_of_another_tier() -> None:
    assert [DOMAIN.generate(Smallest(0), asked).cell for asked in CELLS] == list(CELLS)


# Registry


def test_get_domain() -> None:
    assert get_domain("arithmetic").name == "arithmetic"
    with pytest.raises(UserError, match=r"task\.domain=algebra: unknown; give one of arithmetic"):
        get_domain("algebra")


def test_import_stays_light() -> None:
    heavy = {"torch", "ray", "vllm", "datasets", "pyarrow"}
    code = f"import sys, azero.domains.arithmetic; print({heavy} & set(sys.modules))"
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert shown.stdout == "set()\n"
