"""A run's records as tables. The run may still be going on, so that any part may be missing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from azero.errors import UserError
from cluster.records.jsonl import records_of
from cluster.records.rundir import CONFIG, EVALS, METRICS, PROPOSER_EVALS, PROVENANCE, SAMPLES, is_run

HUGE = 1e300  # a number from here on is missing: it cannot be drawn
# Keys of earlier versions, by file, and what they are called now.
FORMER = {
    SAMPLES: {"requested_tier": "requested_cell", "tier": "cell"},
    PROPOSER_EVALS: {"tier_shares": "cell_shares"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecords:
    """Holds the records of a run directory, except its episodes. docs/metrics.md defines the metrics."""

    path: Path
    config: Mapping[str, Any]  # section -> key -> value, as config.yaml has it
    provenance: Mapping[str, Any]
    metrics: pd.DataFrame  # [steps, metrics], the index is the step; nan where a metric is absent
    evals: Sequence[Mapping[str, Any]]  # one an evaluation, with its step and the results by problem
    proposer_evals: Sequence[Mapping[str, Any]]

    def setting(self, key: str) -> Any:
        """The value of a dotted config key; "?" where the config has none."""
        value: Any = self.config
        for part in key.split("."):
            value = value.get(part, "?") if isinstance(value, Mapping) else "?"
        return value

    def series(self, key: str) -> pd.Series:
        """A metric at every step; nan where it is absent."""
        return self.metrics[key] if key in self.metrics else pd.Series(math.nan, self.metrics.index, dtype=float)

    @property
    def step(self) -> int:
        return int(self.metrics.index[-1]) if len(self.metrics) else 0

    @property
    def seconds(self) -> float | None:
        last = self.series("time_s").tail(1).dropna()
        return None if last.empty else float(last.iloc[0])


def read_run(path: str | Path) -> RunRecords:
    """The records of a run directory. Raises UserError for any other path, and for a file with a bad line."""
    folder = Path(path).expanduser()
    if not is_run(folder):
        what = f"holds no run, which has a {CONFIG} and records beside it" if folder.is_dir() else "no such directory"
        raise UserError(f"{path}: {what}; give the run.dir of a run")
    return RunRecords(**contents(folder))


def contents(path: Path) -> dict[str, Any]:
    """The fields of RunRecords."""
    metrics = list(lines_of(path / METRICS))
    numbers = [{k: v for k, v in line.items() if isinstance(v, int | float)} for line in metrics]
    return {
        "path": path,
        "config": mapping(path / CONFIG),
        "provenance": mapping(path / PROVENANCE) if (path / PROVENANCE).exists() else {},
        "metrics": pd.DataFrame(numbers, dtype=float).set_axis([line["step"] for line in metrics]),
        "evals": list(lines_of(path / EVALS)),
        "proposer_evals": list(lines_of(path / PROPOSER_EVALS)),
    }


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a file, under the names of this version. Raises UserError for a damaged line, by its number."""
    names = FORMER.get(path.name, {})
    for line in records_of(path):
        record = cleaned({names.get(key, key): value for key, value in line.items()})
        if isinstance(problem := record.get("problem"), dict):
            record["problem"] = {names.get(key, key): value for key, value in problem.items()}
        yield record


def mapping(file: Path) -> dict[str, Any]:
    """Return what a JSON or YAML file holds. Raises UserError for anything but a mapping."""
    try:
        text = file.read_text(encoding="utf-8")
        content = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{file}: cannot be read as keys and values; restore it, or leave this directory out")
    return cleaned(content) if file.suffix == ".json" else content


def cleaned(value: Any) -> Any:
    """JSON with None for numbers that are not finite, or huge, and with text that can be drawn."""
    if isinstance(value, dict):
        return {drawable(key): cleaned(v) for key, v in value.items()}
    if isinstance(value, list):
        return [cleaned(v) for v in value]
    if isinstance(value, str):
        return drawable(value)
    return None if isinstance(value, int | float) and not abs(value) < HUGE else value


def drawable(value: Any) -> str:
    """Half a surrogate pair is no text that can be drawn: it becomes "?"."""
    return str(value).encode("utf-8", "replace").decode()
