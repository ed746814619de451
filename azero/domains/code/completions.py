"""What is read from a completion: the parts of a proposal, and an answer. Each is read in one place.

Raw: the text before the first blank line, of an answer its first line. Chat: the last closed block of the right kind.
Whatever the text, reading ends in time linear in its length, and raises Rejected alone.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass

from azero.domains.base import Rejected
from azero.domains.code.programs import Reason, spelt
from azero.domains.code.prompts import ABDUCTION, DEDUCTION, INDUCTION
from azero.sandbox.literals import MAX_SOURCE, MODEL_TEXT

READ_RAW, READ_CHAT = 8_192, 32_768  # characters of a completion: the first in the raw protocol, the last in chat
_FENCE = "```"
_KINDS = {"py": "python", "python3": "python"}
_BLOCKS = {DEDUCTION: "output", ABDUCTION: "input", INDUCTION: "python"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Holds the parts of a proposal as text that nobody has checked."""

    program: str
    inputs: tuple[str, ...]  # argument lists
    message: str = ""


def read_proposal(task: str, completion: str, given: str) -> Parts:
    """The parts of a proposal. `given`: the program, where it is not of the completion.

    They are those of the fenced blocks where there is a fence, or else of the text before the first blank line.
    """
    return _read_chat(task, completion, given) if _FENCE in completion else _read_raw(task, completion, given)


def read_answer(task: str, completion: str, chat: bool, head: str) -> str:
    """The text of an answer: a value, an argument list, or a program, whose raw form begins with `head`."""
    if chat:
        text = fenced(completion).get(_BLOCKS[task], "")
        return _not_empty(text)
    text = completion[:READ_RAW]
    if task == INDUCTION:
        text = text.partition("\n" if head.endswith("return") else "\n\n")[0]
        return head + _not_empty(text)
    line = _not_empty(text.partition("\n")[0].strip())
    if task == DEDUCTION:
        return line
    if not line.endswith(")"):
        raise Rejected(Reason.UNPARSEABLE)
    return line[:-1]


def fenced(completion: str) -> dict[str, str]:
    """Kind -> content of the last closed block of each kind, such as ```python; in lower case, "py" as "python"."""
    blocks: dict[str, str] = {}
    kind, inside = "", list[str]()
    is_open = False
    for line in completion[-READ_CHAT:].split("\n"):
        if not line.lstrip().startswith(_FENCE):
            inside.append(line)
        elif is_open:
            blocks[kind], is_open = "\n".join(inside).strip("\n"), False
        else:
            kind, inside, is_open = line.strip().strip("`").strip().lower(), [], True
            kind = _KINDS.get(kind, kind)
    return blocks


def _read_raw(task: str, completion: str, given: str) -> Parts:
    block = completion[:READ_RAW].lstrip(" ").partition("\n\n")[0]  # a blank after task.list_mark
    lines = [line.rstrip() for line in block.split("\n") if line.strip()]
    if task == INDUCTION:
        return _read_inputs(lines, given)
    at = max((i for i, line in enumerate(lines) if line.startswith("assert ")), default=0)
    if not at:  # no program, or no input
        raise Rejected(Reason.UNPARSEABLE)
    return Parts(program="\n".join(lines[:at]), inputs=(_asserted(task, lines[at]),))


def _read_chat(task: str, completion: str, given: str) -> Parts:
    blocks = fenced(completion)
    program, inputs = given or blocks.get("python", ""), blocks.get("input", "")
    if not program or not inputs:
        raise Rejected(Reason.UNPARSEABLE)
    if task != INDUCTION:
        return Parts(program=program, inputs=(inputs,))
    lines = tuple(line.strip() for line in inputs.split("\n") if line.strip())
    return Parts(program=program, inputs=lines, message=_one_line(blocks.get("message", "")))


def _read_inputs(lines: list[str], given: str) -> Parts:
    """Return the parts of "f(3)" lines and a message after them; the program stands before them unless it is given."""
    first = next((i for i, line in enumerate(lines) if line.startswith("f(")), len(lines))
    told = next((i for i, line in enumerate(lines) if i >= first and line.startswith("#")), len(lines))
    program = given or "\n".join(lines[:first])
    if first == len(lines) or not program or (given and first):
        raise Rejected(Reason.UNPARSEABLE)
    inputs = tuple(_called(_expression(line)) for line in lines[first:told])
    message = lines[told].lstrip("# ") if told < len(lines) else ""
    return Parts(program=program, inputs=inputs, message=_one_line(message))


def _asserted(task: str, line: str) -> str:
    """The argument list of "assert f(3) == 4", and of abduction of "assert 4 == f(3)"."""
    match _expression(line.removeprefix("assert ")):
        case ast.Compare(left=left, ops=[ast.Eq()], comparators=[right]):
            return _called(left if task == DEDUCTION else right)
    raise Rejected(Reason.UNPARSEABLE)


def _called(node: ast.expr) -> str:
    """The argument list of a call of `f`."""
    match node:
        case ast.Call(func=ast.Name(id="f"), args=arguments, keywords=[]):
            return ", ".join(map(spelt, arguments))
    raise Rejected(Reason.UNPARSEABLE)


def _expression(text: str) -> ast.expr:
    if len(text) > 2 * MAX_SOURCE:
        raise Rejected(Reason.UNPARSEABLE)
    try:
        return ast.parse(text, MODEL_TEXT, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as e:
        raise Rejected(Reason.UNPARSEABLE) from e


def _one_line(message: str) -> str:
    return " ".join(message.split())


def _not_empty(text: str) -> str:
    if not text.strip():
        raise Rejected(Reason.UNPARSEABLE)
    return text
