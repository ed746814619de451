"""Programs as text: their normal form, what two of them share, how much of them runs."""

from __future__ import annotations

from typing import Any

import pytest

from azero.domains.code.messages import telling_lines
from azero.domains.code.programs import (
    Bounds,
    Program,
    Reason,
    Rejected,
    canonical,
    nodes,
    parse,
    returned_literals,
    structure,
)
from azero.domains.code.variants import marked, others_like
from azero.sandbox.monty import MontySandbox

LOOP = """
def helper(values: list) -> int:  # a comment
    "Adds."
    total: int = 0

    for value in values:
        total += value
    return total

def f(a, b):
    return helper(a) + b
"""
CHOICE = "def f(a):\n    if a > 3:\n        return a * 2 + 1\n    return a"


def program(text: str) -> Program:
    return parse(text, Bounds())


def test_normal_form_is_without_comments_docstrings_annotations_and_blank_lines() -> None:
    assert program("def f( a : int )->int :\n\n  'Adds one.'\n  return a+1 # so").text == "def f(a): return a + 1"
    assert program(LOOP).text == (
        "def helper(values):\n    total = 0\n    for value in values:\n        total += value\n    return total\n"
        "def f(a, b):\n    return helper(a) + b"
    )
    assert program("def f(a):\n    if a:\n        'why'\n    return a").text == (
        "def f(a):\n    if a:\n        pass\n    return a"
    )
    fields = "from collections import Counter\nclass P:\n    x: int = 1\ndef f(a):\n    return Counter(a)[P.x]"
    assert program(fields).text == fields
    assert program(program(LOOP).text) == program(LOOP)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("def f(a): return a + 1", "def f(value):\n    '''doc'''\n    return value  +  1"),
        ("def f(a, b): return b - a", "def f(b, a): return a - b"),
        ("def f(a): return [x for x in a]", "def f(x): return [a for a in x]"),
        ("def f(a):\n    def g(n):\n        return n\n    return g(a)",
         "def f(n):\n    def h(m):\n        return m\n    return h(n)"),
        ("def f(a):\n    try:\n        return int(a)\n    except ValueError as e:\n        return 0",
         "def f(b):\n    try:\n        return int(b)\n    except ValueError as why:\n        return 0"),
    ],
)  # fmt: skip
def test_canonical_form_knows_no_names(one: str, other: str) -> None:
    assert canonical(program(one)) == canonical(program(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("def f(a): return a + 1", "def f(a): return a + 2"),
        ("def f(a): return a + 1", "def f(a): return 1 + a"),
        ("def f(a, b): return a - b", "def f(a, b): return b - a"),
        ("def f(a): return len(a)", "def f(a): return sum(a)"),
        ("def f(a): return a.upper()", "def f(a): return a.lower()"),
        ("def f(a): return sorted(a, key=len)", "def f(a): return sorted(a, key=str)"),
    ],
)
def test_canonical_form_keeps_what_counts(one: str, other: str) -> None:
    assert canonical(program(one)) != canonical(program(other))


def test_canonical_form_is_spelt() -> None:
    assert canonical(program(LOOP)) == (
        "def v0(v1):\n    v2 = 0\n    for v3 in v1:\n        v2 += v3\n    return v2\n"
        "def f(v4, v5):\n    return v0(v4) + v5"
    )


def test_structure_sees_ideas_and_not_constants_or_names() -> None:
    assert (
        structure(program("def f(a): return a + 1"))
        == structure(program("def f(x): return x + 99"))
        == "Add BinOp Return"
    )
    assert structure(program("def f(a): return a - 1")) == "BinOp Return Sub"
    assert structure(program("def f(a): return len(a)")) == "Return len()"
    several = "def f(a): return " + " + ".join("a" * 5)  # four sums are as three
    assert structure(program(several)) == "Add3 BinOp3 Return"


def test_nodes_are_statements_and_expressions() -> None:
    assert nodes(program("def f(a): return a + 1")) == 5  # def, return, sum, a, 1
    assert nodes(program("def f(a): return sorted(a)[1:]")) == 8  # def, return, item, call, sorted, a, slice, 1


@pytest.mark.parametrize(
    ("text", "arguments", "ran"),
    [
        (CHOICE, (2,), 7),  # def, if, the three of a > 3, return, a
        (CHOICE, (5,), 11),
        ("def f(a):\n    if False:\n        a = a + a + a + a\n    return a + 1", (1,), 7),
        ("def f(a):\n    return f(a - 1) + 1 if a else 0", (9,), 12),
    ],
)
def test_what_never_runs_does_not_count(text: str, arguments: tuple[Any, ...], ran: int) -> None:
    sandbox = MontySandbox()
    (outcome,) = sandbox.run(marked(program(text)), [arguments])
    sandbox.close()
    assert outcome.value == ran


@pytest.mark.parametrize(
    ("value", "literals"),
    [
        ("a + 1", []),
        ("7", [7]),
        ("7 if a else [a]", [7]),
        ("'x' if a else ('y' if a > 1 else -3)", [-3, "x", "y"]),
        ("a or 'none'", ["none"]),
        ("{1: 'one', 2: 'two'}[a]", ["one", "two"]),
        ("{1: 'one'}.get(a, 'many')", ["many", "one"]),
        ("[3, 4][a]", [3, 4]),
    ],
)
def test_returned_literals(value: str, literals: list[Any]) -> None:
    assert sorted(returned_literals(program(f"def f(a): return {value}")), key=str) == literals


def test_literals_of_inner_functions_are_not_the_values() -> None:
    inner = "def f(a):\n    def g():\n        return 7\n    return g() + a"
    assert returned_literals(program(inner)) == []


def test_lines_that_a_message_may_not_hold() -> None:
    assert telling_lines(program("def f(a): return a + 1")) == ["def f(a): return a + 1", "a + 1"]
    choice = "def f(a):\n    if a:\n        return 1\n    else:\n        pass\n    return a"
    assert telling_lines(program(choice)) == ["def f(a):", "if a:", "return 1", "return a"]


def test_other_inputs_hold_the_constants_of_the_program() -> None:
    count = program("def f(a): return a.count('c')")
    assert [arguments[0].count("c") for arguments in others_like(("da",), count)] == [1, 0]
    above = program("def f(a): return a > 40")
    assert [arguments[0] > 40 for arguments in others_like((3,), above)] == [True, False]
    typed = program("def f(a, b): return a")
    for values in [([], 1.5), ((1,), {"k": [2]}), (b"x", True), ({1, 2}, ""), ([[1], [2]], "z")]:
        others = others_like(values, typed)
        assert others and all([type(v) for v in other] == [type(v) for v in values] for other in others)
    assert others_like((None,), typed) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("-" * 1990 + "1", Reason.SIZE),
        ("(" * 1000, Reason.UNPARSEABLE),
        ("def f(a): return " + "-" * 900 + "1", Reason.SIZE),
        ("def f(a): return a" + ".b" * 90, Reason.SIZE),
        ("def f(a): return " + "+".join("a" * 150), Reason.SIZE),
        ("#" * 3000, Reason.SIZE),
        ("\0", Reason.UNPARSEABLE),
        ("def f(a): return '\ud800'", Reason.UNPARSEABLE),
        ("def f(a): return " + "9" * 1900, None),
        ("def f(a): return f'''{a}\n\nb'''", None),
    ],
)
def test_parsing_is_bounded(text: str, reason: Reason | None) -> None:
    if reason is None:
        assert program(text).text.startswith("def f(a): return ")
        return
    with pytest.raises(Rejected) as rejected:
        program(text)
    assert rejected.value.reason is reason
