"""Where the problems of a batch come from (`task.source`).

    selfplay, solver_only   requests to the proposer: a cell and K references of that cell from the buffer
    random                  a fresh problem of the domain's generator
    fixed                   the next problems of a set drawn once, in a new shuffled order each epoch

The domain's cells take turns; in `fixed` they do so in the making of the set, and the orders are free.
"""

from __future__ import annotations

import random

from azero.config import TaskConfig
from azero.domains.base import Domain, EvaluationProblems, generator, given
from azero.errors import UserError
from azero.problems.buffer import ProblemBuffer
from azero.types import Cell, Problem, ProposalRequest, Slot

MAX_DRAWS = 1000  # of the generator for one problem outside the evaluation set
EXAMPLES = 20  # a cell
MAX_REPEATS = 100  # draws without a new canonical form after which a cell counts as used up in the fixed set


class SlotSource:
    """Makes the slots of a batch: a pure function of the seed, the batch and the buffer's contents.

    The whole run has one sequence of places, of which batch b holds numbers b * problems .. (b + 1) * problems - 1.
    Its reserve holds those that follow, without taking them from the next batch.
    Without a fixed set, and with C cells, place n asks for cell n mod C and, in try t, for cell (n + t) mod C: the
    first tries of a batch, and of any run of batches, are balanced over the cells to within one, and so are the second,
    and so on. Without `task.other_tiers` every try of a place asks for its cell, so that the problems themselves are
    balanced. Of the requests of one batch, cell and try, `task.proposals_per_prompt` share one draw of references and
    of the given problem, and so one prompt.
    """

    def __init__(
        self,
        domain: Domain,
        task: TaskConfig,
        problems: int,
        max_tries: int,
        seed: int,
        evaluation: EvaluationProblems | None = None,
        reserve: int = 0,
    ) -> None:
        """`problems`: slots a batch, beyond which it may have `reserve` more (rollout.pilot).

        Raises UserError where the source needs a generator that is missing or fails.
        """
        self.domain, self.task, self.problems, self.max_tries, self.seed = domain, task, problems, max_tries, seed
        self.evaluation, self.reserve = evaluation or EvaluationProblems(domain), reserve
        if task.source in ("random", "fixed"):
            self._generator = generator(domain)
        self.fixed: tuple[Problem, ...] = self._fixed_set() if task.source == "fixed" else ()

    def slots(self, batch: int, buffer: ProblemBuffer) -> tuple[Slot, ...]:
        """The slots of `batch` and then those of its reserve, with ids "<batch>.<slot>".

        Raises UserError where none can be drawn.
        """
        total = self.problems + self.reserve
        ids = [f"{batch}.{i}" for i in range(total)]
        places = range(batch * self.problems, batch * self.problems + total)
        if self.task.source == "fixed":
            walked = self._walk(range(batch * total, (batch + 1) * total))
            return tuple(Slot(id=i, problem=p) for i, p in zip(ids, walked, strict=True))
        if self.task.source == "random":
            rngs = [random.Random(f"{self.seed}/{batch}/{i}") for i in range(total)]
            return tuple(
                Slot(id=i, problem=self._generate(rng, self._cell(place))) for i, place, rng in zip(ids, places, rngs)
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
        """Return problems that come from no proposer: the seeds, the fixed set, or a few generated ones a cell."""
        if self.task.source == "random":
            rng = random.Random(f"{self.seed}/examples")
            return tuple(self._generate(rng, cell) for cell in self.domain.cells for _ in range(EXAMPLES))
        return self.fixed or tuple(self.domain.seeds())

    def _request(self, batch: int, place: int, attempt: int, buffer: ProblemBuffer) -> ProposalRequest:
        cell = self._cell(place + attempt * self.task.other_tiers)
        prompt = (place - batch * self.problems) // len(self.domain.cells) // self.task.proposals_per_prompt
        name = str(cell).removeprefix(f"{self.domain.name}/")
        draw = f"{self.seed}/{batch}/{attempt}/{name}/{prompt}"
        rng = random.Random(draw)
        references = buffer.draw(rng, cell, self.task.references, self.task.distinct_references)
        return ProposalRequest(cell=cell, references=references, given=self._given(f"{draw}/given", cell, buffer))

    def _given(self, draw: str, cell: Cell, buffer: ProblemBuffer) -> Problem | None:
        """One problem of the shelves that the domain names, the shelf uniform among those that hold some."""
        shelves, rng = given(self.domain, cell), random.Random(draw)
        found = (buffer.draw(rng, shelf, 1) for shelf in rng.sample(shelves, len(shelves)))
        return next((problem for drawn in found for problem in drawn), None)

    def _earlier(self, batch: int, place: int, buffer: ProblemBuffer) -> Problem | None:
        rng = random.Random(f"{self.seed}/{batch}/{place}/fill")
        return next(iter(buffer.draw(rng, self._cell(place), 1)), None)

    def _generate(self, rng: random.Random, cell: Cell) -> Problem:
        """One problem of the domain's distribution; with task.exclude_evaluation outside the evaluation set."""
        for _ in range(MAX_DRAWS):
            problem = self._generator(rng, cell)
            if not (self.task.exclude_evaluation and problem in self.evaluation):
                return problem
        raise UserError(
            f"task.exclude_evaluation=true: {MAX_DRAWS} generated problems of {cell} were all in the evaluation set; "
            "set it to false, or use another task.source"
        )

    def _fixed_set(self) -> tuple[Problem, ...]:
        """`task.fixed_size` problems, the cells in turn, with distinct canonical forms until a cell has no more."""
        rng = random.Random(f"{self.seed}/fixed")
        problems: list[Problem] = []
        seen: set[str] = set()
        used_up: set[Cell] = set()
        for n in range(self.task.fixed_size):
            cell = self._cell(n)
            problem = self._generate(rng, cell)
            if cell not in used_up:
                repeats = 0
                while problem.canonical in seen and repeats < MAX_REPEATS:
                    problem, repeats = self._generate(rng, cell), repeats + 1
                if problem.canonical in seen:
                    used_up.add(cell)
            seen.add(problem.canonical)
            problems.append(problem)
        return tuple(problems)

    def _walk(self, places: range) -> list[Problem]:
        """Problems of the fixed set: place n is number n mod size of epoch n // size.

        A reserve has places of its own, which are skipped where they do not start: no problem is twice in an epoch.
        """
        size = len(self.fixed)
        orders = {
            epoch: random.Random(f"{self.seed}/fixed/{epoch}").sample(range(size), size)
            for epoch in range(places[0] // size, places[-1] // size + 1)
        }
        return [self.fixed[orders[n // size][n % size]] for n in places]

    def _cell(self, number: int) -> Cell:
        return self.domain.cells[number % len(self.domain.cells)]
