"""Where the problems of a batch come from (`task.source`).

    selfplay, frozen   requests to the proposer: a tier and K references of that tier from the buffer
    random             a fresh problem of the domain's generator
    fixed              the next problems of a set drawn once, in a new shuffled order each epoch

The three tiers take turns; in `fixed` they do so in the making of the set, and the orders are free.
"""

from __future__ import annotations

import random

from azero.config import Source, TaskConfig
from azero.domains.base import Domain
from azero.errors import UserError
from azero.problems.buffer import ProblemBuffer
from azero.problems.exclusion import EvaluationProblems
from azero.types import TIERS, Problem, ProposalRequest, Slot, Tier

MAX_DRAWS = 1000  # of the generator for one problem outside the evaluation set
EXAMPLES = 20  # a tier
MAX_REPEATS = 100  # draws without a new canonical form after which a tier counts as used up in the fixed set


class SlotSource:
    """Makes the slots of a batch: a pure function of the seed, the batch and the buffer's contents.

    The whole run has one sequence of places, of which batch b holds numbers b * problems .. (b + 1) * problems - 1.
    Without a fixed set place n asks for tier n mod 3 and, in try t, for tier (n + t) mod 3: the first tries of a batch,
    and of any run of batches, are balanced over the tiers to within one, and so are the second, and so on. Without
    `task.other_tiers` every try of a place asks for its tier, so that the problems themselves are balanced. Of the
    requests of one batch, tier and try, `task.proposals_per_prompt` share one draw of references and so one prompt.
    """

    def __init__(
        self,
        domain: Domain,
        task: TaskConfig,
        problems: int,
        max_tries: int,
        seed: int,
        evaluation: EvaluationProblems | None = None,
    ) -> None:
        """`problems`: slots a batch. Raises UserError where the fixed set cannot be drawn."""
        self.domain, self.task, self.problems, self.max_tries, self.seed = domain, task, problems, max_tries, seed
        self.evaluation = evaluation or EvaluationProblems(domain)
        self.fixed: tuple[Problem, ...] = self._fixed_set() if task.source is Source.fixed else ()

    def slots(self, batch: int, buffer: ProblemBuffer) -> tuple[Slot, ...]:
        """The `problems` slots of `batch`, with ids "<batch>.<slot>". Raises UserError where none can be drawn."""
        ids = [f"{batch}.{i}" for i in range(self.problems)]
        places = range(batch * self.problems, (batch + 1) * self.problems)
        if self.task.source is Source.fixed:
            return tuple(Slot(id=i, problem=p) for i, p in zip(ids, self._walk(places), strict=True))
        if self.task.source is Source.random:
            rngs = [random.Random(f"{self.seed}/{batch}/{i}") for i in range(self.problems)]
            return tuple(
                Slot(id=i, problem=self._generate(rng, _tier(place))) for i, place, rng in zip(ids, places, rngs)
            )
        return tuple(
            Slot(
                id=i,
                tries=tuple(self._request(batch, place, t, buffer) for t in range(self.max_tries)),
                problem=self._earlier(batch, place, buffer) if self.task.fill_from_buffer else None,
            )
            for i, place in zip(ids, places)
        )

    def examples(self) -> tuple[Problem, ...]:
        """Of the problems that come from no proposer: the seeds, the fixed set, or a few generated ones a tier."""
        if self.task.source is Source.random:
            rng = random.Random(f"{self.seed}/examples")
            return tuple(self._generate(rng, tier) for tier in TIERS for _ in range(EXAMPLES))
        return self.fixed or tuple(self.domain.seed_problems())

    def _request(self, batch: int, place: int, attempt: int, buffer: ProblemBuffer) -> ProposalRequest:
        tier = _tier(place + attempt * self.task.other_tiers)
        prompt = (place - batch * self.problems) // len(TIERS) // self.task.proposals_per_prompt
        rng = random.Random(f"{self.seed}/{batch}/{attempt}/{tier}/{prompt}")
        references = buffer.draw(rng, tier, self.task.references, self.task.distinct_references)
        return ProposalRequest(tier=tier, references=tuple(p.text for p in references))

    def _earlier(self, batch: int, place: int, buffer: ProblemBuffer) -> Problem | None:
        return next(iter(buffer.draw(random.Random(f"{self.seed}/{batch}/{place}/fill"), _tier(place), 1)), None)

    def _generate(self, rng: random.Random, tier: Tier) -> Problem:
        """One problem of the domain's distribution; with task.exclude_evaluation outside the evaluation set."""
        for _ in range(MAX_DRAWS):
            problem = self.domain.generate(rng, tier)
            if not (self.task.exclude_evaluation and problem in self.evaluation):
                return problem
        raise UserError(
            f"task.exclude_evaluation=true: {MAX_DRAWS} generated {tier} problems were all in the evaluation set; "
            "set it to false, or use another task.source"
        )

    def _fixed_set(self) -> tuple[Problem, ...]:
        """`task.fixed_size` problems, the tiers in turn, with distinct canonical forms until a tier has no more."""
        rng = random.Random(f"{self.seed}/fixed")
        problems: list[Problem] = []
        seen: set[str] = set()
        used_up: set[Tier] = set()
        for n in range(self.task.fixed_size):
            tier = _tier(n)
            problem = self._generate(rng, tier)
            if tier not in used_up:
                repeats = 0
                while problem.canonical in seen and repeats < MAX_REPEATS:
                    problem, repeats = self._generate(rng, tier), repeats + 1
                if problem.canonical in seen:
                    used_up.add(tier)
            seen.add(problem.canonical)
            problems.append(problem)
        return tuple(problems)

    def _walk(self, places: range) -> list[Problem]:
        """Problems of the fixed set: place n is number n mod size of epoch n // size."""
        size = len(self.fixed)
        orders = {
            epoch: random.Random(f"{self.seed}/fixed/{epoch}").sample(range(size), size)
            for epoch in range(places[0] // size, places[-1] // size + 1)
        }
        return [self.fixed[orders[n // size][n % size]] for n in places]


def _tier(number: int) -> Tier:
    return TIERS[number % len(TIERS)]
