"""Canonical forms of arithmetic problems: what is the same problem, and that neutral elements hide none."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from azero.domains.arithmetic import Arithmetic
from azero.domains.evaluation_sets import generated
from azero.domains.expression import Expression, Operation, Rejected, canonical, check, parse, render

DOMAIN = Arithmetic()
SMALL = st.recursive(
    st.integers(0, 12), lambda part: st.builds(Operation, st.sampled_from("+-*/"), part, part), max_leaves=4
)
PROBLEMS: st.SearchStrategy[Expression] = SMALL.filter(lambda e: isinstance(e, Operation))
ZERO, ONE = (0, Operation("*", 0, 7), Operation("-", 4, 4)), (1, Operation("/", 4, 4), Operation("-", 3, 2))


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("5 + 3", "+(3,5)"),
        ("3 - 5", "-(3,5)"),
        ("8 / 4", "/(8,4)"),
        ("3 + 5 + 0", "+(3,5)"),
        ("0 + 3 + 5", "+(3,5)"),
        ("3 + 0 + 5", "+(3,5)"),
        ("3 + 5 - 0", "+(3,5)"),
        ("1 * (3 + 5)", "+(3,5)"),
        ("(3 + 5) * 1", "+(3,5)"),
        ("(3 + 5) / 1", "+(3,5)"),
        ("3 * 1 + 5", "+(3,5)"),
        ("3 + (5 - 0) / 1", "+(3,5)"),
        ("3 + 5 + 7 - 7", "+(3,5)"),
        ("3 + 5 + (7 - 7)", "+(3,5)"),
        ("3 + 5 + 0 * 7", "+(3,5)"),
        ("3 + 5 + 0 / 7", "+(3,5)"),
        ("(3 + 5) * 7 / 7", "+(3,5)"),
        ("(3 + 5) * (7 / 7)", "+(3,5)"),
        ("(3 + 5) * (8 - 7)", "+(3,5)"),
        ("3 - (0 - 5)", "+(3,5)"),
        ("3 - (2 - 5)", "-(+(3,5),2)"),
        ("3 - 2 + 5", "-(+(3,5),2)"),
        ("9 - 1 - 2", "-(9,+(1,2))"),
        ("9 - (2 + 1)", "-(9,+(1,2))"),
        ("0 - 5", "-(0,5)"),
        ("0 - 5 - 0", "-(0,5)"),
        ("4 * (6 / 3)", "/(*(4,6),3)"),
        ("4 * 6 / 3", "/(*(4,6),3)"),
        ("24 / 4 / 2", "/(24,*(2,4))"),
        ("24 / (4 * 2)", "/(24,*(2,4))"),
        ("24 / (4 / 2)", "/(*(2,24),4)"),
        # Of a number and neutral elements alone the number is left; of none but them, one of them.
        ("3 + 0", "3"),
        ("3 * 1", "3"),
        ("(3 - 0) / 1", "3"),
        ("0 + 0", "0"),
        ("1 * 1", "1"),
        ("0 * 1", "0"),
        ("7 - 7", "-(7,7)"),
        ("7 - 7 + 0", "-(7,7)"),
        ("(7 - 7) * 1", "-(7,7)"),
        ("4 / 4", "/(4,4)"),
        ("4 / 4 * 1", "/(4,4)"),
        ("0 * 8", "*(0,8)"),
        ("0 + 0 * 8", "*(0,8)"),
    ],
)
def test_the_form_is_written_as_documented(text: str, form: str) -> None:
    assert canonical(parse(text)) == form


@given(PROBLEMS, st.data())
def test_neutral_elements_change_no_form(problem: Expression, data: st.DataObject) -> None:
    """At any place of the tree, as often as they come."""
    try:
        check(problem)
    except Rejected:
        assume(False)

    def wrapped(e: Expression) -> Expression:
        if isinstance(e, Operation):
            e = Operation(e.operator, wrapped(e.left), wrapped(e.right))
        match data.draw(st.sampled_from(["", "", "", "x + 0", "0 + x", "x - 0", "1 * x", "x * 1", "x / 1"])):
            case "":
                return e
            case "0 + x" | "1 * x" as way:
                return Operation(way[2], int(way[0]), e)
            case way:
                return Operation(way[2], e, int(way[4]))

    assert canonical(wrapped(problem)) == canonical(problem)


@given(st.builds(Operation, st.sampled_from("+-*"), st.integers(2, 99), st.integers(2, 99)), st.data())
def test_parts_of_value_0_and_1_are_neutral_too(problem: Operation, data: st.DataObject) -> None:
    assume(problem.left != problem.right)
    zero, one = data.draw(st.sampled_from(ZERO)), data.draw(st.sampled_from(ONE))
    for same in (
        Operation("+", problem, zero),
        Operation("+", zero, problem),
        Operation("-", problem, zero),
        Operation("*", one, problem),
        Operation("/", problem, one),
    ):
        assert canonical(same) == canonical(problem), render(same)


@given(st.lists(PROBLEMS, min_size=2, max_size=30))
def test_equal_forms_have_equal_values(problems: list[Expression]) -> None:
    values: dict[str, int] = {}
    for problem in problems:
        try:
            value = check(problem)
        except Rejected:
            continue
        assert values.setdefault(canonical(problem), value) == value


def test_equal_forms_have_equal_values_in_all_small_problems() -> None:
    values: dict[str, set[int]] = {}
    for a in range(5):
        for b in range(5):
            for c in range(4):
                for one in "+-*/":
                    for two in "+-*/":
                        for e in (Operation(two, Operation(one, a, b), c), Operation(one, a, Operation(two, b, c))):
                            try:
                                value = check(e)
                            except Rejected:
                                continue
                            values.setdefault(canonical(e), set()).add(value)
    assert {form: v for form, v in values.items() if len(v) > 1} == {} and len(values) > 400


@pytest.mark.parametrize("text", ["7 / 0", "3 + 7 / (2 - 2)", "0 * (1 / 0)", "7 / 2", "(1 / 0) / (1 / 0)"])
def test_the_form_of_what_has_no_value_is_a_form(text: str) -> None:
    assert canonical(parse(text))


def test_no_evaluation_problem_passes_as_new() -> None:
    for name in ("test", "dev"):
        for item in DOMAIN.evaluation(name):
            x = item.problem.statement
            for text in (x, f"({x}) + 0", f"0 + ({x})", f"({x}) - 0", f"1 * ({x})", f"({x}) * 1", f"({x}) / 1"):
                assert DOMAIN.is_evaluation(canonical(parse(text))), text


@pytest.mark.parametrize(
    ("name", "sha"),
    [
        ("test", "96aa0de94a1b89af94858afe56c58f60c264ac0fda94a733b7978969ba27a173"),
        ("dev", "fa42c4ea8ec6c171ab4c5a67250b70adebd3dddc88102b2f591ac64ac9bc02de"),
    ],
)
def test_the_generated_sets_do_not_change_with_the_form(name: str, sha: str) -> None:
    rows = json.dumps(
        [
            (DOMAIN.pose(item.problem, None), item.problem.answer, item.label, item.operation, item.problem.statement)
            for item in generated(name)
        ]
    )
    assert hashlib.sha256(rows.encode()).hexdigest() == sha
