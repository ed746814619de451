"""Grammar of the arithmetic domain: a bounded parser, exact values, and pure functions of an expression.

    expression = term   (("+" | "-") term)*
    term       = factor (("*" | "/") factor)*
    factor     = integer | "(" expression ")"
    integer    = "0" | [1-9][0-9]*            ASCII digits; no sign

Operators of one precedence associate to the left. `render` writes a tree with single spaces round operators and the
parentheses that its shape needs, so parse(render(e)) == e. Nothing is ever given to `eval`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from operator import add, mul, sub, truediv
from typing import Any, TypeAlias

from azero.domains.base import Rejected
from azero.domains.rows import short_hash
from azero.types import Cell, Problem

CELLS = tuple(Cell(task="arithmetic", tier=tier) for tier in ("easy", "medium", "hard"))
EASY, MEDIUM, HARD = CELLS

MAX_CHARACTERS = 64  # of an expression as written, blanks between tokens included
MAX_PARENTHESES = 3  # nesting as written, redundant ones included
MAX_OPERATIONS = 3
MAX_OPERAND = 999
MAX_RESULT = 1_000_000  # absolute value of every intermediate and of the final result

BLANKS = " \t\r\n\f\v"
_ALPHABET = re.compile(r"[-+*/() \t0-9]*")
_TOKEN = re.compile(r"[0-9]+|[-+*/()]")
_PRECEDENCE = {"+": 0, "-": 0, "*": 1, "/": 1}
_COMPUTE: dict[str, Callable[[Any, Any], Any]] = {"+": add, "-": sub, "*": mul, "/": truediv}  # exact on fractions


class Reason(StrEnum):
    """Why a proposal is not a valid problem."""

    UNPARSEABLE = "unparseable"  # outside the grammar or longer or deeper than it allows; other operators, too
    OPERAND_BOUNDS = "operand_bounds"
    RESULT_BOUNDS = "result_bounds"
    DIVISION_INEXACT = "division_inexact"  # division by zero, too
    TOO_MANY_OPERATIONS = "too_many_operations"
    NO_OPERATION = "no_operation"
    REPEATS_REFERENCE = "repeats_reference"
    IN_EVALUATION = "in_evaluation"


@dataclass(frozen=True, slots=True)
class Operation:
    operator: str  # one of + - * /
    left: Expression
    right: Expression


Expression: TypeAlias = int | Operation


def parse(text: str) -> Expression:
    """The tree of `text`; "Calculate:" before it, one "=" after it and blanks around it are allowed.

    Raises Rejected(UNPARSEABLE).
    """
    text = text.strip(BLANKS).removeprefix("Calculate:").removesuffix("=").strip(BLANKS)
    if len(text) > MAX_CHARACTERS or not _ALPHABET.fullmatch(text):
        raise Rejected(Reason.UNPARSEABLE)
    tokens = _TOKEN.findall(text)[::-1]  # a stack: the next token is the last
    expression = _chain(tokens, 0)
    if tokens:
        raise Rejected(Reason.UNPARSEABLE)
    return expression


def _chain(tokens: list[str], depth: int, precedence: int = 0) -> Expression:
    """Parse what stands next: a sum; with precedence 1 a term, and with 2 a factor."""
    if precedence == 2:
        return _factor(tokens, depth)
    left = _chain(tokens, depth, precedence + 1)
    while tokens and _PRECEDENCE.get(tokens[-1]) == precedence:
        operator = tokens.pop()
        left = Operation(operator, left, _chain(tokens, depth, precedence + 1))
    return left


def _factor(tokens: list[str], depth: int) -> Expression:
    token = tokens.pop() if tokens else ""
    if token == "(" and depth < MAX_PARENTHESES:
        inner = _chain(tokens, depth + 1)
        if tokens and tokens.pop() == ")":
            return inner
    elif token.isdigit() and (token == "0" or token[0] != "0"):
        return int(token)
    raise Rejected(Reason.UNPARSEABLE)


def check(expression: Expression) -> int:
    """The exact value of a problem within all bounds; raises Rejected with the first rule it breaks."""
    count = len(operators(expression))
    if count == 0:
        raise Rejected(Reason.NO_OPERATION)
    if count > MAX_OPERATIONS:
        raise Rejected(Reason.TOO_MANY_OPERATIONS)
    if max(operands(expression)) > MAX_OPERAND:
        raise Rejected(Reason.OPERAND_BOUNDS)
    return _value(expression)


def _value(expression: Expression) -> int:
    if isinstance(expression, int):
        return expression
    left, right = _value(expression.left), _value(expression.right)
    if expression.operator == "/" and (right == 0 or left % right):
        raise Rejected(Reason.DIVISION_INEXACT)
    value = int(_COMPUTE[expression.operator](Fraction(left), right))
    if abs(value) > MAX_RESULT:
        raise Rejected(Reason.RESULT_BOUNDS)
    return value


def render(expression: Expression) -> str:
    """The normalised text: "3 + 5", "(12 - 4) * 3"; a right operand of equal precedence keeps its parentheses."""
    if isinstance(expression, int):
        return str(expression)
    own = _PRECEDENCE[expression.operator]
    left, right = render(expression.left), render(expression.right)
    if isinstance(expression.left, Operation) and _PRECEDENCE[expression.left.operator] < own:
        left = f"({left})"
    if isinstance(expression.right, Operation) and _PRECEDENCE[expression.right.operator] <= own:
        right = f"({right})"
    return f"{left} {expression.operator} {right}"


def operands(expression: Expression) -> list[int]:
    """Every integer, in the order of the text."""
    if isinstance(expression, int):
        return [expression]
    return operands(expression.left) + operands(expression.right)


def operators(expression: Expression) -> list[str]:
    """Every operator, in the order of computing: "2 + 3 * 4" gives ["*", "+"]."""
    if isinstance(expression, int):
        return []
    return [*operators(expression.left), *operators(expression.right), expression.operator]


def canonical(expression: Expression) -> str:
    """Equal for problems that are the same up to order, grouping and neutral elements: "0 + 5 + 3" gives "+(3,5)".

    A sum is the sorted terms that are added and those that are taken away, whatever the parentheses: "9 - (1 - 2)" is
    "-(+(2,9),1)". A product is the sorted factors over the sorted divisors. Equal parts of both sides cancel, terms of
    value 0 and factors of value 1 are left out; where there is nothing else one of them stays: "3 + 0" and "3 * 1" are
    "3", "7 - 7" is "-(7,7)". Problems of equal form have equal values.
    """
    return _form(expression).text


@dataclass(frozen=True, slots=True)
class _Form:
    text: str
    value: Fraction | None  # None: a division by zero
    family: str = ""  # of the last operation: "+" for + and -, "*" for * and /
    plain: tuple[_Form, ...] = ()  # its terms or factors
    inverse: tuple[_Form, ...] = ()  # those that are taken away or divided by


def _form(expression: Expression) -> _Form:
    if isinstance(expression, int):
        return _Form(str(expression), Fraction(expression))
    left, right = _form(expression.left), _form(expression.right)
    family, inverted = ("+" if expression.operator in "+-" else "*"), expression.operator in "-/"
    sides = [_sides(left, family), _sides(right, family)[:: -1 if inverted else 1]]
    plain, inverse = ([part for side in sides for part in side[i]] for i in (0, 1))
    undefined = left.value is None or right.value is None or (expression.operator == "/" and right.value == 0)
    value = None if undefined else _COMPUTE[expression.operator](left.value, right.value)
    return _simplest(family, value, plain, inverse)


def _sides(form: _Form, family: str) -> tuple[tuple[_Form, ...], tuple[_Form, ...]]:
    return (form.plain, form.inverse) if form.family == family else ((form,), ())


def _simplest(family: str, value: Fraction | None, plain: Sequence[_Form], inverse: Sequence[_Form]) -> _Form:
    """The form of a sum or product of these parts, without what is neutral in it."""
    neutral = _Form("0" if family == "+" else "1", Fraction(family == "*"))
    left, over = ([part for part in side if part != neutral] for side in (plain, inverse))
    pairs = []
    for part in tuple(left):
        if part in over and (family == "+" or part.value):
            left.remove(part)
            over.remove(part)
            pairs.append(_written(family, neutral.value, [part], [part]))
    said = [[part for part in side if part.value != neutral.value] for side in (left, over)]
    if not any(said):
        return min([*left, *over] or pairs or [neutral], key=lambda part: part.text)
    return said[0][0] if len(said[0]) == 1 and not said[1] else _written(family, value, *said)


def _written(family: str, value: Fraction | None, plain: Sequence[_Form], inverse: Sequence[_Form]) -> _Form:
    neutral = "0" if family == "+" else "1"
    texts = [sorted(part.text for part in side) or [neutral] for side in (plain, inverse)]
    above, below = (t[0] if len(t) == 1 else f"{family}({','.join(t)})" for t in texts)
    text = f"{'-' if family == '+' else '/'}({above},{below})" if inverse else above
    return _Form(text, value, family, tuple(plain), tuple(inverse))


def structure(expression: Expression) -> str:
    """Operators in the order of computing, digit counts in the order of the text, depth: "12 + 5" gives "+:2,1:d1"."""
    digits = ",".join(str(len(str(operand))) for operand in operands(expression))
    return f"{''.join(operators(expression))}:{digits}:d{_depth(expression)}"


def _depth(expression: Expression) -> int:
    return 0 if isinstance(expression, int) else 1 + max(_depth(expression.left), _depth(expression.right))


def cell(expression: Expression) -> Cell:
    """easy: one of + - *, operands to 10; medium: one operation, operands to 20; hard: all else.

    Monotone: a larger operand, "/" in place of another operator, or one more operation never lowers it.
    """
    used, largest = operators(expression), max(operands(expression))
    if len(used) > 1 or largest > 20:
        return HARD
    return MEDIUM if largest > 10 or "/" in used else EASY


def make_problem(text: str, version: int) -> Problem:
    """The problem that `text` states, in any spelling of the grammar; raises Rejected."""
    expression = parse(text)
    answer = check(expression)
    text, form = render(expression), canonical(expression)
    return Problem(
        id=short_hash(f"{form}\n{text}"),
        cell=cell(expression),
        statement=text,
        answer=str(answer),
        canonical=form,
        structure=structure(expression),
        author_version=version,
    )
