"""Programs and inputs like a given one: by what runs of it, and by what else it gives, a problem is judged."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from azero.domains.code.programs import Program
from azero.sandbox.literals import MODEL_TEXT, is_literal, same_each

_SEEN, _INNER = "_seen", "_f"


def marked(program: Program) -> str:
    """Return a program whose `f` runs the given one, and returns how many statements and expressions ran.

    Statements are counted, each with its expressions: of a choice inside one expression both branches count. What never
    runs, such as a block under `if False`, makes no problem harder.
    """
    tree = _Mark().visit(ast.parse(program.text, MODEL_TEXT))
    names = ", ".join(program.parameters)
    call = f"def f({names}):\n    {_INNER}({names})\n    return sum({_SEEN}.values())"
    return f"{_SEEN} = {{}}\n{ast.unparse(ast.fix_missing_locations(tree))}\n{call}"


class _Mark(ast.NodeTransformer):
    """Puts before each statement another that notes its number of nodes, and calls `f` by another name."""

    def __init__(self) -> None:
        self.number = 0

    def visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, ast.Name) and node.id == "f":
            node.id = _INNER
        if isinstance(node, ast.FunctionDef) and node.name == "f":
            node.name = _INNER
        for key in ("body", "orelse", "finalbody"):
            if isinstance(block := getattr(node, key, None), list):
                setattr(node, key, [new for statement in block for new in (self._mark(statement), statement)])
        return self.generic_visit(node)

    def _mark(self, statement: ast.stmt) -> ast.stmt:
        self.number += 1
        return ast.parse(f"{_SEEN}[{self.number}] = {_own(statement)}").body[0]


def _own(statement: ast.stmt) -> int:
    """Number of nodes of a statement without the statements in it."""
    found, open_ = 1, [child for child in ast.iter_child_nodes(statement) if not isinstance(child, ast.stmt)]
    while open_:
        node = open_.pop()
        found += isinstance(node, ast.expr)
        open_ += [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.stmt)]
    return found


def others_like(arguments: tuple[Any, ...], program: Program) -> list[tuple[Any, ...]]:
    """Two other argument lists of the same types, or fewer where the types have no others.

    They hold the constants that the program names: `a.count('c')` is constant on strings without a c.
    """
    found = [node.value for node in ast.walk(program.function) if isinstance(node, ast.Constant)]
    named: dict[type, list[Any]] = {kind: [value for value in found if type(value) is kind] for kind in (int, str)}
    tried = [tuple(_other(v, (k + i) % 2, named) for i, v in enumerate(arguments)) for k in (0, 1)]
    return [other for other in tried if all(map(is_literal, other)) and not same_each(other, arguments)]


def _other(value: Any, k: int, named: dict[type, list[Any]]) -> Any:
    """One of two other values of the same type: a larger one, or a smaller or turned one."""
    match value:
        case bool():
            return not value
        case int():
            return max(value, *named[int], 0) + 7 if k == 0 else min(value // 2, *named[int], value) - 2
        case float():
            return value + 1.5 if k == 0 else value / 2 - 1
        case str():
            first = "c" if value[:1] == "b" else "b"
            return "".join([first, value, value, *named[str]]) if k == 0 else "".join(map(_next, value[::-1]))
        case bytes():
            return b"b" + value + value if k == 0 else value[::-1]
        case list() | tuple():
            return type(value)(_longer(value, named) if k == 0 else [_other(v, k, named) for v in value[::-1]])
        case dict():
            return {key: _other(v, k, named) for key, v in value.items()}
        case set():
            return {_other(v, k, named) for v in value}
    return value


def _longer(values: Sequence[Any], named: dict[type, list[Any]]) -> list[Any]:
    """Three times as many, with the constants of their type; of an empty list two numbers."""
    others = [_other(v, 0, named) for v in values] or [2, 1]
    constants = named.get(type(values[0]), []) if values else []
    return [*others, *values, *others[:1], *constants]


def _next(letter: str) -> str:
    return chr(ord(letter) + 1) if letter.isascii() and letter.isalpha() and letter not in "zZ" else letter
