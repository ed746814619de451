"""Programs as text: a bounded parser with named reasons, and pure functions of the syntax tree.

A program is Python that defines one function `f`. It is parsed and looked at here, and only ever run in a sandbox.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from azero.domains.base import Rejected
from azero.sandbox.literals import MODEL_TEXT, NotLiteral, read_value

MODULES = ("bisect", "collections", "functools", "itertools", "json", "math", "operator", "re")
FORBIDDEN = frozenset(
    {
        *("random", "secrets", "time", "datetime", "id", "hash", "input", "print", "open", "eval", "exec", "compile"),
        *("globals", "locals", "vars", "getattr", "setattr", "delattr", "breakpoint", "exit", "quit", "help"),
        "memoryview",
    }
)
MAX_PARAMETERS = 8
MAX_NESTING = 50  # levels of the tree: Python's own functions on trees are recursive


class Reason(StrEnum):
    """Why a proposal is not a valid problem; docs/code.md has the table."""

    UNPARSEABLE = "unparseable"  # not of the form that was asked for, or no Python
    NO_FUNCTION = "no_function"  # `f` is not defined, or more than once
    SIZE = "program_size"  # too many characters, nodes, or levels
    TOP_LEVEL = "top_level"  # beside imports, functions, classes and assignments
    SIGNATURE = "signature"  # no parameter, too many, or a default, a star, or one by keyword only
    NO_VALUE = "no_value"  # `f` returns none
    IMPORT = "forbidden_import"
    NAME = "forbidden_name"
    UNUSED = "unused_parameter"
    INPUT = "no_input"  # an input that is no list of literals, or of another length than the parameters
    FEW_INPUTS = "few_inputs"  # of induction: fewer different ones than asked for
    NO_MESSAGE = "no_message"
    UNSUPPORTED = "unsupported"  # outside the sandbox's subset of Python
    RAISES = "raises"
    TIME = "time_limit"
    MEMORY = "memory_limit"
    RECURSION = "recursion_limit"
    PERMISSION = "permission"
    CRASH = "crash"
    NOT_LITERAL = "not_literal"  # the value is no literal, or too large a one
    NOT_DETERMINISTIC = "not_deterministic"
    CONSTANT = "constant"
    IDENTITY = "identity"
    ANSWER_SHOWN = "answer_shown"  # the answer stands in the solver's prompt
    MESSAGE_SHOWS_PROGRAM = "message_shows_program"
    REPEATS_REFERENCE = "repeats_reference"
    IN_EVALUATION = "in_evaluation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How large a program may be."""

    characters: int = 2_000
    nodes: int = 200


@dataclass(frozen=True, slots=True)
class Program:
    """One program within the rules."""

    text: str  # normalised: as Python writes the tree, without comments, docstrings, annotations and blank lines
    parameters: tuple[str, ...]
    tree: ast.Module = field(compare=False, repr=False)

    @property
    def function(self) -> ast.FunctionDef:
        """The definition of `f`."""
        return next(s for s in self.tree.body if isinstance(s, ast.FunctionDef) and s.name == "f")

    @property
    def is_one_line(self) -> bool:
        """Whether it is "def f(...): return ..."."""
        return len(self.tree.body) == 1 and _is_return_alone(self.function)


def parse(text: str, bounds: Bounds) -> Program:
    """The program of a text in any spelling. Raises Rejected with the first rule that it breaks, whatever the text."""
    tree = _Clean().visit(tree_of(text, bounds))
    function = next(s for s in tree.body if isinstance(s, ast.FunctionDef) and s.name == "f")
    allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign)
    if not all(isinstance(statement, allowed) for statement in tree.body):
        raise Rejected(Reason.TOP_LEVEL)
    program = Program(_written(tree), _parameters(function), tree)
    if not any(node.value is not None for node in _own(function) if isinstance(node, ast.Return)):
        raise Rejected(Reason.NO_VALUE)
    _require_names(tree)
    return program


