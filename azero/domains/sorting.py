"""Lists of letters to sort: "d b a" has the answer "a b d". A whole domain in one file, explained in
docs/your-own-domain.md: copy it, change it, and train on it with task.domain=my_domain:Sorting."""

from __future__ import annotations

import hashlib
import random
from functools import cache
from itertools import pairwise
from string import ascii_lowercase

from azero.domains.base import ChatTemplate, Proposal
from azero.errors import UserError
from azero.types import Cell, EvalItem, Problem, ProposalRequest, Verdict

READ_CHARACTERS = 4096  # of a completion: the first in the raw protocol, the last in the chat protocol
EVALUATION_ROWS = 40  # a cell, in each of the sets test and dev
CELLS = tuple(Cell(task="sorting", tier=tier) for tier in ("easy", "medium", "hard"))
EASY, MEDIUM, HARD = CELLS
LENGTHS = {EASY: (3, 4), MEDIUM: (5, 6), HARD: (7, 8)}  # letters, from and to
SHORTEST, LONGEST = LENGTHS[EASY][0], LENGTHS[HARD][1]

SEED_TEXTS = (
    ("d b a", "k c q", "m m f", "g a d b"),
    ("r h u h l", "y n x e b", "f e d c b a", "l j w a t o"),
    ("q z k b i r s", "n o n a m e s", "h v d y g m a p", "w i t x f c u j"),
)


class Rejected(ValueError):
    """A text that is no problem of this domain. Its message is the reason that a run counts:

    unparseable, length, already_sorted, repeats_reference or in_evaluation.
    """


def make_problem(text: str, version: int) -> Problem:
    """The problem that `text` states, letters apart by blanks or commas; raises Rejected."""
    letters = text[:READ_CHARACTERS].replace(",", " ").split()
    if not letters or any(len(x) != 1 or x not in ascii_lowercase for x in letters):
        raise Rejected("unparseable")
    if not SHORTEST <= len(letters) <= LONGEST:
        raise Rejected("length")
    answer = " ".join(sorted(letters))
    text = " ".join(letters)
    if text == answer:
        raise Rejected("already_sorted")  # copying would solve it
    return Problem(
        id=hashlib.sha256(text.encode()).hexdigest()[:12],
        cell=next(cell for cell in CELLS if len(letters) <= LENGTHS[cell][1]),
        statement=text,
        answer=answer,
        canonical=answer,  # the order of the letters is the symmetry: "d b a" and "b d a" are one problem
        structure="".join("<" if a < b else ">" if a > b else "=" for a, b in pairwise(letters)),
        author_version=version,
    )


