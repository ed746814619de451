"""Advantages: the task-relative baselines of TRR++ (arXiv 2505.03335 eq. 8) and the group-relative ones of GRPO.

    TRR++   A = (r - mu[cell]) / (sigma[cell] + eps)      every sample of a cell against that cell
    GRPO    A = (r - mean(group)) / (std(group) + eps)    every sample against its own group

`baseline.by: problem` takes the second for solutions, whose problem is the finest task there is, and the first for
proposals. Credit bounds what comes out by `algorithm.advantage_clip`.

Means and standard deviations are over samples, each once, and of the population (ddof 0).

A grouping (`baseline.by`) is a function of a Scored sample that names its cell. An estimator (`baseline.estimator`) is
a class that is called with the section `baseline` and the grouping; see `Estimator`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from azero.config import BaselineConfig
from azero.plugs import build, checked, find, lacking, no_numbers, shown
from azero.types import Cell, Role

# A reward spread under this is none. One solution of 1e8 that differs gives 1.5e-4 on the paper's ladder, while the
# rounding of float64 means stays under 1e-12: nothing real lies below, and dividing by it would make noise of size one.
MIN_STD = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """One rewarded sample and what decides its baseline."""

    role: Role
    cell: Cell  # the requested one of a proposal, the problem's own of a solution
    group: str  # group id, distinct between groups; a proposal is a group of its own
    reward: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Mean and variance of rewards, of one batch or of a moving average."""

    mean: float
    variance: float

    @property
    def std(self) -> float:
        return self.variance**0.5

    def decayed(self, batch: Moments, decay: float) -> Moments:
        """Moments of the mixture decay * self + (1 - decay) * batch.

        Its variance holds the distance between the two means. An average of standard deviations would not, and would
        shrink as fast as r - mean does once a cell has become constant: A would stay large until it stopped at once.
        """
        keep, new = decay, 1 - decay
        return Moments(
            mean=keep * self.mean + new * batch.mean,
            variance=keep * self.variance + new * batch.variance + keep * new * (batch.mean - self.mean) ** 2,
        )


Grouping = Callable[[Scored], str]


GROUPINGS: dict[str, Grouping] = {
    "cell": lambda sample: f"{sample.role}/{sample.cell}",  # such as "solver/arithmetic/easy"
    "task": lambda sample: f"{sample.role}/{sample.cell.task}",
    "role": lambda sample: str(sample.role),
    "batch": lambda sample: "batch",
    "problem": lambda sample: f"{sample.role}/{sample.cell}",  # of proposals; solutions are compared with their group
}


class Estimator(Protocol):
    """Gives a batch its advantages. A method baselines() -> {cell: mean reward}, if there is one, is logged."""

    def advantages(self, rows: Sequence[Scored]) -> np.ndarray:
        """Advantages [rows] of a batch, in order."""

    def state(self) -> dict[str, Any]:
        """All that later steps depend on, as JSON has it; it goes into checkpoints."""

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""


class TaskRelativeBaseline:
    """TRR++ advantages, with the moving averages that stand in where a batch says too little of a cell.

    mu and sigma come from the first of these that applies:
      1. the cell's samples in the batch, if they are of `min_groups` groups or more and their std reaches MIN_STD;
      2. the cell's exponential moving average, if the cell was ever seen before this batch;
      3. the role's, if the role was.
    With none, or where the average's own std is under MIN_STD, A = 0. An average that has seen a cell is never passed
    over for the role's: a cell that has been constant for long has nothing to learn, whatever the others do.

    Case 2 is meant to give A != 0 to a cell whose samples have just become equal: if all are right where 0.75 were
    before, all are better than expected. As the average follows, A falls to 0.
    """

    def __init__(self, config: BaselineConfig, grouping: Grouping) -> None:
        self.config, self.grouping = config, grouping
        self._cells: dict[str, Moments] = {}
        self._roles: dict[str, Moments] = {}

    def advantages(self, rows: Sequence[Scored]) -> np.ndarray:
        """Advantages [rows] of a batch, in order. Each sample counts once, however many tokens it has.

        The moving averages of all cells and roles in the batch are updated after use; a first observation sets them.
        Raises ValueError for a reward that is not finite.
        """
        rewards = np.fromiter((r.reward for r in rows), dtype=np.float64, count=len(rows))
        if not np.isfinite(rewards).all():
            raise ValueError(f"advantages: reward {rewards[~np.isfinite(rewards)][0]} is not finite")
        of_cell: dict[str, list[int]] = {}  # cell -> its rows
        of_role: dict[str, list[int]] = {}
        for i, row in enumerate(rows):
            of_cell.setdefault(self.grouping(row), []).append(i)
            of_role.setdefault(str(row.role), []).append(i)
        cells = {cell: _moments(rewards[at]) for cell, at in of_cell.items()}

        out = np.zeros(len(rows))
        for cell, at in of_cell.items():
            moments: Moments | None = cells[cell]
            if len({rows[i].group for i in at}) < self.config.min_groups or cells[cell].std < MIN_STD:
                # A cell of both roles (batch) is unseen only where both are.
                moments = self._cells.get(cell) or self._roles.get(str(rows[at[0]].role))
            if moments is not None and moments.std >= MIN_STD:
                out[at] = (rewards[at] - moments.mean) / (moments.std + self.config.epsilon)
        if self.config.by == "problem":
            self._compare_in_groups(rows, rewards, out)

        self._remember(self._cells, cells)
        self._remember(self._roles, {role: _moments(rewards[at]) for role, at in of_role.items()})
        return out

    def _compare_in_groups(self, rows: Sequence[Scored], rewards: np.ndarray, out: np.ndarray) -> None:
        """Give solutions the advantages of GRPO."""
        of_group: dict[str, list[int]] = {}
        for i, row in enumerate(rows):
            if row.role is Role.SOLVER:
                of_group.setdefault(row.group, []).append(i)
        for at in of_group.values():
            out[at] = group_advantages(rewards[at], self.config.epsilon)

    def baselines(self) -> dict[str, float]:
        """Moving average of the mean reward by cell, for metrics baseline/<cell>."""
        return {cell: moments.mean for cell, moments in sorted(self._cells.items())}

    def state(self) -> dict[str, Any]:
        return {
            "cells": {name: asdict(moments) for name, moments in self._cells.items()},
            "roles": {name: asdict(moments) for name, moments in self._roles.items()},
        }

    def load(self, state: Mapping[str, Any]) -> None:
        self._cells = {name: Moments(**moments) for name, moments in state["cells"].items()}
        self._roles = {name: Moments(**moments) for name, moments in state["roles"].items()}

    def _remember(self, averages: dict[str, Moments], batch: Mapping[str, Moments]) -> None:
        for name, moments in batch.items():
            averages[name] = averages[name].decayed(moments, self.config.ema_decay) if name in averages else moments