def tree_of(text: str, bounds: Bounds) -> ast.Module:
    """The syntax tree of a text that defines one `f`, within the bounds: the least that can be run. Raises Rejected."""
    if len(text) > bounds.characters:
        raise Rejected(Reason.SIZE)
    try:
        tree = ast.parse(text, MODEL_TEXT)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as e:  # null bytes, lone surrogates, deep nesting
        raise Rejected(Reason.UNPARSEABLE) from e
    if _count(tree) > bounds.nodes or _levels(tree) > MAX_NESTING:
        raise Rejected(Reason.SIZE)
    named = [statement for statement in tree.body if getattr(statement, "name", "") == "f"]
    if len(named) != 1 or not isinstance(named[0], ast.FunctionDef):
        raise Rejected(Reason.NO_FUNCTION)
    return tree


def require_use(program: Program) -> None:
    """Raises Rejected where a parameter's name is not read in the function's body."""
    body = [node for statement in program.function.body for node in ast.walk(statement)]
    read = {node.id for node in body if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    if not read.issuperset(program.parameters):
        raise Rejected(Reason.UNUSED)


def nodes(program: Program) -> int:
    """Number of statements and expressions of the tree."""
    return _count(program.tree)


def canonical(program: Program) -> str:
    """The program's text with its own names replaced by v0, v1, ... in order of appearance; `f` keeps its name."""
    tree = ast.parse(program.text, MODEL_TEXT)
    return _written(_Rename(own_names(tree) - {"f"}).visit(tree))


def structure(program: Program) -> str:
    """Kinds of nodes and called names with their numbers, rounded to 1, 2, 3 and 5: no names and no constants."""
    kinds: Counter[str] = Counter()
    for node in ast.walk(program.function):
        if isinstance(node, ast.Call):
            named = node.func
            kinds[f"{getattr(named, 'id', '') or '.' + getattr(named, 'attr', '')}()"] += 1
        elif isinstance(node, ast.expr | ast.stmt | ast.operator | ast.cmpop) and not isinstance(
            node, ast.Name | ast.Constant | ast.FunctionDef
        ):
            kinds[type(node).__name__] += 1
    return " ".join(f"{kind}{_rounded(number)}" for kind, number in sorted(kinds.items()))


def returned_literals(program: Program) -> list[Any]:
    """The literals that may be the function's value as they stand: of its returns and what these choose from."""
    found, open_ = [], [node.value for node in _own(program.function) if isinstance(node, ast.Return) and node.value]
    while open_:
        node = open_.pop()
        match node:
            case ast.IfExp(body=then, orelse=other):
                open_ += [then, other]
            case ast.BoolOp(values=values):
                open_ += values
            case ast.Subscript(value=ast.Dict(values=values) | ast.List(elts=values) | ast.Tuple(elts=values)):
                open_ += values
            case ast.Call(func=ast.Attribute(value=ast.Dict(values=values), attr="get"), args=[_, *default]):
                open_ += [*values, *default]
            case _:
                try:
                    found.append(read_value(ast.unparse(node)))
                except NotLiteral:
                    continue
    return found


def spelt(tree: ast.AST) -> str:
    """Python's own spelling of a tree. Raises Rejected where it has none: of some characters inside an f-string."""
    try:
        return ast.unparse(tree)
    except (ValueError, RecursionError) as e:
        raise Rejected(Reason.UNPARSEABLE) from e


def _written(tree: ast.Module) -> str:
    """Python's own spelling without blank lines, in one line where a return is all. Raises Rejected."""
    function, lines = tree.body[0], spelt(tree).split("\n")
    if len(tree.body) == 1 and isinstance(function, ast.FunctionDef) and _is_return_alone(function):
        lines = [f"{lines[0]} {lines[1].strip()}", *lines[2:]]
    text = "\n".join(line for line in lines if line.strip())
    if any(isinstance(node, ast.JoinedStr) for node in ast.walk(tree)) and not _says(text, tree):
        raise Rejected(Reason.UNPARSEABLE)  # one of its strings holds a line break as it is
    return text


def _says(text: str, tree: ast.Module) -> bool:
    try:
        return ast.dump(ast.parse(text, MODEL_TEXT)) == ast.dump(tree)
    except SyntaxError:
        return False


def _is_return_alone(function: ast.FunctionDef) -> bool:
    return len(function.body) == 1 and isinstance(function.body[0], ast.Return) and not function.decorator_list


def _parameters(function: ast.FunctionDef) -> tuple[str, ...]:
    a = function.args
    names = tuple(argument.arg for argument in (*a.posonlyargs, *a.args))
    if a.vararg or a.kwarg or a.kwonlyargs or a.defaults or function.decorator_list:
        raise Rejected(Reason.SIGNATURE)
    if not 1 <= len(names) <= MAX_PARAMETERS:
        raise Rejected(Reason.SIGNATURE)
    return names


def _require_names(tree: ast.Module) -> None:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                if any(alias.name not in MODULES for alias in names):
                    raise Rejected(Reason.IMPORT)
            case ast.ImportFrom(module=module, level=level):
                if level or module not in MODULES:
                    raise Rejected(Reason.IMPORT)
            case ast.Name(id="f", ctx=ast.Store() | ast.Del()) | ast.arg(arg="f"):
                raise Rejected(Reason.NO_FUNCTION)
            case ast.alias(asname="f") | ast.alias(name="f"):
                raise Rejected(Reason.NO_FUNCTION)
            case ast.Name(id=name) | ast.Attribute(attr=name):
                if name.startswith("__") or (name in FORBIDDEN and isinstance(node, ast.Name)):
                    raise Rejected(Reason.NAME)
            case ast.Global():
                raise Rejected(Reason.NAME)


def _own(function: ast.FunctionDef) -> Iterator[ast.AST]:
    """The nodes of a function without those of the functions and classes in it."""
    open_: list[ast.AST] = [*function.body]
    while open_:
        node = open_.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            open_ += ast.iter_child_nodes(node)


def _count(tree: ast.AST) -> int:
    return sum(isinstance(node, ast.expr | ast.stmt) for node in ast.walk(tree))


def _levels(tree: ast.AST) -> int:
    levels, layer = 0, [tree]
    while layer:
        levels, layer = levels + 1, [child for node in layer for child in ast.iter_child_nodes(node)]
    return levels


def _rounded(number: int) -> str:
    return "" if number == 1 else str(number if number < 3 else 3 if number < 5 else 5)


def own_names(tree: ast.AST) -> set[str]:
    """Names that the program itself gives: to parameters, variables, functions and classes, not to their attributes."""
    names, attributes = set[str](), set[str]()
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef(body=body):
                attributes |= {getattr(s, "name", "") or getattr(getattr(s, "target", None), "id", "") for s in body}
                attributes |= {
                    t.id for s in body if isinstance(s, ast.Assign) for t in s.targets if isinstance(t, ast.Name)
                }
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                names.add(name)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                names.add(name)
    return names - attributes


class _Rename(ast.NodeTransformer):
    def __init__(self, bound: set[str]) -> None:
        self.bound, self.names = bound, dict[str, str]()

    def visit(self, node: ast.AST) -> Any:
        for key in ("id", "arg", "name"):
            if isinstance(name := getattr(node, key, None), str) and not isinstance(node, ast.keyword | ast.alias):
                setattr(node, key, self._new(name))
        if isinstance(node, ast.Nonlocal):
            node.names = [self._new(name) for name in node.names]
        return self.generic_visit(node)

    def _new(self, name: str) -> str:
        return self.names.setdefault(name, f"v{len(self.names)}") if name in self.bound else name


class _Clean(ast.NodeTransformer):
    """Drops what does not run: strings that stand alone, and annotations outside classes, whose fields they may be."""

    def visit(self, node: ast.AST) -> Any:
        node = self.generic_visit(node)
        for key in ("body", "orelse", "finalbody"):
            if isinstance(block := getattr(node, key, None), list):
                kept = [statement for statement in block if not _is_comment(statement)]
                if not isinstance(node, ast.ClassDef):
                    kept = [_plain(statement) for statement in kept]
                setattr(node, key, kept or (block and [ast.Pass()]))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
        return node


def _is_comment(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _plain(statement: ast.stmt) -> ast.stmt:
    if isinstance(statement, ast.AnnAssign) and statement.value is not None:
        return ast.copy_location(ast.Assign(targets=[statement.target], value=statement.value), statement)
    return statement
