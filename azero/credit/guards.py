"""What a run watches in its own metrics: signs that it learns nothing any more, told before the budget is gone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from azero.config import GuardConfig


@dataclass(frozen=True, slots=True)
class Limit:
    metric: str
    key: str  # of the configuration
    value: float
    is_floor: bool
    means: str


class Guards:
    """Tells which limits were broken for `guard.steps` steps in a row.

    A metric that is missing or not a number neither breaks a limit nor keeps it.
    """

    def __init__(self, config: GuardConfig, has_proposer: bool) -> None:
        self.steps, self.stops, self.max_skipped = config.steps, config.stops, config.max_skipped
        self.limits = [
            Limit("entropy", "guard.min_entropy", config.min_entropy, True, "the policy explores nothing"),
            Limit("kl/reference", "guard.max_kl", config.max_kl or math.inf, False, "the policy left the start model"),
        ]
        if has_proposer:
            key, means = "guard.min_unique_rate", "the proposer repeats itself"
            self.limits.append(Limit("problems/unique_rate", key, config.min_unique_rate, True, means))
        self._skipped = 0  # updates in a row
        self._broken = dict.fromkeys([limit.metric for limit in self.limits], 0)  # steps in a row

    def judge(self, metrics: Mapping[str, float]) -> tuple[tuple[str, ...], str]:
        """Count one step: (what to warn of, why the run cannot go on or nothing)."""
        warnings = self.check(metrics)
        failure = warnings[0] if warnings and self.stops else ""
        self._skipped = self._skipped + 1 if metrics.get("faults/skipped_updates") else 0
        if self._skipped:
            warnings += (f"update skipped: its loss or gradient is not finite ({self._skipped} in a row)",)
        if self._skipped >= self.max_skipped:
            failure = f"{self._skipped} updates in a row had no finite loss and gradient (guard.max_skipped)"
        return warnings, failure

    def check(self, metrics: Mapping[str, float]) -> tuple[str, ...]:
        """Count one step; a line for each limit from the `steps`-th broken step until one keeps it."""
        said = []
        for limit in self.limits:
            x = metrics.get(limit.metric, math.nan)
            if math.isnan(x):
                continue  # says nothing either way
            is_broken = x < limit.value if limit.is_floor else x > limit.value
            self._broken[limit.metric] = self._broken[limit.metric] + 1 if is_broken else 0
            if self._broken[limit.metric] >= self.steps:
                side = "under" if limit.is_floor else "over"
                said.append(
                    f"{limit.means}: {limit.metric} is {x:.3g}, {side} {limit.key}={limit.value:g} "
                    f"for {self._broken[limit.metric]} steps"
                )
        return tuple(said)

    def state(self) -> dict[str, Any]:
        return {"broken": dict(self._broken), "skipped": self._skipped}

    def load(self, state: Mapping[str, Any]) -> None:
        self._skipped = int(state["skipped"])
        self._broken.update({k: int(v) for k, v in state["broken"].items() if k in self._broken})
