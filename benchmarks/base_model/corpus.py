"""The text that the embedded base model is pre-trained on: problem lists, and worked problems with human slips.

The slips are the point. A model that has only seen right answers has nothing left for reinforcement to elicit; one that
has read many careless answers beside right ones knows the right answer and does not prefer it. Every document is
drawn from `Arithmetic.generate`, whose ranges are those of the evaluation.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from azero.domains.arithmetic import Arithmetic
from azero.types import ProposalRequest

BAD_LINE_SHARE = 0.12  # of the lines of a problem list: careless authors repeat, lose an operand, divide inexactly

_SINGLE = re.compile(r"^(\d+) ([-+*/]) (\d+)$")


def worked_problem(
    domain: Arithmetic, rng: random.Random, sum_slips: float, product_slips: float, cell_weights: Sequence[float]
) -> tuple[str, str]:
    """(prompt, completion) of the raw protocol.

    The completion is a slip with probability `product_slips` for one product or quotient, else `sum_slips`.
    """
    problem = domain.generate(rng, rng.choices(domain.cells, cell_weights)[0])
    single = _SINGLE.match(problem.statement)
    slip_share = product_slips if single and single[2] in "*/" else sum_slips
    answer = slip(problem.statement, int(problem.answer), rng) if rng.random() < slip_share else int(problem.answer)
    return domain.pose(problem, None), f"{answer}\n"


def problem_list(domain: Arithmetic, rng: random.Random) -> tuple[str, str]:
    """(prompt, completion): the header of a cell, and four to nine problems of it, one a line."""
    cell = rng.choice(domain.cells)
    lines: list[str] = []
    for _ in range(rng.randint(4, 9)):
        text = domain.generate(rng, cell).statement
        if lines and rng.random() < BAD_LINE_SHARE:
            text = rng.choice([rng.choice(lines), text.rsplit(" ", 1)[0], text.replace("+", "/").replace("*", "/")])
        lines.append(text)
    return domain.ask(ProposalRequest(cell=cell, references=()), None), "".join(f"{line}\n" for line in lines)


def slip(text: str, answer: int, rng: random.Random) -> int:
    """A wrong answer of the kind that a careless person writes; never the right one."""
    single = _SINGLE.match(text)
    kinds = [answer + rng.choice((-1, 1)), answer + rng.choice((-10, 10)) if abs(answer) > 9 else answer + 2]
    if single:
        a, op, b = int(single[1]), single[2], int(single[3])
        if op == "+":
            kinds += [_without_carry(a, b)] * 2
        elif op == "-":
            kinds += [abs(a - b)] * 2 if a < b else [a - b + 10]
        elif op == "*":
            kinds += [a * (b + 1), a * (b - 1), (a + 1) * b]
        else:
            kinds += [b, answer * 10]
    wrong = [k for k in kinds if k != answer]
    return rng.choice(wrong)


def _without_carry(a: int, b: int) -> int:
    """a + b with every carry dropped: 27 + 18 gives 35."""
    total, place = 0, 1
    while a or b:
        total += (a % 10 + b % 10) % 10 * place
        a, b, place = a // 10, b // 10, place * 10
    return total
