"""Values of programs: equality by type and structure, and by name what azero/sandbox/literals.py reads and writes."""

from __future__ import annotations

from typing import Any

from azero.sandbox.literals import (
    MAX_DEPTH,
    MAX_DIGITS,
    MAX_SOURCE,
    MAX_TEXT,
    NotLiteral,
    canonical,
    is_literal,
    read_arguments,
    read_value,
    write,
)

__all__ = [
    "MAX_DEPTH",
    "MAX_DIGITS",
    "MAX_SOURCE",
    "MAX_TEXT",
    "NotLiteral",
    "canonical",
    "is_literal",
    "read_arguments",
    "read_value",
    "same",
    "write",
]


def same(a: Any, b: Any) -> bool:
    """Tell whether two literals are equal by type and structure.

    True is not 1, and 1 is not 1.0. Floats are equal by their repr: 0.0 is not -0.0, and nan equals nan. The order of a
    dict's entries does not count. Raises NotLiteral where a value is none.
    """
    return canonical(a) == canonical(b)
