"""Which work may be admitted, and when a batch is whole: bounded staleness by pacing (no Ray in here).

Batch k trains version k into k + 1. Its work is admitted only when version k - max_staleness is out, and batch k is
exactly what was admitted for it. An actor samples with the newest version it was given, never older than the one at
admission, so no sample is staler than max_staleness, and none is ever dropped for its age.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from azero.types import Assignment, Episode, Slot


class BatchBook:
    """Admission and completion of batches, in order."""

    def __init__(self, first: int, last: int, max_staleness: int, parts: int) -> None:
        """Batches first .. last - 1, each cut into `parts` assignments of nearly equal size."""
        self.next_batch, self.last = first, last
        self.max_staleness, self.parts = max_staleness, parts
        self._open: dict[int, dict[str, list[Episode] | None]] = {}

    def admissible(self, version: int) -> int | None:
        """The next batch that may be admitted while `version` is the newest, or None."""
        if self.next_batch < self.last and self.next_batch - self.max_staleness <= version:
            return self.next_batch
        return None

    def admit(self, slots: Sequence[Slot]) -> list[Assignment]:
        """Cut the slots of the next batch into assignments, in the order of the slots."""
        batch, self.next_batch = self.next_batch, self.next_batch + 1
        bounds = [round(i * len(slots) / self.parts) for i in range(self.parts + 1)]
        work = [
            Assignment(id=f"{batch}/{i}", batch=batch, slots=tuple(slots[a:b]))
            for i, (a, b) in enumerate(pairwise(bounds))
            if b > a
        ]
        self._open[batch] = {a.id: None for a in work}
        return work

    def add(self, assignment: Assignment, episodes: Iterable[Episode]) -> None:
        """Raises KeyError for an assignment that is not open, ValueError for one that is already there."""
        if self._open[assignment.batch][assignment.id] is not None:
            raise ValueError(f"assignment {assignment.id} came back twice")
        self._open[assignment.batch][assignment.id] = list(episodes)

    def take(self, batch: int) -> list[Episode] | None:
        """The episodes of a whole batch in the order of its slots, once; None while some are missing."""
        parts = self._open.get(batch)
        if parts is None or any(p is None for p in parts.values()):
            return None
        del self._open[batch]
        return [e for part in parts.values() if part is not None for e in part]
