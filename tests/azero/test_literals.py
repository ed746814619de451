"""Literal values: what is equal to what, what is read, and that no text and no value does harm."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from timing import timed

from azero.sandbox.literals import (
    MAX_DEPTH,
    MAX_SOURCE,
    MAX_TEXT,
    NotLiteral,
    canonical,
    is_literal,
    read_arguments,
    read_value,
    same,
    write,
)

NAN, INF = float("nan"), float("inf")

EQUAL: list[tuple[Any, Any]] = [
    (None, None), (True, True), (0, 0), (-0, 0), (10**199, 10**199), (1.0, 1.0), (0.1 + 0.2, 0.30000000000000004),
    (NAN, NAN), (NAN, float("-nan")), (INF, 1e999), (-INF, -1e999), (-0.0, -0.0), ("", ""), ("a", "\x61"), (b"", b""),
    ("é", "\u00e9"), ([], []), ([1, [2, []]], [1, [2, []]]), ((), ()), ((1,), (1,)), ({}, {}), (set(), set()),
    ({1: 2, 3: 4}, {3: 4, 1: 2}), ({"a": {"b": 1, "c": 2}}, {"a": {"c": 2, "b": 1}}), ({1, 2, 3}, {3, 2, 1}),
    ({"x", (1, "y")}, {(1, "y"), "x"}), ([NAN], [NAN]), ({NAN: 1}, {float("nan"): 1}), ([{1, 2}], [{2, 1}]),
    ({(1, 2): [3]}, {(1, 2): [3]}),
]  # fmt: skip
DIFFERENT: list[tuple[Any, Any]] = [
    (1, True), (0, False), (1, 1.0), (1.0, True), (1, "1"), ("1", b"1"), (None, False), (None, "None"), (0, None),
    (0.0, -0.0), (0, 0.0), (NAN, None), (NAN, "nan"), (INF, -INF), (0.1 + 0.2, 0.3), (1e16, 10**16), ("a", "A"),
    ("é", "e\u0301"), ("a", "a "), ([], ()), ([], {}), ({}, set()), ((), None), ([1, 2], [2, 1]), ([1, 2], (1, 2)),
    ([1], [1, 1]), ([1], [True]), ((1,), (1.0,)), ([[1]], [1]), (1, [1]), ((1,), 1), ({1}, {True}), ({1}, [1]),
    ({1}, {1, 2}), ({1: 2}, {True: 2}), ({1: 2}, {1: 2.0}), ({1: 2}, {2: 1}), ({1: 2}, {(1, 2)}), ({"a": 1}, {b"a": 1}),
    ({1: [1, 2]}, {1: [2, 1]}), ({1.0: 0}, {1: 0}), ([{1: 2}], [{1: True}]), ("[1]", [1]), ("{}", {}), (" ", ""),
    (b"a", [97]), ({"a": None}, {}), ([None], []), ([[], []], [[[]]]), ({0.0}, {-0.0}),
]  # fmt: skip


def test_the_table_is_long() -> None:
    assert len(EQUAL) >= 30 and len(DIFFERENT) >= 50


@pytest.mark.parametrize(("a", "b"), EQUAL)
def test_equal(a: Any, b: Any) -> None:
    assert same(a, b) and same(b, a)


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_different(a: Any, b: Any) -> None:
    assert not same(a, b) and not same(b, a)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"), (True, "True"), (-3, "-3"), (2.0, "2.0"), (-0.0, "-0.0"), (1e22, "1e+22"), ("a'b", '"a\'b"'),
        ("\n", r"'\n'"), (b"\x00", r"b'\x00'"), ([1, [2]], "[1, [2]]"), ((), "()"), ((1,), "(1,)"), ((1, 2), "(1, 2)"),
        (set(), "set()"), ({3, 1, 2}, "{1, 2, 3}"), ({"b": 1, "a": {2}}, "{'b': 1, 'a': {2}}"), (NAN, "float('nan')"),
        ([-INF], "[float('-inf')]"),
    ],
)  # fmt: skip
def test_how_values_are_written(value: Any, text: str) -> None:
    assert write(value) == text and same(read_value(text), value)


def test_a_dict_is_written_in_its_order_and_canonical_in_any() -> None:
    assert write({2: 0, 1: 0}) == "{2: 0, 1: 0}" and canonical({2: 0, 1: 0}) == "{1: 0, 2: 0}"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (" 3 ", 3), ("3\n", 3), ("+3", 3), ("-3", -3), ("0x1F", 31), ("1_000", 1000), ("1e3", 1000.0), ("'a' 'b'",
        "ab"),
        ('"""x"""', "x"), ("r'\\d'", "\\d"), ("b'x'", b"x"), ("(((3)))", 3), ("[1,2,]", [1, 2]), ("1, 2", (1, 2)),
        ("{1: 2, 1: 3}", {1: 3}), ("{1, 1}", {1}), ("nan", NAN), ("-inf", -INF), ("float('inf')", INF), ("set()",
        set()),
        ("3 # because", 3), ("[\n1\n]", [1]), ("{}", {}), ("{'[': '(' * 1}", None), ("'[[[[[[[[[[[[[[[[[[[[[['",
        "[" * 22),
    ],
)  # fmt: skip
def test_what_is_read(text: str, value: Any) -> None:
    if value is None:
        with pytest.raises(NotLiteral):
            read_value(text)
    else:
        assert same(read_value(text), value)


NO_LITERALS = (
    "", " ", "x", "a.b", "f(1)", "1 + 1", "--1", "-True", "-'a'", "not True", "1 if 1 else 2", "[x for x in [1]]",
    "lambda: 1", "f'{1}'", "...", "1j", "1+2j", "{[1]: 2}", "{[1]}", "{{}}", "{**{}}", "[*[1]]", "{*[1]}", "[1", "1]",
    "1\n2", "x = 1", "x := 1", "set([1])", "frozenset()", "float('x')", "float(1)", "float('nan', 1)", "set(x=1)",
    "dict()",
    "Set()", "0777", "1__0", "'a", "__import__('os')", "open('/etc/passwd')", "await 1", "yield", "\0", "'\0'",
    "\ud800",
    "'\ud800'", r"'\ud800'", "9" * 301, "'" + "a" * MAX_TEXT + "'", "[" * 21 + "]" * 21, "1" * (MAX_SOURCE + 1),
    "[" * 1000 + "]" * 1000, "(" * 1900, "-" * 1900 + "1", "lambda:" * 280 + "1", "1" + "+1" * 900, "a" + ".a" * 900,
    "not " * 490 + "1", "[" + "1," * 990 + "]", "{" * 1000, "f'{" * 600, "\\" * 1999, "'" * 1999, "0x" + "f" * 1990,
    "1." + "0" * 1990 + "1j", "\t" * 1999, "\f" * 100, "\u202e3", "３", "²", "٣x", "if True: 1",
)  # fmt: skip


@pytest.mark.parametrize("text", NO_LITERALS)
def test_what_is_no_literal(text: str) -> None:
    with pytest.raises(NotLiteral) as e:
        read_value(text)
    assert "\n" not in str(e.value) and len(str(e.value)) < 100


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("3, [1, 2]", (3, [1, 2])), ("3", (3,)), ("", ()), ("'a',", ("a",)), ("(1, 2)", ((1, 2),)), ("\n1,\n2\n",
        (1, 2)),
        ("')', '('", (")", "(")), ("1 # one", (1,)), ("-1, -0.0", (-1, -0.0)),
    ],
)  # fmt: skip
def test_arguments(text: str, arguments: tuple[Any, ...]) -> None:
    assert same(list(read_arguments(text)), list(arguments))


@pytest.mark.parametrize(
    "text",
    [
        "x", "a=1", "*[1]", "**{}", "x for x in []", "1)", ")", "1)(2", "1) + f(2", "1), f(2", "1) #", "1; 2",
        "1\n)\n(2",
        "g(1)", "1 2", ",", "\0", "\ud800", "(" * 500, "1" * 2001, "1, 'x" + "y" * 200 + "'",
    ],
)  # fmt: skip
def test_no_arguments(text: str) -> None:
    with pytest.raises(NotLiteral):
        read_arguments(text)


class Lying(int):
    def __repr__(self) -> str:
        return "8"


def shared(depth: int) -> list[Any]:
    """A list that holds one list twice, which does so too, and so on: 2^depth of them when written."""
    made: list[Any] = []
    for _ in range(depth):
        made = [made, made]
    return made


def holding_itself() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


def deep(depth: int) -> list[Any]:
    made: list[Any] = []
    for _ in range(depth - 1):
        made = [made]
    return made


@pytest.mark.parametrize(
    "value",
    [
        object(), int, len, range(3), frozenset(), 1j, ..., bytearray(), Lying(7), [Lying(7)], {Lying(7)},
        {1: object()},
        "a" * 199, b"a" * 198, "\0" * 60, [1] * 67, 10**200, 10**100_000, "\ud800", shared(18), shared(60), deep(21),
        deep(10_000), holding_itself(), list(range(10**6)), "a" * 10**7, {"a": holding_itself()},
        {i: i for i in range(10**5)},
    ],
    ids=lambda v: type(v).__name__,
)  # fmt: skip
def test_what_is_no_literal_value(value: Any) -> None:
    literal, seconds = timed(lambda: is_literal(value), 0.1)
    assert not literal and seconds < 0.1


@pytest.mark.parametrize("value", ["a" * 198, b"a" * 197, [1] * 66, 10**199, deep(MAX_DEPTH), shared(5), -(10**198)])
def test_what_just_is_one(value: Any) -> None:
    assert is_literal(value) and len(write(value)) <= MAX_TEXT and same(read_value(write(value)), value)


scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=8)
    | st.integers(-(10**190), 10**190)
)  # fmt: skip
hashable = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=4)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(hashable, inner, max_size=4)
        | st.lists(hashable, max_size=4).map(set)
    ),
    max_leaves=8,
)
lenient = settings(
    max_examples=100, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


@lenient
@given(values)
def test_what_is_written_is_read_as_the_same_value(value: Any) -> None:
    if is_literal(value):
        read = read_value(write(value))
        assert same(read, value) and write(read) == write(value)
        assert same(read_arguments(f"{write(value)}, 1")[0], value)


@settings(lenient, max_examples=500)
@given(st.text("019-[], ", max_size=12))
def test_the_quick_way_reads_what_the_other_does(text: str) -> None:
    def outcome(reader: Any, given: str) -> Any:
        try:
            return reader(given)
        except NotLiteral:
            return NotLiteral

    assert repr(outcome(read_value, text)) == repr(outcome(read_value, f"{text} # no JSON"))
    assert repr(outcome(read_arguments, text)) == repr(outcome(read_arguments, f"{text} # no JSON"))


@lenient
@given(values, values)
def test_same_values_are_those_that_python_and_their_types_call_equal(a: Any, b: Any) -> None:
    if is_literal(a) and is_literal(b):
        assert same(a, b) == typed_equal(a, b)
        assert same(a, read_value(write(a)))


def typed_equal(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(typed_equal, a, b))
    if isinstance(a, dict):
        return typed_equal(paired(a.items()), paired(b.items()))
    return typed_equal(paired(a), paired(b)) if isinstance(a, set) else a == b


def paired(members: Any) -> list[Any]:
    return sorted(members, key=lambda m: canonical(m[0]) if isinstance(m, tuple) and len(m) == 2 else canonical(m))
