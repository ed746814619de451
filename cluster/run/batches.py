"""Which work may be admitted, and when a batch is whole: bounded staleness by pacing (no Ray in here).

Batch k trains version k into k + 1. Its work is admitted only when version k - max_staleness is out, and batch k is
exactly what was admitted for it (of a reserve, what was started). An actor samples with the newest version it was
given, never older than the one at admission, so no sample is staler than max_staleness, and none is ever dropped for
its age.

Where actors play one role alone (rollout.roles), an assignment has two stages: what a proposer's actor made of it comes
back with problems that nobody has solved, which are an assignment of their own. Each stage has the newest version.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

from azero.types import Assignment, Episode, Slot


class BatchBook:
    """Admission and completion of batches, in order."""

    def __init__(self, first: int, last: int, max_staleness: int, parts: int) -> None:
        """Batches first .. last - 1, each cut into `parts` assignments of nearly equal size."""
        self.next_batch, self.last = first, last
        self.max_staleness, self.parts = max_staleness, parts
        self._open: dict[int, dict[str, list[Episode] | None]] = {}
        self._unsolved: dict[str, tuple[Assignment, list[Episode]]] = {}  # by id of the second stage, the first

    def admissible(self, version: int) -> int | None:
        """The next batch that may be admitted while `version` is the newest, or None."""
        if self.next_batch < self.last and self.next_batch - self.max_staleness <= version:
            return self.next_batch
        return None

    def admit(self, slots: Sequence[Slot], reserve: int = 0) -> list[Assignment]:
        """Cut the slots of the next batch into assignments, in the order of the slots.

        The last `reserve` of them start only where others leave room. Each assignment has its share of them.
        """
        batch, self.next_batch = self.next_batch, self.next_batch + 1
        first = len(slots) - reserve
        cuts = zip(self._cut(slots[:first]), self._cut(slots[first:]), strict=True)
        work = [
            Assignment(id=f"{batch}/{i}", batch=batch, slots=(*own, *more), reserve=len(more))
            for i, (own, more) in enumerate(cuts)
            if own
        ]
        self._open[batch] = {a.id: None for a in work}
        return work

    def _cut(self, slots: Sequence[Slot]) -> list[Sequence[Slot]]:
        bounds = [round(i * len(slots) / self.parts) for i in range(self.parts + 1)]
        return [slots[a:b] for a, b in pairwise(bounds)]

    def add(self, assignment: Assignment, episodes: Iterable[Episode]) -> Assignment | None:
        """Take what came of an assignment. Return its second stage, if it has groups to solve.

        Raises KeyError for an assignment that is not open, ValueError for one that is already there.
        """
        first, found = assignment, list(episodes)
        if assignment.id in self._unsolved:
            first, proposed = self._unsolved.pop(assignment.id)
            found = _solved(proposed, found)
        second = Assignment(id=f"{first.id}/solver", batch=first.batch, slots=_unsolved(found))
        if self._open[first.batch][first.id] is not None or second.id in self._unsolved:
            raise ValueError(f"assignment {assignment.id} came back twice")
        if second.slots:
            self._unsolved[second.id] = first, found
            return second
        self._open[first.batch][first.id] = found
        return None

    def take(self, batch: int) -> list[Episode] | None:
        """The episodes of a whole batch in the order of its slots, once; None while some are missing."""
        parts = self._open.get(batch)
        if parts is None or any(p is None for p in parts.values()):
            return None
        del self._open[batch]
        return [e for part in parts.values() if part is not None for e in part]


def _unsolved(episodes: Iterable[Episode]) -> tuple[Slot, ...]:
    """Return a slot for each problem that no solver has seen yet."""
    groups = [episode.group for episode in episodes if episode.group is not None]
    return tuple(Slot(id=group.id, problem=group.problem) for group in groups if not group.samples)


def _solved(proposed: Iterable[Episode], solved: Iterable[Episode]) -> list[Episode]:
    """Return the proposers' episodes with the groups that solvers played. Raises KeyError where one is missing."""
    groups = {episode.group.id: episode.group for episode in solved if episode.group is not None}
    return [replace(e, group=groups[e.group.id]) if e.group is not None else e for e in proposed]
