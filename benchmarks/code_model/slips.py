"""Human slips in programs: the program that a careless person has in mind when reading or writing another one.

A slip is a rewritten tree, so that one table serves the three tasks: its value is the careless output, an argument is
careless where the rewritten program gives the output from it, and its text is the careless program. Each construct has
one slip, because a crowd that errs in the same direction is what makes a wrong answer likelier than the right one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from azero.domains.code.grammar import Program
from azero.domains.code.operations import (
    ATOM,
    COMPARISON,
    OPERATIONS,
    PRODUCT,
    SUM,
    Applied,
    Constant,
    Expression,
    Operation,
)

Slots: TypeAlias = Sequence[Expression]

# The constructs that most of the crowd gets wrong; all others are slipped on by few. Lost parentheses are among them.
TREACHEROUS = frozenset(
    ("subtract", "divide", "modulo", "max", "min", "item", "last", "above", "even", "if_int", "if_str", "if_list")
    + ("drop_str", "drop_list", "take_str", "take_list", "replace", "repeat", "sort", "only_above", "range", "chain")
)


def without_carry(a: int, b: int) -> int:
    """a + b with every carry dropped: 27 + 18 gives 35. Where one is negative there is none: the sum."""
    if a < 0 or b < 0:
        return a + b
    total, place = 0, 1
    while a or b:
        total += (a % 10 + b % 10) % 10 * place
        a, b, place = a // 10, b // 10, place * 10
    return total


def _apply(name: str, *slots: Expression) -> Applied:
    return Applied(OPERATIONS[name], slots)


def _like(name: str, template: str, binds: int, compute: Callable[..., Any]) -> Callable[[Slots], Expression]:
    """Make the slip that reads the construct as another one, which no right program has."""
    operation = replace(OPERATIONS[name], name=f"{name}_slip", template=template, binds=binds, compute=compute)
    return lambda slots: Applied(operation, tuple(slots))


def _named(name: str) -> Callable[[Slots], Expression]:
    return lambda slots: _apply(name, *slots)


def _swapped(name: str) -> Callable[[Slots], Expression]:
    return lambda slots: _apply(name, slots[1], slots[0])


def _off_by(name: str, change: int) -> Callable[[Slots], Expression]:
    """Make the slip of a constant that is off by one; an expression in its place gets the change."""

    def slip(slots: Slots) -> Expression:
        subject, number = slots
        if isinstance(number, Constant):
            return _apply(name, subject, Constant(number.value + change))
        return _apply(name, subject, _apply("add" if change > 0 else "subtract", number, Constant(1)))

    return slip


def _then(outer: str, inner: str, *more: Expression) -> Callable[[Slots], Expression]:
    """Make the slip that does `outer` after the right thing."""
    return lambda slots: _apply(outer, _apply(inner, *slots), *more)


def _before(name: str, first: str, *more: Expression) -> Callable[[Slots], Expression]:
    """Make the slip that does `first` to the subject before the right thing."""
    return lambda slots: _apply(name, _apply(first, slots[0], *more), *slots[1:])


def _drop(name: str) -> Callable[[Slots], Expression]:
    def slip(slots: Slots) -> Expression:
        number = slots[1]
        assert isinstance(number, Constant)
        return slots[0] if number.value == 1 else _apply(name, slots[0], Constant(number.value - 1))

    return slip


def _conditional(name: str) -> Callable[[Slots], Expression]:
    return lambda slots: _apply(name, slots[2], slots[1], slots[0])


ONE = Constant(1)
SLIPS: dict[str, Callable[[Slots], Expression]] = {
    "add": _like("add", "{0:2} + {1:3}", SUM, without_carry),
    "subtract": _like("subtract", "abs({0:2} - {1:3})", ATOM, lambda x, y: abs(x - y)),
    "multiply": _off_by("multiply", 1),
    "divide": _before("divide", "add", ONE),
    "modulo": _named("divide"),
    "max": _named("min"),
    "min": _named("max"),
    "sum": _before("sum", "shorten_list"),
    "largest": _named("last"),
    "smallest": _named("first"),
    "first": _named("last"),
    "last": _like("last", "{0:4}[-2]", ATOM, lambda x: x[-2]),
    "item": _off_by("item", -1),
    "count": _then("add", "count", ONE),
    "length": _then("subtract", "length", ONE),
    "size": _then("subtract", "size", ONE),
    "above": _named("below"),
    "below": _named("above"),
    "even": _like("even", "{0:3} % 2 == 1", COMPARISON, lambda x: x % 2 == 1),
    "has": _like("has", "{1:2} not in {0:2}", COMPARISON, lambda x, y: y not in x),
    "contains": _like("contains", "{1:2} not in {0:2}", COMPARISON, lambda x, y: y not in x),
    "reverse_str": _then("shorten_str", "reverse_str"),
    "drop_str": _drop("drop_str"),
    "take_str": _off_by("take_str", 1),
    "shorten_str": lambda slots: _apply("drop_str", *slots, ONE),
    "join": _swapped("join"),
    "repeat": _off_by("repeat", 1),
    "upper": _like("upper", "{0:4}.capitalize()", ATOM, str.capitalize),
    "replace": _like("replace", "{0:4}.replace({1}, {2}, 1)", ATOM, lambda x, y, z: x.replace(y, z, 1)),
    "sort": _then("reverse_list", "sort"),
    "reverse_list": _then("shorten_list", "reverse_list"),
    "drop_list": _drop("drop_list"),
    "take_list": _off_by("take_list", 1),
    "shorten_list": lambda slots: _apply("drop_list", *slots, ONE),
    "chain": _swapped("chain"),
    "append": _like("append", "[{1}] + {0:2}", SUM, lambda x, y: [y, *x]),
    "each_plus": _before("each_plus", "shorten_list"),
    "each_times": _named("each_plus"),
    "only_above": _off_by("only_above", -1),
    "range": _before("range", "add", ONE),
    **{name: _conditional(name) for name in ("if_int", "if_str", "if_list")},
}


def slips(program: Program) -> Iterator[tuple[bool, Program]]:
    """(whether most of the crowd makes it, the careless program) of each slip, the likely ones first."""
    found = list(_rewritten(program.expression))
    for treacherous in (True, False):
        for is_likely, expression in found:
            if is_likely is treacherous:
                yield is_likely, Program(expression, program.kinds)


def _rewritten(expression: Expression) -> Iterator[tuple[bool, Expression]]:
    """Every tree with one slip in it: lost parentheses first, then outer constructs before inner ones."""
    if not isinstance(expression, Applied):
        return
    if (flat := _without_parentheses(expression)) is not None:
        yield True, flat
    name = expression.operation.name
    yield name in TREACHEROUS, SLIPS[name](expression.slots)
    for i, slot in enumerate(expression.slots):
        for is_likely, found in _rewritten(slot):
            yield is_likely, Applied(expression.operation, (*expression.slots[:i], found, *expression.slots[i + 1 :]))


def _without_parentheses(outer: Applied) -> Expression | None:
    """(x + y) * z read as x + y * z, None where there is nothing to lose."""
    inner = outer.slots[0]
    if (
        not isinstance(inner, Applied)
        or not _is_binary(outer.operation, PRODUCT)
        or not _is_binary(inner.operation, SUM)
    ):
        return None
    return Applied(inner.operation, (inner.slots[0], Applied(outer.operation, (inner.slots[1], *outer.slots[1:]))))


def _is_binary(operation: Operation, binds: int) -> bool:
    return operation.binds == binds and operation.name in (
        "add",
        "subtract",
        "multiply",
        "divide",
        "modulo",
        "repeat",
        "join",
    )
