"""The constructs of generated programs, and expressions of them: their text, their value, what they do in words.

Values are computed on the tree by the functions beside the templates: nothing is given to `eval`, and no sandbox is
needed. tests/azero/test_code_grammar.py holds both to each other.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

LETTERS = "abcde"  # of all strings
NAMES = ("a", "b")  # of parameters


class Kind(StrEnum):
    INT = "int"
    STR = "str"
    LIST = "list"  # of integers
    BOOL = "bool"


@dataclass(frozen=True, slots=True)
class Slot:
    """Says what may stand in one place of an operation."""

    kind: Kind
    constants: tuple[Any, ...] = ()
    share: float = 0.0  # of constants; the others are expressions of the kind


@dataclass(frozen=True, slots=True)
class Operation:
    """One construct. In its template {i:p} is slot i, in parentheses where that binds weaker than p."""

    name: str
    result: Kind
    slots: tuple[Slot, ...]  # the subject first
    template: str
    binds: int  # CONDITION to ATOM
    words: str  # what it does to its subject; {1} and {2} are the other slots
    compute: Callable[..., Any]
    weight: int = 2  # among those of its result


@dataclass(frozen=True, slots=True)
class Parameter:
    index: int
    kind: Kind


@dataclass(frozen=True, slots=True)
class Constant:
    value: Any


@dataclass(frozen=True, slots=True)
class Applied:
    operation: Operation
    slots: tuple[Expression, ...]


Expression: TypeAlias = Parameter | Constant | Applied
Compute: TypeAlias = Callable[[Operation, Sequence[Any]], Any]

CONDITION, COMPARISON, SUM, PRODUCT, ATOM = range(5)  # how strongly a text binds


def _numbers(low: int, high: int, share: float = 1.0) -> Slot:
    return Slot(Kind.INT, tuple(range(low, high + 1)), share)


def _all() -> list[Operation]:
    i, s, t, b = (Slot(kind) for kind in Kind)
    letter, letter_or_str = Slot(Kind.STR, tuple(LETTERS), 1.0), Slot(Kind.STR, tuple(LETTERS), 0.5)
    n = _numbers
    ints: list[tuple[Any, ...]] = [
        ("add", (i, n(1, 9, 0.7)), "{0:2} + {1:3}", SUM, "plus {1}", operator.add, 5),
        ("subtract", (i, n(1, 9, 0.7)), "{0:2} - {1:3}", SUM, "minus {1}", operator.sub, 5),
        ("multiply", (i, n(2, 4)), "{0:3} * {1:4}", PRODUCT, "times {1}", operator.mul, 4),
        ("divide", (i, n(2, 3)), "{0:3} // {1:4}", PRODUCT, "over {1}", operator.floordiv),
        ("modulo", (i, n(2, 4)), "{0:3} % {1:4}", PRODUCT, "modulo {1}", operator.mod),
        ("max", (i, n(2, 12, 0.5)), "max({0}, {1})", ATOM, "at least {1}", max),
        ("min", (i, n(2, 12, 0.5)), "min({0}, {1})", ATOM, "at most {1}", min),
        ("sum", (t,), "sum({0})", ATOM, "sum", sum),
        ("largest", (t,), "max({0})", ATOM, "largest", max),
        ("smallest", (t,), "min({0})", ATOM, "smallest", min),
        ("first", (t,), "{0:4}[0]", ATOM, "first", lambda x: x[0]),
        ("last", (t,), "{0:4}[-1]", ATOM, "last", lambda x: x[-1]),
        ("item", (t, n(1, 2)), "{0:4}[{1}]", ATOM, "item {1}", operator.getitem),
        ("count", (s, letter), "{0:4}.count({1})", ATOM, "count {1}", str.count),
        ("length", (s,), "len({0})", ATOM, "length", len),
        ("size", (t,), "len({0})", ATOM, "size", len),
        ("if_int", (i, b, n(0, 9, 0.4)), "{0:1} if {1:1} else {2:1}", CONDITION, "if {1} else {2}", _choose),
    ]
    bools: list[tuple[Any, ...]] = [
        ("above", (i, n(2, 12, 0.6)), "{0:2} > {1:2}", COMPARISON, "above {1}", operator.gt, 3),
        ("below", (i, n(2, 12, 0.6)), "{0:2} < {1:2}", COMPARISON, "below {1}", operator.lt, 3),
        ("even", (i,), "{0:3} % 2 == 0", COMPARISON, "even", lambda x: x % 2 == 0),
        ("has", (t, n(0, 9, 0.7)), "{1:2} in {0:2}", COMPARISON, "has {1}", operator.contains),
        ("contains", (s, letter), "{1:2} in {0:2}", COMPARISON, "has {1}", operator.contains),
    ]
    strs: list[tuple[Any, ...]] = [
        ("reverse_str", (s,), "{0:4}[::-1]", ATOM, "reversed", lambda x: x[::-1], 3),
        ("drop_str", (s, n(1, 2)), "{0:4}[{1}:]", ATOM, "without first {1}", lambda x, y: x[y:], 3),
        ("take_str", (s, n(1, 3)), "{0:4}[:{1}]", ATOM, "cut to {1}", lambda x, y: x[:y], 3),
        ("shorten_str", (s,), "{0:4}[:-1]", ATOM, "without last", lambda x: x[:-1]),
        ("join", (s, letter_or_str), "{0:2} + {1:3}", SUM, "then {1}", operator.add, 4),
        ("repeat", (s, n(2, 3)), "{0:3} * {1:4}", PRODUCT, "{1} times", operator.mul),
        ("upper", (s,), "{0:4}.upper()", ATOM, "upper", str.upper),
        ("replace", (s, letter, letter), "{0:4}.replace({1}, {2})", ATOM, "{1} to {2}", str.replace),
        ("if_str", (s, b, s), "{0:1} if {1:1} else {2:1}", CONDITION, "if {1} else {2}", _choose),
    ]
    lists: list[tuple[Any, ...]] = [
        ("sort", (t,), "sorted({0})", ATOM, "sorted", sorted, 5),
        ("reverse_list", (t,), "{0:4}[::-1]", ATOM, "reversed", lambda x: x[::-1], 3),
        ("drop_list", (t, n(1, 2)), "{0:4}[{1}:]", ATOM, "without first {1}", lambda x, y: x[y:], 3),
        ("take_list", (t, n(1, 3)), "{0:4}[:{1}]", ATOM, "cut to {1}", lambda x, y: x[:y], 3),
        ("shorten_list", (t,), "{0:4}[:-1]", ATOM, "without last", lambda x: x[:-1]),
        ("chain", (t, t), "{0:2} + {1:3}", SUM, "then {1}", operator.add),
        ("append", (t, n(0, 9, 0.7)), "{0:2} + [{1}]", SUM, "append {1}", lambda x, y: [*x, y]),
        ("each_plus", (t, n(1, 5, 0.8)), "[x + {1:3} for x in {0:1}]", ATOM, "each plus {1}", _each_plus, 3),
        ("each_times", (t, n(2, 3)), "[x * {1:4} for x in {0:1}]", ATOM, "each times {1}", _each_times, 3),
        ("only_above", (t, n(1, 6)), "[x for x in {0:1} if x > {1:2}]", ATOM, "only above {1}", _only_above, 3),
        ("range", (i,), "list(range({0}))", ATOM, "range", lambda x: list(range(x)), 1),
        ("if_list", (t, b, t), "{0:1} if {1:1} else {2:1}", CONDITION, "if {1} else {2}", _choose),
    ]
    rows = zip(Kind, (ints, strs, lists, bools))
    return [Operation(name, kind, *rest) for kind, group in rows for name, *rest in group]


def _choose(then: Any, condition: bool, otherwise: Any) -> Any:
    return then if condition else otherwise


def _each_plus(values: list[int], number: int) -> list[int]:
    return [value + number for value in values]


def _each_times(values: list[int], number: int) -> list[int]:
    return [value * number for value in values]


def _only_above(values: list[int], number: int) -> list[int]:
    return [value for value in values if value > number]


OPERATIONS: dict[str, Operation] = {operation.name: operation for operation in _all()}


def compute(operation: Operation, slots: Sequence[Any]) -> Any:
    """The right value of one operation."""
    return operation.compute(*slots)


def value(expression: Expression, arguments: Sequence[Any], by: Compute = compute) -> Any:
    """The value of an expression for these arguments, each operation computed `by`.

    Raises what Python would, IndexError and ValueError, also where only the branch that is not taken does.
    """
    if isinstance(expression, Parameter):
        return arguments[expression.index]
    if isinstance(expression, Constant):
        return expression.value
    return by(expression.operation, [value(slot, arguments, by) for slot in expression.slots])


def operations(expression: Expression) -> list[Operation]:
    """Every operation, in the order of computing."""
    if not isinstance(expression, Applied):
        return []
    return [*(found for slot in expression.slots for found in operations(slot)), expression.operation]


def parameters(expression: Expression) -> dict[int, Kind]:
    """Index -> kind of every parameter that the expression uses."""
    if isinstance(expression, Parameter):
        return {expression.index: expression.kind}
    slots = expression.slots if isinstance(expression, Applied) else ()
    return {index: kind for slot in slots for index, kind in parameters(slot).items()}


@dataclass(frozen=True, slots=True)
class _Text:
    text: str
    binds: int

    def __format__(self, needed: str) -> str:
        return self.text if self.binds >= int(needed or CONDITION) else f"({self.text})"


def render(expression: Expression) -> str:
    """The Python text, with the parentheses that it needs and no more."""
    return _text(expression).text


def _text(expression: Expression) -> _Text:
    if isinstance(expression, Parameter):
        return _Text(NAMES[expression.index], ATOM)
    if isinstance(expression, Constant):
        return _Text(repr(expression.value), ATOM)
    operation = expression.operation
    return _Text(operation.template.format(*map(_text, expression.slots)), operation.binds)


def words(expression: Expression) -> str:
    """Say what an expression does, step by step: "a sorted, without first 1", "a plus (b times 2)"."""
    if not isinstance(expression, Applied):
        return render(expression)
    subject, *others = expression.slots
    said = expression.operation.words.format("", *map(_noun, others))
    return f"{words(subject)}{',' if isinstance(subject, Applied) else ''} {said}"


def _noun(expression: Expression) -> str:
    return f"({words(expression)})" if isinstance(expression, Applied) else render(expression)
