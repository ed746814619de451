"""What a message of induction may not hold: the program, or the pairs that the solver has to find."""

from __future__ import annotations

import ast
import re
import unicodedata
from collections.abc import Sequence

from azero.domains.code.programs import Program, own_names


def shows_program(message: str, program: Program, inputs: Sequence[str], hidden: Sequence[tuple[str, str]]) -> bool:
    """Whether a message holds a line, a returned expression, a call with an input, or every one of the hidden pairs.

    `inputs`: argument lists as text; `hidden`: those that the solver does not see, each with its output.
    """
    text = _plain(message)
    told = [*telling_lines(program), *(f"f({given})" for given in inputs)]
    if any(_squeezed(line) in _squeezed(message) for line in told):
        return True
    if any(expression.search(text) for expression in returned_in_other_names(program)):
        return True
    return all(_words(side) in _words(text) for pair in hidden for side in pair)


def telling_lines(program: Program) -> list[str]:
    """Return the program's lines, and the expressions that it returns."""
    lines = [line.strip() for line in program.text.split("\n")]
    lines += [ast.unparse(value) for value in _returned(program) if not isinstance(value, ast.Name | ast.Constant)]
    return [line for line in lines if len(line) > 2 and not line.rstrip(":").isalpha()]  # "else:" tells nothing


def returned_in_other_names(program: Program) -> list[re.Pattern[str]]:
    """Return a pattern for each expression that the program returns, whatever its blanks and short names are.

    They are for texts in lower case. Short names have at most two letters, so that "comma-separated" is no difference.
    """
    own, found = own_names(program.tree) - {"f"}, []
    for value in _returned(program):
        words = re.findall(r"\w+|[^\w\s]", ast.unparse(value))
        if len(words) > 2:  # "-a" tells nothing
            parts = [r"\b[^\W\d]\w?\b" if word in own else re.escape(word.lower()) for word in words]
            found.append(re.compile(r"\s*".join(parts)))
    return found


def _returned(program: Program) -> list[ast.expr]:
    return [node.value for node in ast.walk(program.tree) if isinstance(node, ast.Return) and node.value]


def _squeezed(text: str) -> str:
    return "".join(_plain(text).split())


def _plain(text: str) -> str:
    """The text in lower case, with full-width letters and signs and the like as the usual ones."""
    return unicodedata.normalize("NFKC", text).lower()


def _words(text: str) -> str:
    return " " + " ".join(re.findall(r"\w+", text.lower())) + " "
