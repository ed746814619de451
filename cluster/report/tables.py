"""The tables of a report: cells are plain text, which the template escapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from azero.evaluation.solver import paired
from azero.types import TIERS
from cluster.report.data import Run

BATCH = ("rollout.problems_per_step", "rollout.solutions_per_problem")
FREQUENT = 12  # rows of the most frequent problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The first `left` columns are aligned left, the numbers after them right."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    left: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    before: str
    after: str
    detail: str


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def points(change: float | None) -> str:
    """Of percentage, signed."""
    return "–" if change is None else f"{100 * change:+.1f}".replace("-", "−")


def facts(run: Run) -> dict[str, str]:
    """What the run is, in a few words each."""
    origin = run.provenance
    gpus = [g["name"] for g in origin.get("gpus", [])]
    machine = [
        *([f"{len(gpus)} × {gpus[0]}"] if gpus else []),
        f"{origin.get('cpu', '?')}, {origin.get('cores', '?')} cores",
    ]
    git = origin.get("git") or {}
    commit = f"{git['commit'][:10]}{' with changes' if git.get('dirty') else ''}" if git else "unknown"
    return {
        "model": str(run.setting("model.path")),
        "problems from": str(run.setting("task.source")),
        "algorithm": f"{run.setting('algorithm.name')}, baseline by {run.setting('baseline.by')}",
        "learnability": str(run.setting("reward.learnability")),
        "batch": "{} problems × {} solutions".format(*map(run.setting, BATCH)),
        "steps": f"{run.step} of {run.setting('run.steps')}",
        "time": duration(run.metrics[-1].get("time_s") if run.metrics else None),
        "hardware": "; ".join(machine),
        "began": f"{str(origin.get('time', '?'))[:16].replace('T', ' ')} UTC on {origin.get('host', '?')}",
        "code": commit,
    }


def headline(run: Run) -> Headline:
    """Accuracy before and after, and whether the difference could be chance."""
    if not run.evals:
        return Headline(before="", after="", detail="No evaluation has finished yet.")
    first, last = run.evals[0], run.evals[-1]
    data = f"{last.get('data', 'evaluation set')}, {last['n']} problems, greedy"
    if len(run.evals) == 1:
        return Headline(
            before="", after=percent(first["accuracy"]), detail=f"{_interval(first)}, step {first['step']}; {data}"
        )
    steps = f"step {first['step']} {_interval(first)} → step {last['step']} {_interval(last)}"
    return Headline(
        before=percent(first["accuracy"]),
        after=percent(last["accuracy"]),
        detail=f"{steps}; {data}; McNemar {_test(first, last)}",
    )


def summary(runs: Sequence[Run]) -> Table:
    """A row a run, with the config keys in which they differ."""
    flat = [_flat(run.config) for run in runs]
    keys = dict.fromkeys(
        key for config in flat for key in config if not key.startswith(("run.name", "run.dir", "run.seed"))
    )
    differ = [key for key in keys if len({str(config.get(key)) for config in flat}) > 1]
    rows = []
    for run, config in zip(runs, flat):
        first, last = (run.evals[0], run.evals[-1]) if run.evals else (None, None)
        rows.append([
            run.label,
            ", ".join(f"{key}={config.get(key)}" for key in differ) or "–",
            str(run.setting("run.seed")),
            f"{run.step} of {run.setting('run.steps')}",
            duration(run.metrics[-1].get("time_s") if run.metrics else None),
            _with_interval(first),
            _with_interval(last),
            points(last["accuracy"] - first["accuracy"]) if first and last else "–",
            _test(first, last) if first and last and len(run.evals) > 1 else "–",
        ])  # fmt: skip
    head = ("run", "differs in", "seed", "steps", "time", "before", "after", "points", "McNemar")
    return Table(title="Runs", head=head, rows=rows, note="Greedy accuracy with its 95 % Wilson interval.", left=2)


def by_group(run: Run) -> Table | None:
    """Accuracy by label and by operation, first against last evaluation."""
    if not run.evals:
        return None
    first, last = run.evals[0], run.evals[-1]
    rows = []
    for field, group in (("label", "by_label"), ("operation", "by_operation")):
        for name, new in last.get(group, {}).items():
            old = first.get(group, {}).get(name)
            part = [{"problems": [p for p in e.get("problems", ()) if p[field] == name]} for e in (first, last)]
            change = points(new["accuracy"] - old["accuracy"]) if old else "–"
            sampled = [percent(e and e.get("mean_at_k")) for e in (old, new)]
            rows.append(
                [field, name, str(new["n"]), _with_interval(old), _with_interval(new), change, _test(*part), *sampled]
            )
    head = ("", "", "n", "before", "after", "points", "McNemar", "sampled before", "after")
    note = "p: exact, two-sided, paired by problem, not corrected for the number of rows. Sampled: mean over samples."
    return Table(title=f"Before and after{run.suffix}", head=head, rows=rows, note=note, left=2)


def sweep(found: Mapping[str, Any]) -> Table:
    """`azero sweep`'s comparison, an arm a row."""
    rows, failed = [], []
    for arm, row in found["arms"].items():
        difference = row.get("difference") or {}
        failed += [f"{arm}, seed {seed}: {why}" for seed, why in (row.get("failed") or {}).items()]
        rows.append([
            f"{arm} (control)" if arm == found.get("control") else arm,
            ", ".join(map(str, row["seeds"])) or "–",
            " ".join(map(percent, row["before"])),
            " ".join(map(percent, row["after"])),
            percent(row["mean"]),
            _range(row["interval"]),
            f"{points(difference.get('mean'))} {_range(difference.get('interval'))}",
            str(difference.get("seeds_to_tell") or "–"),
            ", ".join(map(duration, row.get("seconds") or [])),
            *(_mean(values) for values in row["columns"].values()),
        ])  # fmt: skip
    columns = next(iter(found["arms"].values()))["columns"]
    control = found.get("control", "control")
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
    rows = []
    for run in runs:
        for e in [*run.proposer_evals[:1], *run.proposer_evals[1:][-1:]]:
            tiers = " / ".join(percent(e.get("tier_shares", {}).get(tier.value)) for tier in TIERS)
            numbers = [percent(e.get(key)) for key in ("valid", "unique")]
            rest = [str(e.get("structures", "–")), tiers, percent(e.get("tier_match"))]
            rows.append(
                [run.label, str(run.setting("task.source")), str(e["step"]), str(e.get("n", "–")), *numbers, *rest]
            )
    head = (
        "run",
        "problems from",
        "step",
        "n",
        "valid",
        "unique",
        "structures",
        "easy / medium / hard",
        "tier as asked",
    )
    note = "First and last evaluation of each run; a run with frozen problems shows the untrained proposer."
    return Table(title="Proposer's evaluation", head=head, rows=rows, note=note, left=2) if rows else None


