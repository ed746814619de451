"""The parts of credit that a config names: learnability shape, grouping, estimator. Their answers are checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from azero.config import BaselineConfig
from azero.credit.advantages import ESTIMATORS, GROUPINGS, Grouping, Scored
from azero.credit.rewards import SHAPES
from azero.plugs import build, checked, find, no_number, no_numbers, shown

EXPLAINED = "Estimator protocol; see azero/credit/advantages.py and docs/your-own-parts.md"


def learnability_shape(name: str) -> Callable[[float], float] | None:
    """The function of `reward.learnability`; None for `improvement`, which is no function of the success rate alone.

    Raises UserError as `azero.plugs.find` does.
    """
    if name == "improvement":
        return None
    return checked(f"reward.learnability={name}", find("reward.learnability", name, SHAPES), no_number)


def grouping(name: str) -> Grouping:
    """The function of `baseline.by`. Raises UserError as `azero.plugs.find` does."""
    return checked(f"baseline.by={name}", find("baseline.by", name, GROUPINGS), _no_name)


class CheckedEstimator:
    """Stands for the estimator of `baseline.estimator`, and bounds what it says."""

    def __init__(self, config: BaselineConfig, clip: float) -> None:
        """Raises UserError as `azero.plugs.build` does. `clip`: the largest |A|."""
        name, self._clip = config.estimator, clip
        self._estimator = build(
            "baseline.estimator", name, ESTIMATORS, _missing, EXPLAINED, config, grouping(config.by)
        )
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


def _missing(estimator: object) -> list[str]:
    return [part for part in ("advantages", "state", "load") if not callable(getattr(estimator, part, None))]


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
