"""The problems that later proposals are shown as references."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter

from azero.errors import UserError
from azero.types import Cell, Problem

PROBLEM = TypeAdapter(Problem)
CANDIDATES = 8  # drawn for each reference that is to differ in structure


class ProblemBuffer:
    """Hold at most `capacity` problems with distinct canonical forms. Seeds stay; of the others the oldest goes first.

    Where the seeds are of several tasks, each task has an equal share of the capacity, and the oldest of its own goes:
    one that is proposed often does not crowd out another. Adding takes O(1) and drawing k problems O(k), whatever the
    size: each cell has a shelf, a list in which the last problem takes the place of one that is removed.
    """

    def __init__(self, capacity: int, seeds: Sequence[Problem], excluded: Container[Problem] = ()) -> None:
        """`excluded`: never held, from wherever they come. Raises UserError where seeds leave no room for others."""
        self.capacity, self._excluded = capacity, excluded
        self._clear()
        for seed in seeds:
            self._insert(seed)
        tasks = {seed.cell.task for seed in seeds}
        self._share = capacity // max(1, len(tasks))  # of one task
        most = max(map(self._held, tasks), default=0)
        if most >= self._share:
            each = f" {len(tasks)} times" if len(tasks) > 1 else ""
            raise UserError(f"task.buffer_size={capacity}: must exceed{each} the domain's {most} seed problems")

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, problem: Problem) -> bool:
        return problem.canonical in self._places

    def add(self, problem: Problem) -> bool:
        """Whether the problem is now held and was not before. A known form changes nothing, not even its age."""
        if not self._insert(problem):
            return False
        task = problem.cell.task
        self._ages.setdefault(task, deque()).append(problem.canonical)
        if self._held(task) > self._share:
            self._remove(self._ages[task].popleft())
        return True

    def draw(self, rng: random.Random, cell: Cell, k: int, distinct: bool = False) -> tuple[Problem, ...]:
        """`k` problems of `cell`, uniform without replacement; all that there are, shuffled, where they are fewer.

        `distinct`: of CANDIDATES * k that are drawn so, the first of each structure go before all others.
        """
        held = self._shelves.get(cell, [])
        drawn = [held[i] for i in rng.sample(range(len(held)), min(k * (CANDIDATES if distinct else 1), len(held)))]
        first = {p.structure: p for p in reversed(drawn)}
        if distinct:
            drawn.sort(key=lambda p: first[p.structure] is not p)
        return tuple(drawn[:k])

    def sizes(self) -> dict[Cell, int]:
        return {cell: len(held) for cell, held in self._shelves.items()}

    def state(self) -> dict[str, Any]:
        """Everything as JSON values, in an order that makes later draws and evictions equal."""
        return {
            "shelves": {str(cell): [asdict(problem) for problem in held] for cell, held in self._shelves.items()},
            "ages": [form for ages in self._ages.values() for form in ages],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Replace the contents, seeds included; where those of a task exceed its share the oldest go."""
        self._clear()
        for held in state["shelves"].values():
            for value in held:
                self._insert(PROBLEM.validate_python(value))
        for form in state["ages"]:
            if form in self._places:
                self._ages.setdefault(self._places[form][0].task, deque()).append(form)
        for task, ages in self._ages.items():
            while self._held(task) > self._share and ages:
                self._remove(ages.popleft())

    def _held(self, task: str) -> int:
        return sum(len(held) for cell, held in self._shelves.items() if cell.task == task)

    def _clear(self) -> None:
        self._shelves: dict[Cell, list[Problem]] = {}
        self._places: dict[str, tuple[Cell, int]] = {}  # canonical -> cell and index on its shelf
        self._ages: dict[str, deque[str]] = {}  # task -> canonical forms of all but the seeds, oldest first

    def _insert(self, problem: Problem) -> bool:
        if problem in self or problem in self._excluded:
            return False
        held = self._shelves.setdefault(problem.cell, [])
        self._places[problem.canonical] = (problem.cell, len(held))
        held.append(problem)
        return True

    def _remove(self, canonical: str) -> None:
        cell, index = self._places.pop(canonical)
        held = self._shelves[cell]
        last = held.pop()
        if index < len(held):
            held[index] = last
            self._places[last.canonical] = (cell, index)
