"""What is written to a model: statements of problems, and prompts in both protocols.

Raw text is Python that continues. A statement is what the proposer writes: a program, and below it what is asked of it.

    deduction       def f(a): return a + 1          abduction       def f(a): return a * 2
                    assert f(3) == 4                                assert 6 == f(3)
    induction       def f(a): return a + 1
                    f(3)
                    f(0)
                    # adds one

The proposer's raw prompt is a list of statements, a blank line apart; of induction it ends with the program that the
new problem is about. A raw proposal ends at a blank line, and a raw answer at the end of the line, or where programs
have several lines at a blank line. completions.py reads both.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_lowercase

from azero.domains.base import ChatTemplate
from azero.domains.code.programs import MODULES
from azero.types import Cell, Problem

DEDUCTION, ABDUCTION, INDUCTION = TASKS = ("deduction", "abduction", "induction")

HEADERS = {
    DEDUCTION: "# {tier} functions, each with a value",
    ABDUCTION: "# {tier} functions, each with an input to find",
    INDUCTION: "# {tier} functions, each with inputs and a description",
}
_ASKED = {
    DEDUCTION: "Write a program and an input for which it takes thought to say what f returns.",
    ABDUCTION: "Write a program and an input, so that it takes thought to find the input from what f returns.",
    INDUCTION: "Write inputs and a description for a program, so that it can be found from them with thought.",
}
RULES = (
    "The program defines one function f with positional parameters, returns a value that depends on each of them, and "
    "always returns the same value for the same input. It reads no file, prints nothing, uses no randomness and no "
    f"clock, and imports nothing but {', '.join(MODULES)}. Inputs and values are Python literals, of at most 200 "
    "characters."
)


def statement(task: str, program: str, inputs: Sequence[str], output: str = "", message: str = "") -> str:
    """The text of a problem. `inputs`: one argument list, of induction several; `output`: of the one."""
    if task == DEDUCTION:
        return f"{program}\nassert f({inputs[0]}) == {output}"
    if task == ABDUCTION:
        return f"{program}\nassert {output} == f({inputs[0]})"
    return "\n".join([program, *(f"f({arguments})" for arguments in inputs), f"# {message}"])


def ask_raw(cell: Cell, references: Sequence[str], program: str = "") -> str:
    """The proposer's raw prompt: a header, the statements of the references, and the program that is given."""
    listed = "".join(f"{reference}\n\n" for reference in references)
    return f"{HEADERS[cell.task].format(tier=cell.tier.capitalize())}\n\n{listed}{program}{program and chr(10)}"


def pose_raw(problem: Problem, one_line: bool) -> str:
    """The solver's raw prompt, which ends where the answer begins; `one_line`: in the line of a program's head."""
    asked = problem.payload
    if problem.cell.task == DEDUCTION:
        return f"{asked['program']}\nassert f({asked['arguments']}) =="
    if problem.cell.task == ABDUCTION:
        return f"{asked['program']}\nassert {asked['output']} == f("
    pairs = "".join(f"assert f({arguments}) == {output}\n" for arguments, output in asked["shown"])
    return f"# {asked['message']}\n{pairs}{solution_head(problem, one_line)}"


def solution_head(problem: Problem, one_line: bool) -> str:
    """How a raw solution of induction begins: "def f(a, b):", and in one line "return" too."""
    names = ", ".join(ascii_lowercase[: problem.payload["parameters"]])
    return f"def f({names}):{' return' if one_line else ''}"


def ask_chat(cell: Cell, references: Sequence[str], inputs: int, program: str, chat: ChatTemplate) -> str:
    """The proposer's instruction. `inputs`: how many induction takes; `program`: that it is about, if one is given."""
    wanted = [] if program else ["the program in a ```python block"]
    if cell.task == INDUCTION:
        wanted += [
            f"{inputs} different inputs in one ```input block, each the arguments of f on a line of its own, such as "
            "3, [1, 2]",
            "a description of what the program does, in one line without any of its code, in a ```message block",
        ]
    else:
        wanted += ["one input, the arguments of f such as 3, [1, 2], in an ```input block"]
    about = f"This is the program:\n{_block('python', program)}\n" if program else ""
    shown = "".join(f"{_block('python', reference)}\n" for reference in references)
    return chat(
        f"{_ASKED[cell.task]} Its difficulty is to be {cell.tier}.\n{about}"
        + ("" if program else f"{RULES}\n")
        + (f"It must differ from each of these:\n{shown}" if shown else "")
        + f"Think first if you like. End with {_and(wanted)}."
    )


def pose_chat(problem: Problem, chat: ChatTemplate) -> str:
    """The solver's instruction, which names the block that its answer is read from."""
    asked = problem.payload
    if problem.cell.task == DEDUCTION:
        return chat(
            f"{_block('python', asked['program'])}\nWhich value does f({asked['arguments']}) return? "
            "Give it as a Python literal in an ```output block at the end."
        )
    if problem.cell.task == ABDUCTION:
        return chat(
            f"{_block('python', asked['program'])}\nFind an input for which f returns {asked['output']}. Give its "
            "arguments as Python literals, such as 3, [1, 2], in an ```input block at the end."
        )
    pairs = "\n".join(f"assert f({arguments}) == {output}" for arguments, output in asked["shown"])
    return chat(
        f"Write a Python function f with {asked['parameters']} positional parameters. It is described so: "
        f"{asked['message']}\nThese hold, and so do others that are not shown:\n{_block('python', pairs)}\n"
        "Give the whole program in a ```python block at the end."
    )


def _block(kind: str, text: str) -> str:
    return f"```{kind}\n{text}\n```"


def _and(parts: Sequence[str]) -> str:
    return ", and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
