"""Random one-line programs over integers, lowercase strings and short lists of integers, with arguments and messages.

A program is a tree of the constructs of operations.py, drawn from the result towards the parameters; its size is their
number. The distribution: the kind of the result by KINDS, the construct among those of the kind by its weight, and in a
slot that has constants one of them by its share. What is left of the size goes to the subject, SIDE_SHARE of the time
one of it to another slot. A program has one or two parameters. A draw is repeated until it is of use (`_useful`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

from azero.domains.code.operations import (
    LETTERS,
    NAMES,
    OPERATIONS,
    Applied,
    Constant,
    Expression,
    Kind,
    Operation,
    Parameter,
    Slot,
    operations,
    parameters,
    render,
    value,
    words,
)

MAX_SIZE = 6  # operations
KINDS = {Kind.INT: 8, Kind.LIST: 6, Kind.STR: 6, Kind.BOOL: 1}  # weights
OLD_PARAMETER = 0.6  # share of the leaves that name a parameter again where a new one may be had
SIDE_SHARE = 0.25
REPEATING = ("add", "join", "chain")  # constructs that make sense of the same thing twice
MAX_INTEGER, MAX_LENGTH = 99, 8  # of a value: absolute, and characters or elements

_DRAWS = 1000  # of programs, of which about one in three is of use, and of arguments, at worst one in twelve
_TRIES = 5  # for each pair
_PROBES = 12  # arguments that tell whether a program is of use

Pairs: TypeAlias = list[tuple[tuple[Any, ...], Any]]  # arguments, output


@dataclass(frozen=True, slots=True)
class Program:
    """Holds one drawn program. Its parameters are named in their order, and all are used."""

    expression: Expression
    kinds: tuple[Kind, ...]  # of its parameters

    @property
    def text(self) -> str:
        """One line: "def f(a): return sorted(a)[1:]"."""
        return f"def f({', '.join(NAMES[: len(self.kinds)])}): return {render(self.expression)}"

    @property
    def size(self) -> int:
        """Number of operations."""
        return len(operations(self.expression))

    def __call__(self, arguments: Sequence[Any]) -> Any:
        """The value for these arguments; raises what Python would, TypeError or IndexError and the like."""
        return value(self.expression, arguments)


def draw_program(rng: random.Random, size: int) -> Program:
    """A program of `size` operations, 1 to MAX_SIZE, that is neither constant nor the identity."""
    for _ in range(_DRAWS):
        kinds: list[Kind] = []
        expression = _expression(rng, rng.choices(list(KINDS), list(KINDS.values()))[0], size, kinds)
        if expression is None or len(parameters(expression)) < len(kinds):
            continue
        program = Program(expression, tuple(kinds))
        if _useful(program, rng):
            return program
    raise ValueError(f"no program of size {size}; sizes are 1 to {MAX_SIZE}")


def draw_arguments(rng: random.Random, program: Program) -> tuple[Any, ...]:
    """Small arguments for which the program has a small value: 0 to 20, one to four different letters or of 0 to 9."""
    for _ in range(_DRAWS):
        if small(program, arguments := _arguments(rng, program)):
            return arguments
    raise ValueError(f"no arguments for {program.text!r}")


def draw_pairs(rng: random.Random, program: Program, number: int) -> Pairs | None:
    """Pairs of different arguments, of several not all with one output; None where a few tries give none."""
    found: dict[str, tuple[Any, ...]] = {}
    for _ in range(_TRIES * number):
        arguments = draw_arguments(rng, program)
        found.setdefault(repr(arguments), arguments)
        if len(found) == number:
            pairs = [(arguments, program(arguments)) for arguments in found.values()]
            return pairs if number == 1 or any(output != pairs[0][1] for _, output in pairs) else None
    return None


def draw_message(program: Program) -> str:
    """Say what the program does in a few words, for induction: "a plus 3, times 2"."""
    return words(program.expression)


def small(program: Program, arguments: Sequence[Any]) -> bool:
    """Whether the program has a value for these arguments, within the bounds of this module."""
    try:
        result = program(arguments)
    except (IndexError, ValueError):  # an item, or the largest, of too short a list
        return False
    if isinstance(result, int):
        return abs(result) <= MAX_INTEGER
    return len(result) <= MAX_LENGTH and (isinstance(result, str) or all(abs(v) <= MAX_INTEGER for v in result))


def _expression(rng: random.Random, kind: Kind, size: int, kinds: list[Kind]) -> Expression | None:
    """An expression of `size` operations, None where this draw has none; new parameters are added to `kinds`."""
    if size == 0:
        return _parameter(rng, kind, kinds)
    allowed = _of_kind(kind, size)
    if not allowed:
        return None
    operation = rng.choices(allowed, [found.weight for found in allowed])[0]
    sizes = _sizes(rng, operation, size - 1)
    slots = tuple(_slot(rng, slot, part, kinds) for slot, part in zip(operation.slots, sizes))
    if None in slots or _is_pointless(operation, slots):
        return None
    return Applied(operation, tuple(slot for slot in slots if slot is not None))


def _is_pointless(operation: Operation, slots: Sequence[Expression | None]) -> bool:
    """Whether a construct does again, or takes back, what was done to its subject, or compares a thing with itself."""
    subject, *others = slots
    if not others:
        return isinstance(subject, Applied) and subject.operation is operation
    return others[-1] == (others[0] if operation.name == "replace" else subject) and operation.name not in REPEATING


@cache
def _of_kind(kind: Kind, size: int) -> tuple[Operation, ...]:
    """Return the operations that give this kind; a conditional needs a second one for its condition."""
    found = (operation for operation in OPERATIONS.values() if operation.result is kind)
    return tuple(operation for operation in found if size >= 1 + _conditions(operation))


def _conditions(operation: Operation) -> int:
    return sum(slot.kind is Kind.BOOL for slot in operation.slots)


def _sizes(rng: random.Random, operation: Operation, size: int) -> list[int]:
    """How many of `size` operations each slot gets."""
    sizes = [int(slot.kind is Kind.BOOL) for slot in operation.slots]
    sides = [i for i, slot in enumerate(operation.slots) if i and slot.share < 1]
    left = size - sum(sizes)
    if sides and left and rng.random() < SIDE_SHARE:
        sizes[rng.choice(sides)] += 1
        left -= 1
    sizes[0] += left
    return sizes


def _slot(rng: random.Random, slot: Slot, size: int, kinds: list[Kind]) -> Expression | None:
    if size == 0 and rng.random() < slot.share:
        return Constant(rng.choice(slot.constants))
    return _expression(rng, slot.kind, size, kinds)


def _parameter(rng: random.Random, kind: Kind, kinds: list[Kind]) -> Parameter | None:
    old = [i for i, found in enumerate(kinds) if found is kind]
    if kind is Kind.BOOL or (not old and len(kinds) == len(NAMES)):
        return None
    if old and (len(kinds) == len(NAMES) or rng.random() < OLD_PARAMETER):
        return Parameter(rng.choice(old), kind)
    kinds.append(kind)
    return Parameter(len(kinds) - 1, kind)


def _arguments(rng: random.Random, program: Program) -> tuple[Any, ...]:
    return tuple(_argument(rng, kind) for kind in program.kinds)


def _argument(rng: random.Random, kind: Kind) -> Any:
    if kind is Kind.INT:
        return rng.randint(0, 20)
    length = rng.randint(1, 4)
    return "".join(rng.sample(LETTERS, length)) if kind is Kind.STR else rng.sample(range(10), length)


def _useful(program: Program, rng: random.Random) -> bool:
    """Whether several arguments give small values, not all equal, and some other than the arguments."""
    tried = (_arguments(rng, program) for _ in range(_PROBES))
    fitting = [arguments for arguments in tried if small(program, arguments)]
    values = [program(arguments) for arguments in fitting]
    is_identity = all(result in arguments for result, arguments in zip(values, fitting))
    return len(fitting) * 3 >= _PROBES and not is_identity and any(result != values[0] for result in values)
