"""The text that the embedded code model is pre-trained on: problems that a crowd solved, and lists of problems.

As in benchmarks/base_model/corpus.py the slips are the point: the right answer was read often, beside careless ones.
An author is careless or careful in all that they write, so that care is one thing, which learning can find.
All programs come from azero/domains/code/grammar.py, whose values need no `eval`, and all text from the functions that
write the domain's raw prompts; listed problems are those that the domain takes, by its sandbox. A problem of the
evaluation sets is drawn again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from azero.domains.code import programs
from azero.domains.code.domain import Code
from azero.domains.code.grammar import Pairs, Program, draw_arguments, draw_message, draw_pairs, draw_program, small
from azero.domains.code.problems import induction_problem, one_input_problem, written
from azero.domains.code.programs import Rejected
from azero.domains.code.prompts import ABDUCTION, DEDUCTION, INDUCTION
from azero.sandbox.literals import same, write
from azero.types import Cell, Problem, ProposalRequest
from benchmarks.code_model.slips import slips
from benchmarks.pretraining import Document

SIZES = {1: 55, 2: 27, 3: 14, 4: 4}  # operations of a solved program, and their weights
LISTED_SIZES = {"small": (1,), "medium": (1, 2, 2), "large": (2, 3, 3, 4)}  # of a listed one, by tier
LISTED = (2, 5)  # members of a list, at least and at most
MAX_CHARACTERS = 480  # of a list
BAD_SHARE = 0.1  # of the members of a list: careless authors repeat, break off, and leave a parameter unused
ANSWERS = {DEDUCTION: 6, ABDUCTION: 6, INDUCTION: 1}  # in one document: what follows costs less than a new program
PAIRS = 4  # of a problem of induction
MOST_INPUTS = 8  # drawn for a listed one, which takes the first different ones
TRIES = 20  # of other arguments for one program


@dataclass(frozen=True, slots=True)
class Author:
    """Says which slips somebody makes, wherever a problem gives the chance."""

    likely: bool  # those that most people make
    unlikely: bool


@dataclass(frozen=True, slots=True)
class Crowd:
    """Shares of the authors who make a slip: those of the unlikely ones are among those of the likely ones."""

    likely: float
    unlikely: float

    def author(self, rng: random.Random) -> Author:
        carelessness = rng.random()
        return Author(carelessness < self.likely, carelessness < self.unlikely)


CAREFUL = Crowd(0.0, 0.0)


class Corpus:
    """Draws documents, none with a prompt or a canonical form of the problems that are held out."""

    def __init__(self, held_out: Iterable[Problem]) -> None:
        self.domain = Code()
        self.held_out = {text for problem in held_out for text in (problem.canonical, self.domain.pose(problem, None))}

    def solved(self, rng: random.Random, task: str, crowd: Crowd) -> Document:
        """One author on one program; in deduction and abduction with further inputs, one a line."""
        author = crowd.author(rng)
        while True:
            program = draw_program(rng, rng.choices(list(SIZES), list(SIZES.values()))[0])
            parsed = programs.parse(program.text, programs.Bounds())
            found = [self._solved(rng, task, program, parsed, author) for _ in range(ANSWERS[task])]
            answers = [answer for answer in found if answer is not None]
            if len(answers) == len(found):
                (prompt, completion), *others = answers
                return prompt, completion, *(text for p, c in others for text in (p.partition("\n")[2], c))

    def listed(self, rng: random.Random) -> Document:
        """(prompt, completion): the header of a cell, and problems of it as a proposer writes them."""
        cell, members = rng.choice(self.domain.cells), list[str]()
        header = self.domain.ask(ProposalRequest(cell=cell, references=()), None)
        for _ in range(rng.randint(*LISTED)):
            member = self._member(rng, cell)
            member = _spoilt(rng, member, members) if rng.random() < BAD_SHARE else member
            if len(header) + sum(len(text) + 2 for text in (*members, member)) <= MAX_CHARACTERS:
                members.append(member)
        return header, "".join(f"{member}\n\n" for member in members)

    def described(self, rng: random.Random) -> Document:
        """(a program with its inputs, below the header of its cell, the message that describes it)."""
        cell = rng.choice([cell for cell in self.domain.cells if cell.task == INDUCTION])
        header = self.domain.ask(ProposalRequest(cell=cell, references=()), None)
        head, _, message = self._member(rng, cell).rpartition("\n# ")
        return f"{header}{head}\n", f"# {message}\n\n"

    def _solved(
        self, rng: random.Random, task: str, program: Program, parsed: programs.Program, author: Author
    ) -> tuple[str, str] | None:
        """(prompt, completion) of one problem, None where TRIES draws of arguments give none."""
        solve = _induced if task == INDUCTION else _deduced if task == DEDUCTION else _abduced
        for _ in range(TRIES):
            solved = solve(rng, program, parsed, author)
            if solved is None:
                continue
            problem, completion = solved
            prompt = self.domain.pose(problem, None)
            if self.held_out.isdisjoint((problem.canonical, prompt)):
                return prompt, f"{completion}\n"
        return None

    def _member(self, rng: random.Random, cell: Cell) -> str:
        """The statement of a problem of the cell that keeps the domain's rules."""
        while True:
            program = draw_program(rng, rng.choice(LISTED_SIZES[cell.tier]))
            inputs = [
                written(draw_arguments(rng, program)) for _ in range(MOST_INPUTS if cell.task == INDUCTION else 1)
            ]
            try:
                problem = self.domain.maker.make(cell.task, program.text, inputs, draw_message(program))
            except Rejected:
                continue
            if problem.cell == cell and problem.canonical not in self.held_out:
                return problem.statement


