"""Generated programs: their text, values, words and arguments, and that the sizes asked for come out."""

from __future__ import annotations

import ast
import random
from typing import Any

import pytest

from azero.domains.code.grammar import (
    MAX_INTEGER,
    MAX_LENGTH,
    MAX_SIZE,
    Program,
    draw_arguments,
    draw_message,
    draw_program,
    small,
)
from azero.domains.code.operations import (
    OPERATIONS,
    Applied,
    Constant,
    Expression,
    Kind,
    Parameter,
    operations,
    parameters,
)

A, B = Parameter(0, Kind.INT), Parameter(1, Kind.INT)
WORDS, NUMBERS = Parameter(0, Kind.STR), Parameter(0, Kind.LIST)


def apply(name: str, *slots: Expression) -> Applied:
    return Applied(OPERATIONS[name], slots)


def python(text: str, arguments: tuple[Any, ...]) -> Any:
    """What Python itself computes; the texts are those of this module's own trees."""
    names: dict[str, Any] = {}
    exec(text, names)
    return names["f"](*arguments)


ONE, FOUR = Constant(1), Constant(4)
ADDED = apply("add", A, Constant(2))
BRANCHES = apply("if_int", ADDED, apply("above", A, B), B)
LENGTHS = apply("each_plus", NUMBERS, apply("length", Parameter(1, Kind.STR)))
CASES: list[tuple[Expression, str, str, tuple[Any, ...], Any]] = [  # text, message, arguments, value
    (apply("multiply", ADDED, Constant(3)), "(a + 2) * 3", "a plus 2, times 3", (4,), 18),
    (apply("add", apply("multiply", A, Constant(3)), B), "a * 3 + b", "a times 3, plus b", (4, 5), 17),
    (apply("subtract", A, apply("add", B, ONE)), "a - (b + 1)", "a minus (b plus 1)", (9, 3), 5),
    (
        apply("drop_list", apply("sort", NUMBERS), ONE),
        "sorted(a)[1:]",
        "a sorted, without first 1",
        ([3, 1, 2],),
        [2, 3],
    ),
    (apply("upper", apply("join", WORDS, Constant("d"))), "(a + 'd').upper()", "a then 'd', upper", ("ab",), "ABD"),
    (apply("only_above", NUMBERS, FOUR), "[x for x in a if x > 4]", "a only above 4", ([3, 5, 4],), [5]),
    (apply("contains", WORDS, Constant("b")), "'b' in a", "a has 'b'", ("ab",), True),
    (BRANCHES, "a + 2 if a > b else b", "a plus 2, if (a above b) else b", (3, 7), 7),
    (LENGTHS, "[x + len(b) for x in a]", "a each plus (b length)", ([1], "cab"), [4]),
]


@pytest.mark.parametrize(("expression", "text", "message", "arguments", "value"), CASES)
def test_text_words_and_value(expression, text, message, arguments, value) -> None:
    program = Program(expression, tuple(parameters(expression).values()))
    assert program.text == f"def f({', '.join('ab'[: len(arguments)])}): return {text}"
    assert draw_message(program) == message
    assert program(arguments) == value == python(program.text, arguments)


@pytest.mark.parametrize("size", range(1, MAX_SIZE + 1))
def test_values_are_pythons_own(size: int) -> None:
    rng = random.Random(size)
    for _ in range(100):
        program = draw_program(rng, size)
        arguments = draw_arguments(rng, program)
        value = program(arguments)
        assert program.size == size
        assert repr(value) == repr(python(program.text, arguments)), program.text
        bound = abs(value) <= MAX_INTEGER if isinstance(value, int) else len(value) <= MAX_LENGTH
        assert bound, program.text


def test_every_construct_is_drawn_and_every_parameter_used() -> None:
    rng, seen = random.Random(0), set()
    for _ in range(1500):
        program = draw_program(rng, 3)
        tree = ast.parse(program.text)
        named = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
        assert named == {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} & {"a", "b"}
        seen |= {operation.name for operation in operations(program.expression)}
    assert seen == set(OPERATIONS)


def test_no_construct_is_taken_back_or_compares_a_thing_with_itself() -> None:
    rng = random.Random(1)
    texts = " ".join(draw_program(rng, 3).text for _ in range(1000))
    assert "[::-1][::-1]" not in texts
    assert "sorted(sorted(a))" not in texts
    assert "max(a, a)" not in texts
    assert "'b', 'b'" not in texts


def test_values_out_of_bounds_are_not_small() -> None:
    times = Program(apply("multiply", A, Constant(4)), (Kind.INT,))
    assert small(times, (24,))  # 96
    assert not small(times, (25,))
    item = Program(apply("item", NUMBERS, Constant(2)), (Kind.LIST,))
    assert not small(item, ([4, 5],))
    assert not small(Program(apply("largest", NUMBERS), (Kind.LIST,)), ([],))


def test_draws_repeat_for_a_seed_and_a_size_must_be_possible() -> None:
    assert draw_program(random.Random(3), 3) == draw_program(random.Random(3), 3)
    with pytest.raises(ValueError, match="sizes are 1 to 6"):
        draw_program(random.Random(0), 0)
