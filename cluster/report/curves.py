"""Metrics over steps: the curves of a report, drawn so that a gap stays a gap and no curve hides another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from azero.types import TIERS
from cluster.report.data import Run
from cluster.report.figures import INK, TIER_COLOURS, Picture, colours, draw, legend, percent, step_axes

POINTS = 300  # drawn of one curve
STYLES = ("-", "--", ":")
# Of the first of several curves, of the second, ...: an earlier one shows on both sides of a later one that equals it.
WIDTHS, STRENGTHS = (4.0, 1.8, 1.2), (0.4, 1.0, 1.0)
SHOWN_ELSEWHERE = ("step", "time_s", "eval/", "problems/share/", "baseline/")  # metrics, by how they begin


@dataclass(frozen=True, slots=True)
class Curve:
    """Metrics over steps in one picture: a colour a run, a line style a metric."""

    title: str
    unit: str
    keys: str  # of metrics.jsonl, separated by spaces
    note: str = ""
    limits: tuple[float | None, float | None] = (None, None)
    scale: str = "linear"  # or log


def curve(runs: Sequence[Run], spec: Curve) -> Picture | None:
    """None where no run has any of the metrics yet."""
    colour, keys = colours(runs), spec.keys.split()
    found = [(run, i, *_with_gaps(run, key)) for run in runs for i, key in enumerate(keys)]
    found = [entry for entry in found if np.isfinite(entry[3]).any()]
    if not found:
        return None

    def paint(figure: Figure) -> None:
        axes = step_axes(figure, "step", spec.unit)
        for run, i, steps, values in found:
            raw = len(runs) <= 4 and spec.scale == "linear"
            if raw:
                every = -(-len(steps) // POINTS)
                axes.plot(steps[::every], values[::every], color=colour[run.arm], alpha=0.25, linewidth=0.8)
            order = i if len(keys) > 1 else min(len(WIDTHS) - 1, list(colour).index(run.arm)) if len(colour) > 1 else 1
            smooth = _smooth(values) if spec.scale == "linear" else values
            _plot(axes, steps, smooth, order, color=colour[run.arm], linestyle=STYLES[i])
        _scale(axes, spec, any(np.nan_to_num(values).any() for *_, values in found))
        if len(keys) > 1:
            for i, key in enumerate(keys):
                style: dict[str, Any] = {"linestyle": STYLES[i], "linewidth": WIDTHS[i], "alpha": STRENGTHS[i]}
                axes.plot([], [], color=INK, label=key, **style)
            legend(figure, axes)

    return draw(spec.title, spec.note, paint, keys=keys)


def baselines(run: Run, role: str) -> Picture | None:
    """The three moving averages of one role's reward."""
    found = {tier: _with_gaps(run, f"baseline/{role}/{tier}") for tier in TIERS}
    if not any(np.isfinite(values).any() for _, values in found.values()):
        return None

    def paint(figure: Figure) -> None:
        axes = step_axes(figure, "step", "reward")
        for order, (tier, (steps, values)) in enumerate(found.items()):
            _plot(axes, steps, values, order, color=TIER_COLOURS[tier], label=tier.value)
        legend(figure, axes)

    return draw(f"Baselines of the {role}{run.suffix}", "", paint, keys=[f"baseline/{role}/<tier>"])


def others(runs: Sequence[Run], shown: Sequence[Picture]) -> list[Picture]:
    """A small picture of each number that the runs log and that none of `shown` has: own metrics among them."""
    known = {key for picture in shown for key in picture.keys}
    keys = {key for run in runs for m in run.metrics for key, value in m.items() if isinstance(value, int | float)}
    left = sorted(k for k in keys - known if not k.startswith(SHOWN_ELSEWHERE) and k != "weight_version")
    pictures = [curve(runs, Curve(key, key.rpartition("/")[2], key)) for key in left if not key.count(" ")]
    return [picture for picture in pictures if picture]


def _with_gaps(run: Run, key: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values): all steps that are logged, nan where the metric is absent."""
    steps = np.array([m["step"] for m in run.metrics])
    values = [m.get(key) for m in run.metrics]
    return steps, np.array([v if isinstance(v, int | float) else np.nan for v in values], dtype=float)


def _plot(axes: Axes, steps: np.ndarray, values: np.ndarray, order: int, **style: Any) -> None:
    """A line that breaks at nan, with a mark where a value stands alone. `order`: of curves that may be equal."""
    style |= {"linewidth": WIDTHS[order], "alpha": STRENGTHS[order]}
    there = np.isfinite(values)
    every = -(-len(steps) // POINTS)
    chosen = (np.arange(len(steps)) % every == 0) | (~there & np.roll(there, 1))  # the first of each gap, too
    axes.plot(steps[chosen], values[chosen], **style)
    beside = np.concatenate([[False], there, [False]])
    alone = there & ~beside[:-2] & ~beside[2:]
    axes.plot(steps[alone], values[alone], "o", color=style["color"])


def _smooth(values: np.ndarray) -> np.ndarray:
    """Mean over the neighbouring twentieth of the steps, `values` itself where they are few; nan where they are nan."""
    half, there = len(values) // 40, np.isfinite(values)
    sums, counts = (np.concatenate([[0.0], np.cumsum(x)]) for x in (np.where(there, values, 0.0), there))
    low = np.maximum(0, np.arange(len(values)) - half)
    high = np.minimum(len(values), np.arange(len(values)) + half + 1)
    return np.where(there, (sums[high] - sums[low]) / np.maximum(1, counts[high] - counts[low]), np.nan)


def _scale(axes: Axes, spec: Curve, has_height: bool) -> None:
    axes.set_yscale(spec.scale)
    if spec.scale == "log":  # matplotlib's own labels are in mathematical notation, which is switched off here
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(*spec.limits)
    if not has_height:
        axes.set_ylim(0, 1)  # a flat zero has no scale of its own
    if spec.unit == "share":
        percent(axes.yaxis)
