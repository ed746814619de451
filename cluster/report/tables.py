"""The tables of a report: cells are plain text, which the template escapes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from azero.evaluation.solver import paired
from cluster.report.data import Run

FREQUENT = 12  # rows of the most frequent problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The first `left` columns are aligned left, the numbers after them right."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    left: int = 1


def text(value: Any) -> str:
    return "–" if value is None else str(value)


def percent(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f} %"


def points(before: float | None, after: float | None) -> str:
    """Of percentage, signed."""
    return "–" if before is None or after is None else f"{100 * (after - before):+.1f}".replace("-", "−")


def interval(bounds: Sequence[float | None] | None) -> str:
    known = [100 * v for v in bounds or () if v is not None]
    return "[{:.1f}, {:.1f}]".format(*known).replace("-", "−") if len(known) == 2 else ""


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    minutes = int(seconds) // 60
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {int(seconds) % 60:02d} s"


def mcnemar(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> str:
    """Whether the difference of two evaluations could be chance; empty where they cannot be paired."""
    if not (before and after and before.get("problems") and after.get("problems")):
        return "–"
    if (found := paired(before, after)) is None:
        return "–"
    p = "< 0.0001" if found.p_value < 1e-4 else f"= {found.p_value:.2g}"
    return f"p {p} (−{found.b} +{found.c})"


def headline(run: Run) -> list[str]:
    """Accuracy before (empty where there is one evaluation) and after, and what they are of."""
    if not run.evals:
        return ["", "", "No evaluation has finished yet."]
    first, last = run.evals[0], run.evals[-1]
    data = f"{last.get('data', 'evaluation set')}, {last['n']} problems, greedy"
    if len(run.evals) == 1:
        return ["", percent(first["accuracy"]), f"{interval(first.get('interval'))}, step {first['step']}; {data}"]
    steps = " → ".join(f"step {e['step']} {interval(e.get('interval'))}" for e in (first, last))
    return [*(percent(e["accuracy"]) for e in (first, last)), f"{steps}; {data}; McNemar {mcnemar(first, last)}"]


def summary(runs: Sequence[Run]) -> Table:
    """A row a run, with the config keys in which they differ."""
    flat = [_flat(run.config) for run in runs]
    keys = (k for k in dict.fromkeys(k for c in flat for k in c) if not k.startswith(("run.name", "run.dir", "run.seed")))
    differ = [key for key in keys if len({str(config.get(key)) for config in flat}) > 1]
    rows = [
        [
            run.label,
            ", ".join(f"{key}={config.get(key)}" for key in differ) or "–",
            str(run.setting("run.seed")),
            f"{run.step} of {run.setting('run.steps')}",
            duration(run.seconds),
            *(_change(run.evals[0], run.evals[-1]) if run.evals else ["–"] * 4),
        ]
        for run, config in zip(runs, flat)
    ]
    head = ("run", "differs in", "seed", "steps", "time", "before", "after", "points", "McNemar")
    return Table(title="Runs", head=head, rows=rows, note="Greedy accuracy with its 95 % Wilson interval.", left=2)


def by_group(run: Run) -> Table | None:
    """Accuracy by label and by operation, first against last evaluation."""
    if not run.evals:
        return None
    first, last = run.evals[0], run.evals[-1]
    rows = []
    for field in ("label", "operation"):
        for name in last.get(f"by_{field}", {}):
            old, new = (
                {**e.get(f"by_{field}", {}).get(name, {}), "problems": [p for p in e.get("problems", ()) if p[field] == name]}
                for e in (first, last)
            )
            sampled = [percent(e.get("mean_at_k")) for e in (old, new)]
            rows.append([field, name, str(new["n"]), *_change(old, new), *sampled])
    head = ("", "", "n", "before", "after", "points", "McNemar", "sampled before", "after")
    note = "p: exact, two-sided, paired by problem, not corrected for the number of rows. Sampled: mean over samples."
    return Table(title=f"Before and after{run.suffix}", head=head, rows=rows, note=note, left=2)


def sweep(found: Mapping[str, Any]) -> Table:
    """`azero sweep`'s comparison, an arm a row."""
    rows, failed, control = [], [], found.get("control", "control")
    for arm, row in found["arms"].items():
        difference = row.get("difference") or {}
        failed += [f"{arm}, seed {seed}: {why}" for seed, why in (row.get("failed") or {}).items()]
        rows.append([
            f"{arm} (control)" if arm == control else arm,
            ", ".join(map(str, row["seeds"])) or "–",
            " ".join(map(percent, row["before"])),
            " ".join(map(percent, row["after"])),
            percent(row["mean"]),
            interval(row["interval"]),
            f"{points(0, difference.get('mean'))} {interval(difference.get('interval'))}",
            text(difference.get("seeds_to_tell")),
            ", ".join(map(duration, row.get("seconds") or [])),
            *(_mean(values) for values in row["columns"].values()),
        ])  # fmt: skip
    columns = next(iter(found["arms"].values()))["columns"]
    statistics = ("mean", "95 % interval", f"minus {control}", "seeds to tell")
    head = ("arm", "seeds", "before", "after", *statistics, "time", *columns)
    note = (
        f"{found.get('metric', 'eval/accuracy')}; Student's interval over seeds; difference paired by seed; seeds to "
        "tell: how many would tell that difference from none, at its spread; other columns: median over steps."
        f"{' Failed: ' if failed else ''}{'; '.join(failed)}"
    )
    return Table(title=f"Sweep {found.get('name', '')}".strip(), head=head, rows=rows, note=note)


