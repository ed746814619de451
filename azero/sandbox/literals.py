"""Literal values: what goes into a sandbox and comes out of it, and how they are written and read as text.

A literal is None, a bool, int, float, str, bytes, or a list, tuple, dict or set of literals, of exactly these types,
that `write` writes in at most MAX_TEXT characters. Text is read by a walk over Python's own syntax tree, after its
length was checked. It is never evaluated.
"""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from collections.abc import Sequence
from typing import Any

MAX_TEXT = 200  # characters of a value as it is written; CODE.md, validity 4
MAX_DIGITS = 300  # of an integer
MAX_DEPTH = 20  # containers in one another
MAX_SOURCE = 2_000  # characters of a text that is read: a value may be written with blanks and escapes

MODEL_TEXT = "<model text>"
# Python's parser warns of "1if" and the like. Nobody wrote that in this program, and a log would fill with it.
warnings.filterwarnings("ignore", module=re.escape(MODEL_TEXT))

_MAX_BITS = int(MAX_DIGITS * math.log2(10))  # an integer is measured before its digits are computed: they cost time
_SURROGATE = re.compile("[\ud800-\udfff]")
_INTEGERS = re.compile(r"[0-9\[\], -]{1,200}", re.ASCII)
_FLOATS = {"nan": "float('nan')", "inf": "float('inf')", "-inf": "float('-inf')"}
_SCALARS = (type(None), bool, int, float, str, bytes)
_BRACKETS: dict[type, tuple[str, str]] = {list: ("[", "]"), tuple: ("(", ")"), set: ("{", "}")}


class NotLiteral(ValueError):
    """A text or a value that is no literal within the bounds. The message says why, in a few words."""


def write(value: Any) -> str:
    """Return the text that `read_value` reads back to an equal value. It is Python, and gives the same value there.

    A dict keeps its order, as a program may depend on it; a set is sorted by its members' texts. Raises NotLiteral.
    """
    return _text(value, MAX_DEPTH, in_order=False)


def canonical(value: Any) -> str:
    """Return one text for all values that are equal by type and structure: as `write`, with a dict's entries sorted.

    Raises NotLiteral.
    """
    return _text(value, MAX_DEPTH, in_order=True)


def same(a: Any, b: Any) -> bool:
    """Tell whether two literals are equal by type and structure.

    True is not 1, and 1 is not 1.0. Floats are equal by their repr: 0.0 is not -0.0, and nan equals nan. The order of a
    dict's entries does not count. Raises NotLiteral where a value is none.
    """
    return canonical(a) == canonical(b)


