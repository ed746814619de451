"""Runs that differ in one thing, compared over seeds: means, intervals, and the paired difference to a control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from azero.verbatim import VerbatimTable
from cluster.records.rundir import read_jsonl

MOST_SEEDS = 1000


def arm_summary(runs: Mapping[int, Path], columns: Sequence[str]) -> dict[str, Any]:
    """Summarise the runs (seed -> directory) that have a first and a last evaluation; lists are in order of `seeds`.

    {seeds, before, after, mean, sd, interval, seconds, columns: {metric: median over the steps, a run each}}.
    """
    out: dict[str, Any] = {"seeds": [], "before": [], "after": [], "seconds": [], "columns": {c: [] for c in columns}}
    for seed, path in runs.items():
        evals = read_jsonl(path / "evals.jsonl")
        if len(evals) < 2:
            continue
        steps = [m for m in read_jsonl(path / "metrics.jsonl") if m["step"] > 0]
        out["seeds"].append(seed)
        out["before"].append(evals[0]["accuracy"])
        out["after"].append(evals[-1]["accuracy"])
        out["seconds"].append(steps[-1]["time_s"] if steps else None)
        for column in columns:
            values = [m[column] for m in steps if m.get(column) is not None]
            out["columns"][column].append(float(np.median(values)) if values else None)
    return out | statistics(out["after"])


def difference(arm: Mapping[str, Any], control: Mapping[str, Any]) -> dict[str, Any]:
    """Accuracy after, arm minus control, paired by seed; `seeds_to_tell`: how many would tell it from 0."""
    of_control = dict(zip(control["seeds"], control["after"], strict=True))
    paired = [a - of_control[s] for s, a in zip(arm["seeds"], arm["after"], strict=True) if s in of_control]
    found = statistics(paired)
    return found | {"seeds_to_tell": seeds_to_tell(found["mean"], found["sd"])}


def statistics(values: Sequence[float]) -> dict[str, Any]:
    """{mean, sd, interval}: sample standard deviation and Student's 95 % interval; None where too few."""
    if len(values) < 2:
        return {"mean": float(values[0]) if values else None, "sd": None, "interval": None}
    mean, sd = float(np.mean(values)), float(np.std(values, ddof=1))
    half = half_width(sd, len(values))
    return {"mean": mean, "sd": sd, "interval": [mean - half, mean + half]}


def half_width(sd: float, n: int) -> float:
    """Return half the width of Student's 95 % interval for a mean of n >= 2 values with this deviation."""
    from scipy.stats import t

    return float(t.ppf(0.975, n - 1)) * sd / n**0.5


def seeds_to_tell(mean: float | None, sd: float | None) -> int | None:
    """The smallest n whose 95 % interval, with this mean and spread, leaves out 0; None over MOST_SEEDS or unknown."""
    if mean is None or sd is None:
        return None
    return next((n for n in range(2, MOST_SEEDS + 1) if half_width(sd, n) < abs(mean)), None)


def comparison_table(result: Mapping[str, Any]) -> VerbatimTable:
    """`result` is what sweep.json holds; accuracies are in percent, differences in points."""
    columns = list(next(iter(result["arms"].values()))["columns"])
    table = VerbatimTable(title=f"{result['name']}: greedy accuracy, %")
    for name in ("arm", "seeds", "before", "after", "mean", "sd", "95 % interval", f"minus {result['control']}"):
        table.add_column(name, overflow="fold")
    for name in ("seeds to tell", "min a run", *columns):
        table.add_column(name, justify="right", overflow="fold")
    for arm, row in result["arms"].items():
        against = row["difference"] or {"mean": None, "interval": None, "seeds_to_tell": None}
        to_tell = against["seeds_to_tell"]
        minutes = [s / 60 for s in row["seconds"] if s is not None]
        table.add_row(
            arm,
            f"{len(row['seeds'])}" + (f", {len(row['failed'])} failed" if row["failed"] else ""),
            " ".join(f"{100 * v:.1f}" for v in row["before"]),
            " ".join(f"{100 * v:.1f}" for v in row["after"]),
            _points(row["mean"]),
            _points(row["sd"]),
            _interval(row["interval"]),
            f"{_points(against['mean'], '+')} {_interval(against['interval'], '+')}".strip(),
            str(to_tell or (f"> {MOST_SEEDS}" if against["interval"] else "")),
            f"{np.mean(minutes):.1f}" if minutes else "",
            *(_mean(row["columns"][c]) for c in columns),
        )
    return table


def _points(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{100 * value:{sign}.1f}"


def _interval(value: Sequence[float] | None, sign: str = "") -> str:
    return "" if value is None else f"[{100 * value[0]:{sign}.1f}, {100 * value[1]:{sign}.1f}]"


def _mean(values: Sequence[float | None]) -> str:
    known = [v for v in values if v is not None]
    return f"{np.mean(known):.3g}" if known else ""
