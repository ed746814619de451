"""What a report shows, read from run directories; a run may still be going on, so that any part may be missing."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from azero.errors import UserError
from cluster.records.reading import RunRecords, contents, drawable, lines_of, mapping
from cluster.records.rundir import SAMPLES, is_run

EPISODE_BYTES = 5_000_000  # of all runs' episodes in the page
TEXT_CHARS = 2_000  # of one prompt or completion, or of one part of a problem's payload
ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}  # no text can end its <script>
SHARES = "problems/share/"  # metrics, a cell each
PROPOSAL = ("verdict", "reason", "reward", "reward_parts", "version", "tokens", "prompt", "completion")
PROBLEM = ("text", "answer", "cell", "canonical", "structure")
FACTS = ("step", "requested_cell", "verdict", "reason", "cell", "text", "canonical", "structure", "rate", "written")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(RunRecords):
    """One run directory. `arm` is what its colour stands for: the sweep's arm, or the run itself."""

    label: str
    arm: str
    suffix: str = ""  # of titles that are about this run; empty where it is the only one
    episodes: pd.DataFrame  # [episodes, FACTS], the index is the step
    rows: Sequence[str]  # JSON of the episodes that the page holds, see `_row`
    without_text: int  # episodes
    cells: Sequence[str]  # in the order in which the records name them

    @property
    def proposals(self) -> pd.DataFrame:
        return self.episodes[self.episodes["verdict"].notna()]

    @property
    def problems(self) -> pd.DataFrame:
        """Return the problems; if there is a proposer, those that it wrote and none that the buffer filled in."""
        return self.episodes[self.episodes["written"].astype(bool)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Run directories as given, sweeps opened up into their runs."""

    runs: Sequence[Run]
    sweeps: Sequence[Mapping[str, Any]]  # as `azero sweep` writes sweep.json


def read(paths: Sequence[str | Path], budget: int = EPISODE_BYTES) -> Source:
    """Raises UserError for a path that is neither a run directory nor a sweep's, and for a file with a bad line."""
    folders: dict[Path, str] = {}  # and the arm, "" outside a sweep
    sweeps = []
    for path in map(Path, paths):
        if (path / "sweep.json").is_file():
            sweep = mapping(path / "sweep.json")
            sweeps.append(sweep)
            found = sorted(f for f in path.glob("*") if is_run(f))
            order = {f: arm for arm in sweep["arms"] for f in found if f.name.rpartition("-")[0] == arm}
            folders |= order | {f: f.name for f in found if f not in order}
        elif is_run(path):
            folders.setdefault(path, "")
        else:
            what = "holds neither config.yaml nor sweep.json" if path.is_dir() else "no such directory"
            if (path / "config.yaml").exists():
                what = "its config.yaml cannot be read as a run's, which has records beside it"
            raise UserError(f"report {path}: {what}; give the run.dir of a run, or the dir of a sweep")
    if not folders:
        raise UserError(f"report {' '.join(map(str, paths))}: no run has begun there; start the sweep first")
    runs = [_read_run(folder, arm, budget // len(folders)) for folder, arm in folders.items()]
    names = Counter(run.label for run in runs)
    for i, run in enumerate(runs):
        label = run.label if names[run.label] == 1 else f"{run.label} ({run.path})"
        runs[i] = replace(run, label=label, arm=run.arm or label, suffix=f": {label}" if len(runs) > 1 else "")
    return Source(runs=runs, sweeps=sweeps)


def _read_run(path: Path, arm: str, budget: int) -> Run:
    found = contents(path)
    config, metrics = found["config"], found["metrics"]
    has_proposer = (config.get("task") or {}).get("source") not in ("random", "fixed")
    facts, rows, without_text = [], [], 0
    for record in lines_of(path / SAMPLES):
        facts.append(_facts(record, has_proposer))
        rows.append(json.dumps(_row(_short(record)), ensure_ascii=False, separators=(",", ":")).translate(ESCAPES))
        without_text += "references" not in record
    named = [key.removeprefix(SHARES) for key in metrics if key.startswith(SHARES)]
    named += [f[key] for f in facts for key in ("requested_cell", "cell") if f[key]]
    named += [cell for e in found["proposer_evals"] for cell in e.get("solve_rates", {})]
    return Run(
        **found,
        label=drawable((config.get("run") or {}).get("name") or path.resolve().name),
        arm=arm,
        episodes=pd.DataFrame(facts, columns=FACTS, dtype=object).set_index("step", drop=False),
        rows=_thinned(rows, budget),
        without_text=without_text,
        cells=list(dict.fromkeys(named)),
    )


def _facts(record: Mapping[str, Any], has_proposer: bool) -> dict[str, Any]:
    """Return what figures and tables count of an episode; None where it has no proposal, or no problem."""
    proposal, problem, solver = (record[key] or {} for key in ("proposal", "problem", "solver"))
    return {
        **{key: record[key] for key in ("step", "requested_cell")},
        **{key: proposal.get(key) or None for key in ("verdict", "reason")},
        **{key: problem.get(key) for key in ("cell", "text", "canonical", "structure")},
        "rate": solver.get("success_rate"),
        "written": bool(problem and solver and (proposal or not has_proposer)),
    }


def _thinned(rows: Sequence[str], budget: int) -> list[str]:
    """An even share of the rows over the steps, so that about `budget` bytes are left."""
    share = min(1.0, budget / max(1, sum(len(row.encode()) for row in rows)))
    return [row for i, row in enumerate(rows) if math.floor((i + 1) * share) > math.floor(i * share)]


def _short(value: Any) -> Any:
    """JSON with numbers to three digits after the point, and long texts cut."""
    if isinstance(value, dict):
        return {key: _short(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_short(v) for v in value]
    if isinstance(value, str) and len(value) > TEXT_CHARS:
        return f"{value[:TEXT_CHARS]} … ({len(value) - TEXT_CHARS:,} more characters)"
    return round(value, 3) if isinstance(value, float) else value


def _row(record: Mapping[str, Any]) -> list[Any]:
    """Pack for browser.js: [id, step, requested cell, references, proposal, problem, solver], None if missing.

    proposal and problem are the values of PROPOSAL and PROBLEM, a problem's payload behind them; solver is [success
    rate, mean reward, prompt, answers]. Equal answers are one [count, verdict, reward, parts, completion, reason], the
    most frequent first.
    """
    proposal, problem, solver = (record[key] for key in ("proposal", "problem", "solver"))
    return [
        *(record.get(key) for key in ("id", "step", "requested_cell", "references")),
        proposal and [proposal.get(key) for key in PROPOSAL],
        problem and [*(problem.get(key) for key in PROBLEM), _payload(problem.get("payload") or {})],
        solver and [_short(solver["success_rate"]), *_solutions(solver)],
    ]


def _payload(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The payload in the domain's order; a part of it that is long is its JSON, cut."""
    texts = {key: json.dumps(part, ensure_ascii=False) for key, part in payload.items() if not isinstance(part, str)}
    return {**payload, **{key: _short(text) for key, text in texts.items() if len(text) > TEXT_CHARS}}


def _solutions(solver: Mapping[str, Any]) -> list[Any]:
    rewards = solver["rewards"]
    parts = map(json.dumps, solver["reward_parts"])
    texts, reasons = (solver.get(key) or [None] * len(rewards) for key in ("completions", "reasons"))
    equal = Counter(zip(solver["verdicts"], rewards, parts, texts, reasons))
    answers = [[n, verdict, reward, json.loads(p), *said] for (verdict, reward, p, *said), n in equal.most_common()]
    known = [r for r in rewards if r is not None]
    return [_short(sum(known) / len(known)) if known else None, solver.get("prompt"), answers]
