"""The problems that a run begins with: four a tier and task, in the default tiers, each of one line.

The identity, with which the paper begins, is not among them: a proposer that wrote it would be rejected.
"""

from __future__ import annotations

from azero.domains.code.prompts import ABDUCTION, DEDUCTION, INDUCTION

INTEGERS = ("3", "0", "12", "7", "5", "20", "1", "9", "14", "2", "16", "8")
WORDS = tuple(map(repr, ("abc", "d", "bea", "ccad", "eb", "adbce", "a", "de", "cab", "bbda", "ec", "dab")))
LISTS = (
    *("[3, 1, 2]", "[5]", "[0, 9]", "[4, 4, 7, 1]", "[8, 2]", "[6, 0, 3]"),
    *("[1, 2, 3, 4, 5]", "[7, 7]", "[2]", "[9, 5, 1]", "[0, 3]", "[5, 8, 6, 2]"),
)
MOST_INPUTS = len(LISTS)

_ONE_INPUT = {
    DEDUCTION: (
        ("a: a + 4", "3"),
        ("a: a * 3", "5"),
        ("a: a[1:]", "[4, 2, 7]"),
        ("a: len(a)", "'bbca'"),
        ("a: a * 2 + 1", "6"),
        ("a: sorted(a)[1:]", "[3, 1, 2]"),
        ("a: a[::-1]", "'bcd'"),
        ("a: [x + 1 for x in a]", "[2, 0, 5]"),
        ("a: max(a) - min(a) * 2", "[4, 9, 2]"),
        ("a: [x * 2 for x in a if x > 2]", "[1, 3, 0, 5]"),
        ("a: (a + a[::-1])[1:4]", "'bed'"),
        ("a: a // 2 if a > 5 else a * 3", "9"),
    ),
    ABDUCTION: (
        ("a: a + 6", "9"),
        ("a: a - 5", "12"),
        ("a: a[1:]", "[8, 2, 7]"),
        ("a: sum(a)", "[3, 4]"),
        ("a: a * 2 - 3", "8"),
        ("a: a[::-1]", "'dbc'"),
        ("a, b: a + b[0]", "3, [4, 1]"),
        ("a: [x - 1 for x in a]", "[2, 1, 5]"),
        ("a: (a + 1) * 3 - a * 2", "4"),
        ("a: a[1:] + a[:1]", "'bead'"),
        ("a: max(a) * len(a) - a[0]", "[2, 5, 3]"),
        ("a: [x * 2 for x in a if x > 1]", "[1, 4, 3]"),
    ),
}
_INDUCTION = (
    ("a: a + 5", INTEGERS, "a plus 5"),
    ("a: a * 3", INTEGERS, "a times 3"),
    ("a: max(a)", LISTS, "a largest"),
    ("a: a[:2]", WORDS, "a cut to 2"),
    ("a: a * 2 + 3", INTEGERS, "a times 2, plus 3"),
    ("a: a[::-1]", WORDS, "a reversed"),
    ("a: sorted(a)[1:]", LISTS, "a sorted, without first 1"),
    ("a: [x + 2 for x in a]", LISTS, "a each plus 2"),
    ("a: a * 3 - 1 if a > 5 else a + 2", INTEGERS, "a times 3, minus 1 if a above 5 else (a plus 2)"),
    ("a: [x + 1 for x in a if x > 3]", LISTS, "a only above 3, each plus 1"),
    ("a: sum(a) + len(a) * 2", LISTS, "a sum plus (a size, times 2)"),
    ("a: a[1:].replace('a', 'e') + 'd'", WORDS, "a without first 1, 'a' to 'e', then 'd'"),
)


def _program(text: str) -> str:
    parameters, _, value = text.partition(": ")
    return f"def f({parameters}): return {value}"


# (task, program, argument lists, message)
SEEDS: tuple[tuple[str, str, tuple[str, ...], str], ...] = (
    *((task, _program(e), (given,), "") for task, rows in _ONE_INPUT.items() for e, given in rows),
    *((INDUCTION, _program(e), inputs, message) for e, inputs, message in _INDUCTION),
)