def _deduced(rng: random.Random, program: Program, parsed: programs.Program, author: Author) -> tuple[Problem, str]:
    """A problem, and what the author takes for the output."""
    arguments = draw_arguments(rng, program)
    problem = one_input_problem(parsed, Cell(task=DEDUCTION), arguments, program(arguments), -1)
    return problem, f" {write(_read(program, arguments, author)(arguments))}"


def _abduced(
    rng: random.Random, program: Program, parsed: programs.Program, author: Author
) -> tuple[Problem, str] | None:
    """A problem, and arguments from which the author gets its output; None where these show it."""
    arguments = draw_arguments(rng, program)
    output = _read(program, arguments, author)(arguments)
    if output in arguments:
        return None
    return one_input_problem(parsed, Cell(task=ABDUCTION), arguments, output, -1), f"{written(arguments)})"


def _induced(
    rng: random.Random, program: Program, parsed: programs.Program, author: Author
) -> tuple[Problem, str] | None:
    """A problem, and what the author writes for its message; None where the draw has too few pairs."""
    pairs = draw_pairs(rng, program, PAIRS)
    if pairs is None:
        return None
    wrote = _slipped(program, author, lambda other: other.text != program.text and _errs(other, pairs))
    problem = induction_problem(parsed, Cell(task=INDUCTION), pairs, draw_message(program), -1)
    return problem, wrote.text.partition(": return")[2]


def _read(program: Program, arguments: Sequence[Any], author: Author) -> Program:
    """The program as the author understands it."""
    pairs = [(tuple(arguments), program(arguments))]
    return _slipped(program, author, lambda other: small(other, arguments) and _errs(other, pairs))


def _slipped(program: Program, author: Author, tells: Callable[[Program], bool]) -> Program:
    """The likeliest of the program's slips that tells, if the author makes it, or else the program."""
    for is_likely, other in slips(program):
        if tells(other):
            return other if (author.likely if is_likely else author.unlikely) else program
    return program


def _errs(other: Program, pairs: Pairs) -> bool:
    return any(not small(other, arguments) or not same(other(arguments), output) for arguments, output in pairs)


def _spoilt(rng: random.Random, member: str, earlier: Sequence[str]) -> str:
    """A member as a careless author writes it."""
    head, _, rest = member.partition("\n")
    spoilt = [
        head,
        member.replace("def f(a)", "def f(a, b)"),
        head[: rng.randrange(len(head) // 2, len(head))] + "\n" + rest,
    ]
    return rng.choice([*spoilt, *earlier])
