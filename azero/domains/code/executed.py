"""How much of a program runs: its nodes that are executed at least once, which the tier goes by.

Statements are counted, each with its expressions: of a choice inside one expression both branches count. What never
runs, such as a block under `if False`, makes no problem harder.
"""

from __future__ import annotations

import ast

from azero.domains.code.programs import Program
from azero.sandbox.literals import MODEL_TEXT

_SEEN, _INNER = "_seen", "_f"


def marked(program: Program) -> str:
    """Return a program whose `f` runs the given one, and returns how many statements and expressions ran."""
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