def same_each(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Tell whether two lists of arguments hold the same literals. Together they may be longer than one literal.

    Raises NotLiteral where one of them is none.
    """
    return len(a) == len(b) and all(map(same, a, b))


def is_literal(value: Any) -> bool:
    """Tell whether `write` accepts the value. Time and memory are bounded whatever it is."""
    try:
        write(value)
    except NotLiteral:
        return False
    return True


def read_value(text: str) -> Any:
    """Return the value of one literal. Raises NotLiteral for everything else, whatever the text.

    Read are also nan and inf, bare or as float('nan'), and set(), which Python has no literal for.
    """
    plain = _plain(text)
    return _checked(_value(_parsed(text), MAX_DEPTH) if plain is None else plain)


def read_arguments(text: str) -> tuple[Any, ...]:
    """Return the arguments of a call: "3, [1, 2]" is (3, [1, 2]).

    Raises NotLiteral where one is no literal, is named or is starred, whatever the text.
    """
    if len(text) > MAX_SOURCE:
        raise NotLiteral(f"more than {MAX_SOURCE} characters")
    if (plain := _plain(f"[{text}]")) is not None:
        return tuple(map(_checked, plain))
    call = _parsed(f"f({text}\n)", MAX_SOURCE + len("f(\n)"))
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.keywords):
        raise NotLiteral("no list of arguments")
    return tuple(_checked(_value(node, MAX_DEPTH)) for node in call.args)


def _plain(text: str) -> Any:
    """Return what integers and lists of them are, which JSON and Python write alike; None for all else. It is quick."""
    if not _INTEGERS.fullmatch(text):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # brackets that do not fit, or commas where Python may have them
        return None


def _checked(value: Any) -> Any:
    _text(value, MAX_DEPTH, in_order=False)
    return value


def _parsed(text: str, longest: int = MAX_SOURCE) -> ast.expr:
    if len(text) > longest:
        raise NotLiteral(f"more than {MAX_SOURCE} characters")
    try:
        return ast.parse(text.strip(), filename=MODEL_TEXT, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as e:  # null bytes, lone surrogates, deep nesting
        raise NotLiteral("no Python expression") from e


def _value(node: ast.expr, depth: int) -> Any:
    if isinstance(node, ast.Constant):
        if type(node.value) not in _SCALARS:
            raise NotLiteral(f"{type(node.value).__name__} is no literal's type")
        return node.value
    if not depth:
        raise NotLiteral(f"more than {MAX_DEPTH} levels deep")
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        members = [_value(member, depth - 1) for member in node.elts]
        if isinstance(node, ast.Set):
            return set(_hashable(members))
        return members if isinstance(node, ast.List) else tuple(members)
    if isinstance(node, ast.Dict):
        keys = [_value(key, depth - 1) for key in node.keys if key]
        if len(keys) < len(node.values):
            raise NotLiteral("a dict of dicts")
        return dict(zip(_hashable(keys), [_value(value, depth - 1) for value in node.values]))
    return _word(node)


def _word(node: ast.expr) -> Any:
    """The value of a signed number, and of what Python writes by name."""
    match node:
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=ast.Constant() | ast.Name() as operand):
            number = _value(operand, 1)
            if type(number) not in (int, float):
                raise NotLiteral("a sign before no number")
            return -number if isinstance(sign, ast.USub) else number
        case ast.Name(id="nan" | "inf" as name):
            return float(name)  # a new object each: nan is equal to itself alone in a set
        case ast.Call(func=ast.Name(id="set"), args=[], keywords=[]):
            return set()
        case ast.Call(
            func=ast.Name(id="float"), args=[ast.Constant(value="nan" | "inf" | "-inf" as name)], keywords=[]
        ):
            return float(name)
    raise NotLiteral(f"{type(node).__name__} is no literal")


def _hashable(members: list[Any]) -> list[Any]:
    """The same members. Raises NotLiteral where a set or the keys of a dict cannot hold one."""
    try:
        for member in members:
            hash(member)
    except TypeError as e:
        raise NotLiteral(str(e)) from e
    return members


def _text(value: Any, depth: int, in_order: bool, room: int = MAX_TEXT) -> str:
    """The text in at most `room` characters. Each container gives its members what is left, so that work is bounded."""
    kind = type(value)
    if value is None or kind is bool:
        text = str(value)
    elif kind is int:
        if value.bit_length() > _MAX_BITS:
            raise NotLiteral(f"more than {MAX_DIGITS} digits")
        text = str(value)
    elif kind is float:
        text = repr(value)
        text = _FLOATS.get(text, text)
    elif kind is str or kind is bytes:
        if len(value) > room:
            raise NotLiteral(f"more than {MAX_TEXT} characters")
        if kind is str and _SURROGATE.search(value):
            raise NotLiteral("half a character")  # which no file, no tokenizer and no worker takes
        text = repr(value)
    elif kind is dict:
        text = _dict_text(value, depth, in_order, room)
    elif kind in _BRACKETS:
        text = _container_text(value, depth, in_order, room)
    else:
        raise NotLiteral(f"{kind.__name__[:40]} is no literal's type")
    if len(text) > room:
        raise NotLiteral(f"more than {MAX_TEXT} characters")
    return text


def _container_text(value: Any, depth: int, in_order: bool, room: int) -> str:
    if type(value) is set and not value:
        return "set()"
    members = _texts(value, depth, in_order, room)
    if type(value) is set:
        members.sort()
    start, end = _BRACKETS[type(value)]
    comma = "," if type(value) is tuple and len(members) == 1 else ""
    return f"{start}{', '.join(members)}{comma}{end}"


def _dict_text(value: dict[Any, Any], depth: int, in_order: bool, room: int) -> str:
    keys = _texts(value, depth, in_order, room)
    entries = [f"{k}: {v}" for k, v in zip(keys, _texts(value.values(), depth, in_order, room))]
    return "{" + ", ".join(sorted(entries) if in_order else entries) + "}"


def _texts(members: Any, depth: int, in_order: bool, room: int) -> list[str]:
    if not depth:
        raise NotLiteral(f"more than {MAX_DEPTH} levels deep")
    if 3 * len(members) > room + 2:  # a character, a comma and a blank each
        raise NotLiteral(f"more than {MAX_TEXT} characters")
    texts: list[str] = []
    for member in members:
        room -= 2
        texts.append(_text(member, depth - 1, in_order, max(room, 0)))
        room -= len(texts[-1])
    return texts
