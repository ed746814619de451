"""How a number is read out of what a model wrote, in training and in evaluation alike.

A number is ASCII digits with what is glued to them. It is an integer where these are digits alone or thousands groups
("1,234"), with a fraction of zeros at most ("8.0"). Glued to something else it is a number, but no integer: "8,5",
"3.5", ".5", "8/2", "8e3", "0x8", "8^2", "8%". A minus sign, "-" or U+2212, belongs to it also over blanks, unless a
number or a closing parenthesis stands before the sign: then it is an operator. Nothing is ever converted to an int.
"""

from __future__ import annotations

import re

BLANKS = " \t"
MINUS = "-\u2212"

_POWERS_AND_FRACTIONS = "\u00b2\u00b3\u00b9\u00bc-\u00be\u2070\u2074-\u2079\u2150-\u215e"
_NUMBER = (
    r"(?>(?:0[xXoObB][0-9a-fA-F]+|(?:(?<![0-9.])\.)?[0-9]+)"
    rf"(?:[.,/^_'\u2019][0-9]+|\*\*[0-9]+|[eE][-+\u2212]?[0-9]+|(?![0-9])[\d{_POWERS_AND_FRACTIONS}])*"
    r"(?:[ \t]?%)?)"
)
_OPERATOR = rf"[ \t)]*(?:[{MINUS}+*/\u00d7\u00f7xX]|\\(?:times|cdot|div))[ \t(]*[{MINUS}]?"
_ANY = re.compile(_NUMBER)
_ALONE_OR_COMPUTED = re.compile(rf"(?P<computed>{_NUMBER}(?:{_OPERATOR}{_NUMBER})+)|{_NUMBER}")
_INTEGER = re.compile(r"-?(?:[0-9]+|[1-9][0-9]{0,2}(?:,[0-9]{3})+)(?:\.0+)?")
_ANSWER = re.compile(r"answer\**:", re.ASCII | re.IGNORECASE)


def raw_number(text: str) -> str | None:
    """The first number, None where there is none."""
    found = _ANY.search(text)
    return found and _signed(text, found)


def chat_number(text: str) -> str | None:
    """Return what the last "Answer:" states, or else the last number; None where there is no number.

    Stated is a number on the first line with one after "Answer:". Of "3 + 5 = 8" that is 8: the first number behind the
    last "=", operands of a computation left out, or else before it. A computation alone ("3 + 5") is no integer.
    """
    marks = list(_ANSWER.finditer(text))
    if marks:
        for line in text[marks[-1].end() :].splitlines():
            if _ANY.search(line):
                return _stated(line)
    numbers = list(_ANY.finditer(text))
    return _signed(text, numbers[-1]) if numbers else None


def as_integer(number: str) -> str:
    """The integer without leading zeros, separators and a fraction of zeros; nothing where the number is none."""
    if not _INTEGER.fullmatch(number):
        return ""
    digits = number.split(".")[0].replace(",", "").lstrip("-").lstrip("0") or "0"
    return f"-{digits}" if number.startswith("-") and digits != "0" else digits


def _stated(line: str) -> str:
    for part in reversed(line.split("=")):
        for found in _ALONE_OR_COMPUTED.finditer(part):
            if not found["computed"]:
                return _signed(part, found)
    return line  # a computation, which is no integer


def _signed(text: str, number: re.Match[str]) -> str:
    before = text[: number.start()].rstrip(BLANKS)
    is_negative = before.endswith(tuple(MINUS)) and not before[:-1].rstrip(BLANKS).endswith((*"0123456789)",))
    return f"-{number[0]}" if is_negative else number[0]
