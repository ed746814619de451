"""Integer arithmetic: problems such as "(12 - 4) * 3", answered exactly and verified from the completion alone."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Sequence

from azero.domains import evaluation_sets
from azero.domains.base import ChatTemplate, Proposal
from azero.domains.expression import (
    BLANKS,
    MAX_OPERAND,
    MAX_OPERATIONS,
    MAX_RESULT,
    Expression,
    Operation,
    Reason,
    Rejected,
    canonical,
    check,
    parse,
    render,
    structure,
)
from azero.domains.expression import tier as tier_of
from azero.domains.reading import as_integer, chat_number, raw_number
from azero.types import EvalItem, Problem, Tier, Verdict

READ_CHARACTERS = 4096  # of a completion: the first in the raw protocol, the last in the chat protocol

SEED_TEXTS: dict[Tier, tuple[str, ...]] = {  # with a 0, a 1 and equal numbers: models trip over these
    Tier.EASY: ("3 + 8", "4 + 9", "6 + 8", "5 - 3", "10 - 6", "4 - 9", "4 * 5", "7 * 8")
    + ("9 - 0", "7 - 7", "8 * 1", "0 * 8"),
    Tier.MEDIUM: ("12 + 9", "18 + 13", "14 - 5", "11 - 16", "12 * 7", "16 * 5", "18 / 3", "20 / 5")
    + ("17 - 0", "13 - 13", "0 * 14", "0 / 9"),
    Tier.HARD: ("47 + 35", "88 + 56", "63 - 28", "23 * 14", "84 / 21", "7 + 6 * 5", "18 - (9 - 4)", "(12 - 4) * 3")
    + ("75 - 40", "52 - 52", "30 * 6", "0 / 37"),
}

TIER_WORDS = {
    Tier.EASY: "one operation among + - *, both numbers from 0 to 10",
    Tier.MEDIUM: "one operation among + - * /, both numbers from 0 to 20; with + - * one above 10",
    Tier.HARD: f"one operation with a number above 20, or two to {MAX_OPERATIONS} operations, parentheses allowed",
}

_PROBLEM_LINE = re.compile(r"^[ \t]*\**problem:\**(.*)$", re.ASCII | re.IGNORECASE | re.MULTILINE)


def make_problem(text: str, version: int) -> Problem:
    """The problem that `text` states, in any spelling of the grammar; raises Rejected."""
    expression = parse(text)
    answer = check(expression)
    text, form = render(expression), canonical(expression)
    return Problem(
        id=hashlib.sha256(f"{form}\n{text}".encode()).hexdigest()[:12],
        domain=Arithmetic.name,
        text=text,
        answer=str(answer),
        tier=tier_of(expression),
        canonical=form,
        structure=structure(expression),
        author_version=version,
    )


class Arithmetic:
    """The `Domain` of expressions over non-negative integers with + - * / and parentheses."""

    name = "arithmetic"

    def seed_problems(self) -> list[Problem]:
        """Twelve problems a tier, with every operator of the tier. Two easy ones are evaluation problems, too."""
        return [make_problem(text, -1) for tier in Tier for text in SEED_TEXTS[tier]]

    def generate(self, rng: random.Random, tier: Tier) -> Problem:
        """One problem of exactly `tier`, redrawn until it is one, over the ranges of the evaluation's labels.

        easy: half very_easy, half easy. medium: medium. hard: 40 % hard, 45 % very_hard, 15 % two operations among
        + - * on operands to 20, grouped to the left or to the right.
        """
        for _ in range(100):  # a draw is of the tier in more than 70 % of cases
            expression = _draw(rng, tier)
            if tier_of(expression) is tier:
                return make_problem(render(expression), -1)
        return make_problem(rng.choice(SEED_TEXTS[tier]), -1)

    def proposer_prompt(self, tier: Tier, references: Sequence[str], chat: ChatTemplate | None) -> str:
        """Raw: a header and one reference a line, so that the completion is the next line. Chat: an instruction."""
        if chat is None:
            return f"Different {tier} problems:\n" + "".join(f"{reference}\n" for reference in references)
        examples = "".join(f"{reference}\n" for reference in references)
        return chat(
            f"Write one new {tier} arithmetic problem: {TIER_WORDS[tier]}.\n"
            f"Numbers are whole, from 0 to {MAX_OPERAND}. Every division must come out exact, and no result may exceed "
            f"{MAX_RESULT}.\n"
            + (f"It must differ from each of these:\n{examples}" if references else "")
            + 'Do not solve it. End with a last line of the form "Problem: <expression>".'
        )

    def parse_proposal(self, completion: str, references: Sequence[str], exclude: bool, version: int) -> Proposal:
        """The problem of the last line that begins with "Problem:", or else of the first line that is not blank.

        `reason` is a value of `Reason`.
        """
        try:
            problem = make_problem(_proposed_line(completion), version)
        except Rejected as rejected:
            unparseable = rejected.reason is Reason.UNPARSEABLE
            verdict = Verdict.UNPARSEABLE if unparseable else Verdict.REJECTED
            return Proposal(verdict=verdict, reason=rejected.reason)
        if problem.text in references:
            return Proposal(verdict=Verdict.REJECTED, reason=Reason.REPEATS_REFERENCE)
        if exclude and self.in_evaluation(problem.canonical):
            return Proposal(verdict=Verdict.EXCLUDED, reason=Reason.IN_EVALUATION)
        return Proposal(verdict=Verdict.VALID, problem=problem)

    def solver_prompt(self, problem: str, chat: ChatTemplate | None) -> str:
        """Raw: the evaluation's prompt, which ends in a space. Chat: an instruction that names the answer's form."""
        if chat is None:
            return f"Calculate: {problem} = "
        return chat(
            f'Calculate: {problem}\nGive the result as an integer on a last line of the form "Answer: <integer>".'
        )

    def verify(self, completion: str, answer: str, chat: bool) -> Verdict:
        """Raw: the first number. Chat: what the last "Answer:" states, or else the last number (reading.py).

        RIGHT if it is the integer `answer`; WRONG if it is another or no integer, such as "8.5"; MALFORMED without a
        number. Only READ_CHARACTERS are read, and no digits are ever converted.
        """
        number = chat_number(completion[-READ_CHARACTERS:]) if chat else raw_number(completion[:READ_CHARACTERS])
        if number is None:
            return Verdict.MALFORMED
        return Verdict.RIGHT if as_integer(number) == as_integer(answer) else Verdict.WRONG

    def evaluation_set(self, source: str) -> list[EvalItem]:
        """`source`: test or dev (generated offline from fixed seeds), a file, or a Hugging Face Hub id.

        Raises UserError for a missing file, a wrong format or wrong columns.
        """
        return evaluation_sets.load(source)

    def in_evaluation(self, canonical: str) -> bool:
        """Whether the canonical form belongs to a problem of the published or the generated evaluation sets."""
        return evaluation_sets.evaluation_hash(canonical) in evaluation_sets.shipped_hashes()


def _draw(rng: random.Random, tier: Tier) -> Expression:
    if tier is Tier.EASY:
        return evaluation_sets.draw(rng, rng.choice(("very_easy", "easy")))
    if tier is Tier.MEDIUM:
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