ESTIMATORS = {"trr": TaskRelativeBaseline}
EXPLAINED = "Estimator protocol; see azero/credit/advantages.py and docs/your-own-parts.md"


def group_advantages(rewards: np.ndarray, epsilon: float) -> np.ndarray:
    """GRPO advantages [samples] of a group's rewards [samples]; exactly 0 in a group without variance."""
    std = rewards.std()
    return (rewards - rewards.mean()) / (std + epsilon) if std >= MIN_STD else np.zeros(rewards.shape)


def _moments(rewards: np.ndarray) -> Moments:
    """Mean and population variance of rewards [samples]."""
    return Moments(mean=float(rewards.mean()), variance=float(rewards.var()))


def grouping(name: str) -> Grouping:
    """The function of `baseline.by`. Raises UserError as `azero.plugs.find` does."""
    return checked(f"baseline.by={name}", find("baseline.by", name, GROUPINGS), _no_name)


class CheckedEstimator:
    """Stands for the estimator of `baseline.estimator`, and bounds what it says."""

    def __init__(self, config: BaselineConfig, clip: float) -> None:
        """Raises UserError as `azero.plugs.build` does. `clip`: the largest |A|."""
        name, self._clip = config.estimator, clip
        missing = lacking("advantages", "state", "load")
        self._estimator = build("baseline.estimator", name, ESTIMATORS, missing, EXPLAINED, config, grouping(config.by))
        self._where = f"baseline.estimator={name}: {type(self._estimator).__name__}"

    def advantages(self, rows: Sequence[Scored]) -> np.ndarray:
        """Advantages [rows] of a batch, in order, each in [-clip, clip]. Raises RunFailed for what is no advantage."""
        wrong = partial(_no_advantages, len(rows))
        values = self._call("advantages", wrong)(rows)
        return np.clip(np.asarray(values, dtype=np.float64), -self._clip, self._clip)

    def baselines(self) -> dict[str, float]:
        """Mean reward by cell as the estimator remembers it, for metrics baseline/<cell>; empty where it has none."""
        return self._call("baselines", no_numbers)() if hasattr(self._estimator, "baselines") else {}

    def state(self) -> dict[str, Any]:
        return self._call("state", _no_mapping)()

    def load(self, state: Mapping[str, Any]) -> None:
        self._call("load", lambda _: "")(state)

    def _call(self, method: str, wrong: Callable[[Any], str]) -> Callable[..., Any]:
        return checked(f"{self._where}.{method}", getattr(self._estimator, method), wrong)


def _no_name(cell: Any) -> str:
    is_name = isinstance(cell, str) and cell
    return "" if is_name else f"returns {shown(cell)}; it must return the name of a cell, a text that is not empty"


def _no_mapping(state: Any) -> str:
    return "" if isinstance(state, Mapping) else f"returns {shown(state)}; it must return a dict that JSON can hold"


def _no_advantages(rows: int, values: Any) -> str:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        return f"returns {shown(values)}; it must return {rows} numbers, one a row"
    if array.shape != (rows,):
        return f"returns an array of shape {list(array.shape)}; it must return {rows} numbers, one a row"
    return "" if np.isfinite(array).all() else f"returns {array[~np.isfinite(array)][0]} among its advantages"
