"""How rare a problem is among the last ones: what the diversity bonus pays for."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

from azero.types import Problem


class NoveltyWindow:
    """How often canonical forms and structures occurred among the last `size` valid proposals.

    The proposals of a step are scored in order and each is added right after its own score, so that repeats within one
    step lower each other too. Adding and scoring take O(1).
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._recent: deque[tuple[str, str]] = deque()  # (canonical, structure), oldest first
        self._canonical: Counter[str] = Counter()
        self._structure: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._recent)

    def novelty(self, problem: Problem) -> float:
        """0.5 / (1 + n) + 0.5 (1 - log(1 + m) / log(1 + N)), in (0, 1]; 1 where form and structure are both unseen.

        Of the N problems in the window n have the canonical form and m have the structure. The first half falls fast,
        since a repeat teaches nothing. The second is the structure's surprise, -log((1 + m) / (1 + N)) over its largest
        value: structures are few and must recur, and its mean rises with the entropy of what is proposed.
        """
        form = 1 / (1 + self._canonical[problem.canonical])
        known = self._structure[problem.structure]
        structure = 1 - math.log1p(known) / math.log1p(len(self)) if known else 1.0
        return 0.5 * form + 0.5 * structure

    def add(self, problem: Problem) -> None:
        self._add(problem.canonical, problem.structure)

    def state(self) -> dict[str, Any]:
        return {"recent": [list(pair) for pair in self._recent]}

    def load(self, state: Mapping[str, Any]) -> None:
        """Replace the contents; of more than `size` entries the last ones stay."""
        self._recent.clear()
        self._canonical.clear()
        self._structure.clear()
        for canonical, structure in state["recent"]:
            self._add(canonical, structure)

    def _add(self, canonical: str, structure: str) -> None:
        self._recent.append((canonical, structure))
        self._canonical[canonical] += 1
        self._structure[structure] += 1
        if len(self) > self.size:
            for counter, key in zip((self._canonical, self._structure), self._recent.popleft(), strict=True):
                counter[key] -= 1
                if not counter[key]:
                    del counter[key]
