"""Integer arithmetic: problems such as "(12 - 4) * 3", answered exactly and verified from the completion alone."""

from __future__ import annotations

import random
import re

from azero.domains import evaluation_sets
from azero.domains.base import ChatTemplate, Proposal, Rejected, proposed
from azero.domains.expression import (
    BLANKS,
    CELLS,
    EASY,
    HARD,
    MAX_OPERAND,
    MAX_OPERATIONS,
    MAX_RESULT,
    MEDIUM,
    Expression,
    Operation,
    Reason,
    make_problem,
    render,
)
from azero.domains.expression import cell as cell_of
from azero.domains.reading import as_integer, chat_number, raw_number
from azero.types import Cell, EvalItem, Problem, ProposalRequest, Verdict

READ_CHARACTERS = 4096  # of a completion: the first in the raw protocol, the last in the chat protocol

SEED_TEXTS: dict[Cell, tuple[str, ...]] = {  # with a 0, a 1 and equal numbers: models trip over these
    EASY: ("3 + 8", "4 + 9", "6 + 8", "5 - 3", "10 - 6", "4 - 9", "4 * 5", "7 * 8")
    + ("9 - 0", "7 - 7", "8 * 1", "0 * 8"),
    MEDIUM: ("12 + 9", "18 + 13", "14 - 5", "11 - 16", "12 * 7", "16 * 5", "18 / 3", "20 / 5")
    + ("17 - 0", "13 - 13", "0 * 14", "0 / 9"),
    HARD: ("47 + 35", "88 + 56", "63 - 28", "23 * 14", "84 / 21", "7 + 6 * 5", "18 - (9 - 4)", "(12 - 4) * 3")
    + ("75 - 40", "52 - 52", "30 * 6", "0 / 37"),
}

IN_WORDS = {
    EASY: "one operation among + - *, both numbers from 0 to 10",
    MEDIUM: "one operation among + - * /, both numbers from 0 to 20; with + - * one above 10",
    HARD: f"one operation with a number above 20, or two to {MAX_OPERATIONS} operations, parentheses allowed",
}

_PROBLEM_LINE = re.compile(r"^[ \t]*\**problem:\**(.*)$", re.ASCII | re.IGNORECASE | re.MULTILINE)


class Arithmetic:
    """The `Domain` of expressions over non-negative integers with + - * / and parentheses."""

    name = "arithmetic"
    cells = CELLS

    def seeds(self) -> list[Problem]:
        """Twelve problems a tier, with every operator of the tier. Two easy ones are evaluation problems, too."""
        return [make_problem(text, -1) for cell in CELLS for text in SEED_TEXTS[cell]]

    def generate(self, rng: random.Random, cell: Cell) -> Problem:
        """One problem of exactly `cell`, redrawn until it is one, over the ranges of the evaluation's labels.

        easy: half very_easy, half easy. medium: medium. hard: 40 % hard, 45 % very_hard, 15 % two operations among
        + - * on operands to 20, grouped to the left or to the right.
        """
        for _ in range(100):  # a draw is of the cell in more than 70 % of cases
            expression = _draw(rng, cell)
            if cell_of(expression) == cell:
                return make_problem(render(expression), -1)
        return make_problem(rng.choice(SEED_TEXTS[cell]), -1)

    def ask(self, request: ProposalRequest, chat: ChatTemplate | None) -> str:
        """Raw: a header and one reference a line, so that the completion is the next line. Chat: an instruction."""
        cell, examples = request.cell, "".join(f"{reference.statement}\n" for reference in request.references)
        if chat is None:
            return f"Different {cell.tier} problems:\n{examples}"
        return chat(
            f"Write one new {cell.tier} arithmetic problem: {IN_WORDS[cell]}.\n"
            f"Numbers are whole, from 0 to {MAX_OPERAND}. Every division must come out exact, and no result may exceed "
            f"{MAX_RESULT}.\n"
            + (f"It must differ from each of these:\n{examples}" if examples else "")
            + 'Do not solve it. End with a last line of the form "Problem: <expression>".'
        )

    def read(self, completion: str, request: ProposalRequest, exclude: bool, version: int) -> Proposal:
        """The problem of the last line that begins with "Problem:", or else of the first line that is not blank.

        `reason` is a value of `Reason`.
        """

        def make() -> Problem:
            problem = make_problem(_proposed_line(completion), version)
            if problem.statement in {reference.statement for reference in request.references}:
                raise Rejected(Reason.REPEATS_REFERENCE)
            return problem

        return proposed(self, exclude, make)

    def pose(self, problem: Problem, chat: ChatTemplate | None) -> str:
        """Raw: the evaluation's prompt, which ends in a space. Chat: an instruction that names the answer's form."""
        if chat is None:
            return str(problem.payload.get("prompt", evaluation_sets.raw_prompt(problem.statement)))
        return chat(
            f"Calculate: {problem.statement}\n"
            'Give the result as an integer on a last line of the form "Answer: <integer>".'
        )

    def judge(self, completion: str, problem: Problem, chat: bool) -> Verdict:
        """Raw: the first number. Chat: what the last "Answer:" states, or else the last number (reading.py).

        RIGHT if it is the problem's answer; WRONG if it is another or no integer, such as "8.5"; MALFORMED without a
        number. Only READ_CHARACTERS are read, and no digits are ever converted.
        """
        number = chat_number(completion[-READ_CHARACTERS:]) if chat else raw_number(completion[:READ_CHARACTERS])
        if number is None:
            return Verdict.MALFORMED
        return Verdict.RIGHT if as_integer(number) == as_integer(problem.answer) else Verdict.WRONG

    def evaluation(self, source: str) -> list[EvalItem]:
        """`source`: test or dev (generated offline from fixed seeds), a file, or a Hugging Face Hub id.

        Raises UserError for a missing file, a wrong format or wrong columns.
        """
        return evaluation_sets.load(source)

    def is_evaluation(self, canonical: str) -> bool:
        """Whether the canonical form belongs to a problem of the published or the generated evaluation sets."""
        return evaluation_sets.short_hash(canonical) in evaluation_sets.shipped_hashes()


def _draw(rng: random.Random, cell: Cell) -> Expression:
    if cell == EASY:
        return evaluation_sets.draw(rng, rng.choice(("very_easy", "easy")))
    if cell == MEDIUM:
        return evaluation_sets.draw(rng, "medium")
    kind = rng.choices(("hard", "very_hard", "two"), (40, 45, 15))[0]
    if kind != "two":
        return evaluation_sets.draw(rng, kind)
    inner, outer = evaluation_sets.draw(rng, "medium"), evaluation_sets.draw(rng, "medium")
    if rng.random() < 0.5:
        return Operation(outer.operator, inner, outer.right)
    return Operation(outer.operator, outer.left, inner)


def _proposed_line(completion: str) -> str:
    marked: list[str] = _PROBLEM_LINE.findall(completion[-READ_CHARACTERS:])
    if marked:
        return marked[-1]
    lines = completion[:READ_CHARACTERS].split("\n")
    return next((line for line in lines if line.strip(BLANKS)), "")
