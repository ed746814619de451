"""Random bytes and programs a few edits away from right ones: an outcome each, no exception, bounded time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from hostile import HOSTILE, program
from sandboxes import sandbox_here
from timing import timed

from azero.sandbox import Limits
from azero.sandbox.literals import MODEL_TEXT, NotLiteral, is_literal, read_arguments, read_value

LIMITS = Limits(seconds=0.05, memory_mib=32, recursion=100)
SHORT, LONG = 1_000, 10_000  # texts of each kind

PROGRAMS = (
    "def f(a): return a + 1",
    "def f(a, b=2): return [x * b for x in range(a) if x % 2]",
    "def f(a):\n    total = 0\n    for x in range(a):\n        total += x\n    return {'total': total}",
    "import re\ndef f(a): return re.sub('[a-c]+', lambda m: m[0].upper(), 'abcabcd' * a)",
    "def f(a):\n    try:\n        return (a / (a - 1), 'x')\n    except ZeroDivisionError as e:\n        return str(e)",
    "class A:\n    def __init__(self, x): self.x = x\ndef f(a): return A(a).x",
    "from collections import Counter\ndef f(a): return sorted(Counter('abca').items())[:a]",
    "def f(a):\n    while a < 10:\n        a *= 2\n    else:\n        return {a, 1.5, None}",
    "def f(a): return f(a - 1) + [a] if a else []",
    "import math\ndef f(a): return math.sqrt(a) // 0.5, b'x' * a, f'{a:>5}'",
)
VALUES = ("[1, (2.5, 'x'), {'a': None}, {3}]", "3, -4", "b'a\\x00'", "float('nan')", "{1: {2: [3]}}", "'\\u00e9' 'b'")
FRAGMENTS = (
    *"()[]{}:,.=*+-/%<>@!~^&|\\'\"#;\n\t \0_019aef", "**", "//", "...", "->", ":=", "def ", "return ", "lambda x: ",
    "for ",
    "while ", "if ", "else:", "try:", "except:", "class A:", "yield ", "await ", "import os", "not ", " in ", " is ",
    "None",
    "True", "10**9", "9" * 400, "x" * 400, "(" * 60, "[" * 60, "'''", "f'{", "\ud800", "é", "\u202e", "eval(", "    ",
)  # fmt: skip


def random_bytes(rng: random.Random, number: int) -> Iterator[str]:
    for _ in range(number):
        raw = rng.randbytes(rng.randrange(120))
        yield raw.decode(
            rng.choice(("latin-1", "ascii", "utf-8")), rng.choice(("replace", "ignore", "surrogateescape"))
        )


def mutated(rng: random.Random, texts: tuple[str, ...], number: int) -> Iterator[str]:
    for _ in range(number):
        text = rng.choice(texts)
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            at, end = sorted(rng.choices(range(len(text) + 1), k=2))
            match rng.randrange(6):
                case 0:
                    text = text[:at] + rng.choice(FRAGMENTS) + text[at:]
                case 1:
                    text = text[:at] + text[min(end, at + 9) :]
                case 2:
                    text = text[:at] + text[at:end] * rng.randint(2, 5) + text[end:]
                case 3:
                    text = text[:at] + rng.choice(FRAGMENTS) + text[end:]
                case 4:
                    text = text.translate({ord(rng.choice("0123456789+-*/%<>abx")): rng.choice("0123456789+-*/%<>abx")})
                case _:
                    other = rng.choice(texts)
                    text = text[:at] + other[rng.randrange(len(other)) :]
        yield text[:4_000]


def check(name: str, number: int) -> None:
    sandbox = sandbox_here(name)
    rng = random.Random(7)
    values = 0
    for text in (*random_bytes(rng, number), *mutated(rng, PROGRAMS, number)):
        began = time.monotonic()
        (outcome,) = sandbox.run(text, [(3,)], LIMITS)
        assert time.monotonic() - began < 10
        assert outcome.failure or is_literal(outcome.value), text
        assert "\n" not in outcome.detail and len(outcome.detail) <= 200, text
        values += outcome.failure is None
    assert values > number // 20, "most of them do not run at all"
    assert sandbox.run("def f(a): return a + 1", [(3,)], Limits(seconds=5.0))[0].value == 4
    sandbox.close()


def test_no_text_is_too_much_for_monty() -> None:
    check("monty", SHORT)


@pytest.mark.long
def test_ten_thousand_texts_of_each_kind_are_not_too_much_for_monty() -> None:
    check("monty", LONG)


@pytest.mark.long
def test_no_text_is_too_much_for_cpython() -> None:
    check("cpython", SHORT)


def values_of(reader: Callable[[str], Any], text: str) -> list[Any]:
    """The value of a literal, the values of arguments, or nothing where the reader finds neither."""
    try:
        value = reader(text)
    except NotLiteral:
        return []
    return [value] if reader is read_value else list(value)


@pytest.mark.filterwarnings(f"ignore::Warning:{MODEL_TEXT}")  # pytest puts its own filters in place of the reader's
@pytest.mark.parametrize("number", [SHORT, pytest.param(LONG, marks=pytest.mark.long)])
def test_no_text_is_too_much_for_the_reader(number: int) -> None:
    rng, read = random.Random(8), 0
    programs = tuple(program(text, "canary", 1)[:2_000] for text, _, _ in HOSTILE.values())
    for text in (*random_bytes(rng, number), *mutated(rng, VALUES, number), *mutated(rng, programs, number)):
        for reader in (read_value, read_arguments):
            values, seconds = timed(partial(values_of, reader, text), 0.5)
            assert seconds < 0.5 and all(map(is_literal, values)), text
            read += bool(values)
    assert read > number // 20
