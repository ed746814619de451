"""Evaluation sets of the code domain: generated offline, or rows of CRUXEval from a file or the Hugging Face Hub.

The generated sets come from grammar.py and fixed seeds: programs that no model proposed, whose values need no sandbox.
Hashes of their canonical forms ship beside this module, so that training can leave them out. To rebuild them:

    python -m azero.domains.code.evaluation > azero/domains/code/evaluation_hashes.json
"""

from __future__ import annotations

import ast
import random
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from azero.domains.base import Rejected
from azero.domains.code import programs
from azero.domains.code.grammar import Program, draw_arguments, draw_message, draw_pairs, draw_program, small
from azero.domains.code.problems import canonical_form, induction_problem, one_input_problem, written
from azero.domains.code.programs import Bounds, parse, structure, tree_of
from azero.domains.code.prompts import ABDUCTION, DEDUCTION, INDUCTION, TASKS, statement
from azero.domains.rows import hash_file, hashes_in, read_rows, short_hash
from azero.errors import UserError
from azero.sandbox.literals import NotLiteral, read_arguments, read_value
from azero.types import Cell, EvalItem, Problem

PUBLISHED = "cruxeval-org/cruxeval"
HASH_FILE = Path(__file__).with_name("evaluation_hashes.json")
COLUMNS = ("code", "input", "output")
BOUNDS = Bounds(characters=10_000, nodes=2_000)  # of a published program
SEEDS = {"test": 20_251_201, "dev": 20_251_202}
ROWS = {1: 120, 2: 100, 3: 80}  # by size in operations, of each task
PAIRS = 4  # of a problem of induction, of which half are shown
TIERS = {1: "small", 2: "medium", 3: "large"}


def load(source: str) -> list[EvalItem]:
    """The problems of `source`: test, dev, or a file or Hub id (split test) with CRUXEval's columns. Raises UserError.

    A row is a problem of deduction, and after these of all rows it is one of abduction.
    """
    if source in SEEDS:
        return list(generated(source))
    rows = [_row(where, row) for where, row in read_rows(source, PUBLISHED, COLUMNS)]
    return [_published(task, row) for task in (DEDUCTION, ABDUCTION) for row in rows]


@cache
def generated(name: str) -> tuple[EvalItem, ...]:
    """The 900 rows of "test" or "dev", task by task from small programs to large ones.

    No two have the same canonical form, and none of `dev` has one of `test`.
    """
    rng = random.Random(SEEDS[name])
    taken = {item.problem.canonical for item in generated("test")} if name == "dev" else set()
    items = []
    for task in TASKS:
        for size, rows in ROWS.items():
            for _ in range(rows):
                problem = _new(rng, task, size, taken)
                taken.add(problem.canonical)
                operations = f"{size} operation{'s' if size > 1 else ''}"
                items.append(EvalItem(problem=problem, label=task, operation=operations))
    return tuple(items)


def is_evaluation(canonical: str) -> bool:
    """Whether the canonical form is of a problem of the generated sets."""
    return short_hash(canonical) in hashes_in(HASH_FILE)


def build_hash_file() -> str:
    """The text of HASH_FILE."""
    about = "every problem in the generated sets test and dev; made by: python -m azero.domains.code.evaluation"
    return hash_file(about, SEEDS, (item.problem.canonical for name in SEEDS for item in generated(name)))


def _new(rng: random.Random, task: str, size: int, taken: set[str]) -> Problem:
    """A problem whose canonical form is not taken."""
    while True:
        program = draw_program(rng, size)
        problem = _problem(rng, task, program, Cell(task=task, tier=TIERS[size]))
        if problem is not None and problem.canonical not in taken:
            return problem


def _problem(rng: random.Random, task: str, program: Program, cell: Cell) -> Problem | None:
    parsed = parse(program.text, BOUNDS)
    if task == INDUCTION:
        pairs = draw_pairs(rng, program, PAIRS)
        return induction_problem(parsed, cell, pairs, draw_message(program), -1) if pairs else None
    arguments = draw_arguments(rng, program)
    output = program(arguments)
    if task == ABDUCTION and (output in arguments or _gives_itself(program, output)):
        return None  # the answer would stand in the prompt
    return one_input_problem(parsed, cell, arguments, output, -1)


def _gives_itself(program: Program, output: Any) -> bool:
    """Whether the output is an input that gives it, as what is sorted does where a program sorts."""
    try:
        return bool(small(program, (output,)) and program((output,)) == output)
    except (TypeError, AttributeError):  # of another type than the parameter, or one of several
        return False


@dataclass(frozen=True, slots=True)
class _Row:
    """A published row as it is written, with what the domain makes of its program: nothing where that is outside."""

    code: str
    given: str
    output: str
    program: programs.Program | None


def _row(where: str, row: Mapping[str, Any]) -> _Row:
    code, given, output = (str(row[column]).strip("\n") for column in COLUMNS)
    try:
        read_value(output)
    except NotLiteral as error:
        raise UserError(f"{where}: output {output[:60]!r} is no literal ({error}); write it as Python does") from error
    try:
        tree_of(code, BOUNDS)
    except Rejected as error:
        raise UserError(f"{where}: code {code[:60]!r} is no program ({error.reason}); it must define one f") from error
    try:
        return _Row(code, given, output, parse(code, BOUNDS))
    except Rejected:
        return _Row(code, given, output, None)


def _published(task: str, row: _Row) -> EvalItem:
    """The problem of a row, with its text as it is: its program may be outside the rules, its input no literal."""
    text = statement(task, row.code, [row.given], row.output)
    problem = Problem(
        id=short_hash(f"{task}\n{text}"),
        cell=Cell(task=task, tier=TIERS[3]),
        statement=text,
        answer=row.output if task == DEDUCTION else row.given,
        canonical=canonical_form(task, row.program, [_written(row.given)]) if row.program else f"outside: {text}",
        structure=structure(row.program) if row.program else "outside",
        payload={"program": row.code, "arguments": row.given, "output": row.output},
        author_version=-1,
    )
    kinds = {type(node) for node in ast.walk(ast.parse(row.code))}
    loops, branches = kinds & {ast.For, ast.While, ast.comprehension}, kinds & {ast.If, ast.IfExp}
    return EvalItem(problem=problem, label=task, operation="loop" if loops else "branch" if branches else "straight")


def _written(given: str) -> str:
    """An input as the domain writes it, so that a proposal that repeats it is known."""
    try:
        return written(read_arguments(given))
    except NotLiteral:
        return given


if __name__ == "__main__":
    sys.stdout.write(build_hash_file())