def reasons(run: Run) -> Table | None:
    turned_down, total = run.play.reasons, sum(run.play.outcomes.values())
    rows = [[reason.replace("_", " "), str(n), percent(n / total)] for reason, n in turned_down.most_common()]
    head = ("reason", "proposals", "of all")
    return Table(title=f"Why proposals were turned down{run.suffix}", head=head, rows=rows) if rows else None


def tiers(run: Run) -> Table | None:
    """Requested tier against the tier that the problem had."""
    counts = run.play.tiers
    rows = [[f"{r.value} asked", *(str(counts[r.value, t.value]) for t in TIERS)] for r in TIERS]
    head = ("", *(f"{t.value} written" for t in TIERS))
    return Table(title=f"Tier asked and tier written{run.suffix}", head=head, rows=rows) if counts else None


def frequent(run: Run) -> Table | None:
    """The problems that were asked most, equal ones counted by their canonical form."""
    asked = sorted(run.play.asked.values(), key=lambda a: -a.count)[:FREQUENT]
    total = sum(a.count for a in run.play.asked.values())
    rows = [
        [a.text, a.tier, str(a.count), percent(a.count / total), percent(a.rate_sum / a.count), f"{a.first}–{a.last}"]
        for a in asked
    ]
    head = ("problem", "tier", "times", "of all", "success", "steps")
    note = f"{len(run.play.asked):,} distinct among {total:,} problems, by canonical form."
    return Table(title=f"Most frequent problems{run.suffix}", head=head, rows=rows, note=note, left=2) if rows else None


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    minutes = int(seconds) // 60
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {int(seconds) % 60:02d} s"


def _test(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    found = paired(before, after) if before.get("problems") and after.get("problems") else None
    if found is None:
        return "–"
    p = "< 0.0001" if found.p_value < 1e-4 else f"= {found.p_value:.2g}"
    return f"p {p} (−{found.b} +{found.c})"


def _interval(result: Mapping[str, Any]) -> str:
    return _range(result.get("interval"))


def _range(interval: Sequence[float] | None) -> str:
    return "[{:.1f}, {:.1f}]".format(*(100 * v for v in interval)).replace("-", "−") if interval else ""


def _with_interval(result: Mapping[str, Any] | None) -> str:
    return f"{percent(result['accuracy'])} {_interval(result)}" if result else "–"


def _mean(values: Sequence[float | None]) -> str:
    known = [v for v in values if v is not None]
    return f"{sum(known) / len(known):.3g}" if known else "–"


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys of a nested mapping."""
    out: dict[str, Any] = {}
    for key, value in config.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return out