def proposer(runs: Sequence[Run]) -> Table | None:
    """What the proposer writes, first and last evaluation, the runs beside each other."""
    cells = list(dict.fromkeys(cell for run in runs for cell in run.cells))
    rows = [
        [
            *(run.label, str(run.setting("task.source")), str(e["step"]), text(e.get("n"))),
            *(percent(e.get(key)) for key in ("valid", "unique")),
            text(e.get("structures")),
            " / ".join(percent(e.get("cell_shares", {}).get(cell)) for cell in cells),
            percent(e.get("tier_match")),
        ]
        for run in runs
        for e in [*run.proposer_evals[:1], *run.proposer_evals[1:][-1:]]
    ]
    shares = " / ".join(cells)
    head = ("run", "problems from", "step", "n", "valid", "unique", "structures", shares, "as asked")
    note = "First and last evaluation of each run; a run with frozen problems shows the untrained proposer."
    return Table(title="Proposer's evaluation", head=head, rows=rows, note=note, left=2) if rows else None


def reasons(run: Run) -> Table | None:
    counts, total = run.proposals["reason"].value_counts(), len(run.proposals)
    rows = [[reason.replace("_", " "), str(n), percent(n / total)] for reason, n in counts.items()]
    head = ("reason", "proposals", "of all")
    return Table(title=f"Why proposals were turned down{run.suffix}", head=head, rows=rows) if rows else None


def cells(run: Run) -> Table | None:
    """Requested cell against the cell that the problem had."""
    counts = run.problems.groupby(["requested_cell", "cell"]).size()
    rows = [[f"{r} asked", *(str(counts.get((r, c), 0)) for c in run.cells)] for r in run.cells]
    head = ("", *(f"{cell} written" for cell in run.cells))
    return Table(title=f"Cell asked and cell written{run.suffix}", head=head, rows=rows) if len(counts) else None


def frequent(run: Run) -> Table | None:
    """The problems that were asked most, equal ones counted by their canonical form."""
    total = len(run.problems)
    groups = run.problems.astype({"rate": float}).groupby("canonical", sort=False)
    found = groups.agg({"text": "first", "cell": "first", "rate": ["size", "mean"], "step": ["min", "max"]})
    rows = [
        [text, cell, str(n), percent(n / total), percent(rate), f"{first}–{last}"]
        for _, text, cell, n, rate, first, last in found.nlargest(FREQUENT, ("rate", "size")).itertuples()
    ]
    head = ("problem", "cell", "times", "of all", "success", "steps")
    note = f"{len(found):,} distinct among {total:,} problems, by canonical form."
    return Table(title=f"Most frequent problems{run.suffix}", head=head, rows=rows, note=note, left=2) if rows else None


def _change(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Accuracy before and after with intervals, the difference, and whether it could be chance."""
    old, new = before.get("accuracy"), after.get("accuracy")
    shown = [f"{percent(e.get('accuracy'))} {interval(e.get('interval'))}".strip() for e in (before, after)]
    return [*shown, points(old, new), mcnemar(before, after)]


def _mean(values: Sequence[float | None]) -> str:
    known = [v for v in values if v is not None]
    return f"{sum(known) / len(known):.3g}" if known else "–"


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys of a nested mapping."""
    out: dict[str, Any] = {}
    for key, value in config.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return out