class Sorting:
    """The `Domain` of lists of three to eight lower-case letters, to be put into alphabetical order."""

    name = "sorting"
    cells = CELLS

    def seeds(self) -> list[Problem]:
        """Four problems a cell; none is in an evaluation set."""
        return [make_problem(text, -1) for texts in SEED_TEXTS for text in texts]

    def generate(self, rng: random.Random, cell: Cell) -> Problem:
        """Distinct letters, uniform in number, choice and order; a list that comes out sorted is turned round."""
        letters = rng.sample(ascii_lowercase, rng.randint(*LENGTHS[cell]))
        if letters == sorted(letters):
            letters.reverse()
        return make_problem(" ".join(letters), -1)

    def ask(self, request: ProposalRequest, chat: ChatTemplate | None) -> str:
        """Raw: a header and one reference a line, so that the completion is the next line. Chat: an instruction."""
        examples = "".join(f"{reference.statement}\n" for reference in request.references)
        if chat is None:
            return f"Different {request.cell.tier} lists of letters:\n{examples}"
        shortest, longest = LENGTHS[request.cell]
        return chat(
            f"Write one new list of letters for a sorting exercise: {shortest} to {longest} lower-case letters from a "
            "to z with blanks between them, not in alphabetical order.\n"
            + (f"It must differ from each of these:\n{examples}" if examples else "")
            + 'Do not sort it. End with a last line of the form "Problem: <letters>".'
        )

    def read(self, completion: str, request: ProposalRequest, exclude: bool, version: int) -> Proposal:
        """The problem after the last "Problem:", or else on the first line that is not blank."""
        try:
            problem = make_problem(_line(completion, "Problem:"), version)
            if problem.statement in {reference.statement for reference in request.references}:
                raise Rejected("repeats_reference")
        except Rejected as why:
            verdict = Verdict.UNPARSEABLE if str(why) == "unparseable" else Verdict.REJECTED
            return Proposal(verdict=verdict, reason=str(why))
        if exclude and self.is_evaluation(problem.canonical):
            return Proposal(verdict=Verdict.EXCLUDED, reason="in_evaluation")
        return Proposal(verdict=Verdict.VALID, problem=problem)

    def pose(self, problem: Problem, chat: ChatTemplate | None) -> str:
        """Raw: the evaluation's prompt, which ends in a space. Chat: an instruction that names the answer's form."""
        if chat is None:
            return f"Sort: {problem.statement} = "
        return chat(
            f"Put these letters into alphabetical order: {problem.statement}\n"
            'Give all of them, with blanks between them, on a last line of the form "Answer: <letters>".'
        )

    def judge(self, completion: str, problem: Problem, chat: bool) -> Verdict:
        """RIGHT if the letters after the last "Answer:", or else on the first line that is not blank, are the answer.

        WRONG if they are other letters, MALFORMED if there is anything but letters; in chat also without "Answer:".
        """
        if chat and "Answer:" not in completion[-READ_CHARACTERS:]:
            return Verdict.MALFORMED
        letters = _line(completion, "Answer:").replace(",", " ").split()
        if not letters or any(len(x) != 1 or x not in ascii_lowercase for x in letters):
            return Verdict.MALFORMED
        return Verdict.RIGHT if " ".join(letters) == problem.answer else Verdict.WRONG

    def evaluation(self, source: str) -> list[EvalItem]:
        """`source`: test or dev. Raises UserError for another one: this domain reads no files and has no Hub data."""
        if source not in ("test", "dev"):
            raise UserError(f"evaluation data {source!r}: the domain {self.name} has the sets test and dev only")
        return list(_evaluation_sets()[source])

    def is_evaluation(self, canonical: str) -> bool:
        """Whether a problem of test or dev has this canonical form."""
        return canonical in _evaluation_forms()


def _line(completion: str, mark: str) -> str:
    """The rest of the line after the last `mark`, or else the first line that is not blank; without **bold** marks."""
    _, found, rest = completion[-READ_CHARACTERS:].rpartition(mark)
    lines = rest.split("\n") if found else completion[:READ_CHARACTERS].strip().split("\n")
    return lines[0].strip(" \t*.")


@cache
def _evaluation_sets() -> dict[str, tuple[EvalItem, ...]]:
    """EVALUATION_ROWS problems a cell in either set, all with different canonical forms, from a fixed seed."""
    rng, domain, seen = random.Random("sorting/evaluation"), Sorting(), {p.canonical for p in Sorting().seeds()}
    sets: dict[str, list[EvalItem]] = {"test": [], "dev": []}
    for items in sets.values():
        for cell in CELLS:
            for _ in range(EVALUATION_ROWS):
                problem = domain.generate(rng, cell)
                while problem.canonical in seen:
                    problem = domain.generate(rng, cell)
                seen.add(problem.canonical)
                letters = f"{len(problem.answer.split())} letters"
                items.append(EvalItem(problem=problem, label=cell.tier, operation=letters))
    return {name: tuple(items) for name, items in sets.items()}


@cache
def _evaluation_forms() -> frozenset[str]:
    return frozenset(item.problem.canonical for items in _evaluation_sets().values() for item in items)
