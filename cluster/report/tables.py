"""The tables of a report: cells are plain text, which the template escapes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from azero.evaluation.solver import paired
from cluster.records.resume import flat
from cluster.report.data import Run

FREQUENT = 12  # rows of the most frequent problems
IDENTITY = ("run.name", "run.dir", "run.seed")  # config keys in which runs differ anyway


@dataclass(frozen=True, slots=True)
class Table:
    """A row is {head of the column: cell}. The first `left` columns are aligned left, the numbers after them right.

    What stands in a column of `code` is shown as code, with its line breaks.
    """

    title: str
    rows: Sequence[Mapping[str, str]]
    note: str
    left: int
    code: tuple[str, ...] = ()  # heads


def text(value: Any) -> str:
    return "–" if value is None else str(value)


def percent(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f} %"


def points(before: float | None, after: float | None) -> str:
    """Return percentage points with their sign."""
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


def summary(runs: Sequence[Run]) -> Table | None:
    """A row a run, with the config keys in which they differ."""
    configs = [flat(run.config) for run in runs]
    keys = dict.fromkeys(key for config in configs for key in config)
    differ = [key for key in keys if len({str(config.get(key)) for config in configs}) > 1 and key not in IDENTITY]
    rows = [
        {
            "run": run.label,
            "differs in": ", ".join(f"{key}={config.get(key)}" for key in differ) or "–",
            "seed": str(run.setting("run.seed")),
            "steps": f"{run.step} of {run.setting('run.steps')}",
            "time": duration(run.seconds),
            **_change(*(run.evals[i] if run.evals else {} for i in (0, -1))),
        }
        for run, config in zip(runs, configs)
    ]
    return _table("Runs", rows, "Greedy accuracy with its 95 % Wilson interval.", left=2)


def by_group(run: Run) -> Table | None:
    """Accuracy by label and by operation, first against last evaluation."""
    rows = []
    for field in ("label", "operation"):
        for name in run.evals[-1].get(f"by_{field}", {}) if run.evals else ():
            old, new = (_part(run.evals[i], field, name) for i in (0, -1))
            sampled = {f"sampled {when}": percent(e.get("mean_at_k")) for when, e in (("before", old), ("after", new))}
            rows.append({"kind": field, "name": name, "n": str(new["n"]), **_change(old, new), **sampled})
    note = "p: exact, two-sided, paired by problem, not corrected for the number of rows. Sampled: mean over samples."
    return _table(f"Before and after{run.suffix}", rows, note, left=2)


def sweep(found: Mapping[str, Any]) -> Table | None:
    """`azero sweep`'s comparison, an arm a row."""
    rows, failed, control = [], [], found.get("control", "control")
    for arm, row in found["arms"].items():
        difference = row.get("difference") or {}
        failed += [f"{arm}, seed {seed}: {why}" for seed, why in (row.get("failed") or {}).items()]
        own = {
            "arm": f"{arm} (control)" if arm == control else arm,
            "seeds": ", ".join(map(str, row["seeds"])) or "–",
            "before": " ".join(map(percent, row["before"])),
            "after": " ".join(map(percent, row["after"])),
            "mean": percent(row["mean"]),
            "95 % interval": interval(row["interval"]),
            f"minus {control}": f"{points(0, difference.get('mean'))} {interval(difference.get('interval'))}",
            "seeds to tell": text(difference.get("seeds_to_tell")),
            "time": ", ".join(map(duration, row.get("seconds") or [])),
        }
        rows.append(own | {column: _mean(values) for column, values in row["columns"].items()})
    note = (
        f"{found.get('metric', 'eval/accuracy')}; Student's interval over seeds; difference paired by seed; seeds to "
        "tell: how many would tell that difference from none, at its spread; other columns: median over steps."
        f"{' Failed: ' if failed else ''}{'; '.join(failed)}"
    )
    return _table(f"Sweep {found.get('name', '')}".strip(), rows, note)


def proposer(runs: Sequence[Run]) -> Table | None:
    """Return what the proposer writes, first and last evaluation, the runs beside each other."""
    cells = list(dict.fromkeys(cell for run in runs for cell in run.cells))
    rows = [
        {
            "run": run.label,
            "problems from": str(run.setting("task.source")),
            **{key: text(e.get(key)) for key in ("step", "n")},
            **{key: percent(e.get(key)) for key in ("valid", "unique")},
            "structures": text(e.get("structures")),
            " / ".join(cells): " / ".join(percent(e.get("cell_shares", {}).get(cell)) for cell in cells),
            "as asked": percent(e.get("tier_match")),
        }
        for run in runs
        for e in [*run.proposer_evals[:1], *run.proposer_evals[1:][-1:]]
    ]
    note = "First and last evaluation of each run; a run with frozen problems shows the untrained proposer."
    return _table("Proposer's evaluation", rows, note, left=2)


def reasons(run: Run) -> Table | None:
    counts, total = run.proposals["reason"].value_counts(), len(run.proposals)
    rows = [
        {"reason": reason.replace("_", " "), "proposals": str(n), "of all": percent(n / total)}
        for reason, n in counts.items()
    ]
    return _table(f"Why proposals were turned down{run.suffix}", rows)


def cells(run: Run) -> Table | None:
    """Requested cell against the cell that the problem had."""
    counts = run.problems.groupby(["requested_cell", "cell"]).size()
    rows = [
        {"": f"{asked} asked"} | {f"{cell} written": str(counts.get((asked, cell), 0)) for cell in run.cells}
        for asked in run.cells
    ]
    return _table(f"Cell asked and cell written{run.suffix}", rows) if len(counts) else None


def frequent(run: Run) -> Table | None:
    """The problems that were asked most, equal ones counted by their canonical form."""
    total = len(run.problems)
    groups = run.problems.astype({"rate": float}).groupby("canonical", sort=False)
    found = groups.agg({"text": "first", "cell": "first", "rate": ["size", "mean"], "step": ["min", "max"]})
    rows = [
        {
            "problem": problem,
            "cell": cell,
            "times": str(n),
            "of all": percent(n / total),
            "success": percent(rate),
            "steps": f"{first}–{last}",
        }
        for _, problem, cell, n, rate, first, last in found.nlargest(FREQUENT, ("rate", "size")).itertuples()
    ]
    note = f"{len(found):,} distinct among {total:,} problems, by canonical form."
    return _table(f"Most frequent problems{run.suffix}", rows, note, left=2, code=("problem",))


def _table(
    title: str, rows: Sequence[Mapping[str, str]], note: str = "", left: int = 1, code: tuple[str, ...] = ()
) -> Table | None:
    return Table(title, rows, note, left, code) if rows else None


def _part(result: Mapping[str, Any], field: str, name: str) -> dict[str, Any]:
    """Return what an evaluation found for one label or operation."""
    problems = [problem for problem in result.get("problems", ()) if problem[field] == name]
    return {**result.get(f"by_{field}", {}).get(name, {}), "problems": problems}


def _change(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, str]:
    """Accuracy before and after with intervals, the difference, and whether it could be chance."""
    old, new = (e.get("accuracy") for e in (before, after))
    shown = [f"{percent(e.get('accuracy'))} {interval(e.get('interval'))}".strip() for e in (before, after)]
    told = mcnemar(before, after) if before is not after else "–"
    return {"before": shown[0], "after": shown[1], "points": points(old, new), "McNemar": told}


def _mean(values: Sequence[float | None]) -> str:
    known = [v for v in values if v is not None]
    return f"{sum(known) / len(known):.3g}" if known else "–"
