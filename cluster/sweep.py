"""`azero sweep`: a base config, arms of overrides and seeds; finished runs are skipped, the rest run one after another.

base: local
dir: runs/controls
seeds: [0, 1, 2]
control: selfplay            # the arm that the others are compared with, seed by seed
arms:
  selfplay: []
  frozen: [task.source=frozen]
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from azero.config import load_config
from azero.errors import UserError
from cluster.rundir import RunDirectory, read_jsonl

# 97.5 % quantiles of Student's t with 1, 2, ... degrees of freedom; beyond them the next is close to normal.
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    base: str
    dir: str
    seeds: list[int]
    arms: dict[str, list[str]]
    control: str

    def overrides(self, arm: str, seed: int, extra: Sequence[str]) -> list[str]:
        name = f"{arm}-{seed}"
        return [*self.arms[arm], *extra, f"run.seed={seed}", f"run.name={name}", f"run.dir={self.dir}/{name}"]


def load_sweep(path: str, overrides: Sequence[str]) -> Sweep:
    """Raises UserError for a missing file, unknown or missing keys, or an arm whose config is not valid."""
    if not Path(path).is_file():
        raise UserError(f"sweep {path}: no such file; see configs/experiments/")
    loaded = OmegaConf.load(path)
    names = {f.name for f in fields(Sweep)}
    if not isinstance(loaded, DictConfig) or set(loaded) != names:
        raise UserError(f"sweep {path}: needs exactly the keys {', '.join(sorted(names))}; see configs/experiments/")
    sweep = Sweep(**OmegaConf.to_container(loaded))  # type: ignore[arg-type]
    if sweep.control not in sweep.arms:
        raise UserError(f"sweep {path}: control={sweep.control} is none of the arms {', '.join(sweep.arms)}")
    for arm in sweep.arms:
        load_config(sweep.base, sweep.overrides(arm, sweep.seeds[0], overrides))
    return sweep


def run_sweep(path: str, overrides: Sequence[str], out: Path | None) -> int:
    """Run what is missing, print the table. 1 where a run failed: the others still run."""
    sweep, console = load_sweep(path, overrides), Console(soft_wrap=True)
    failed = []
    for seed in sweep.seeds:
        for arm in sweep.arms:
            given = sweep.overrides(arm, seed, overrides)
            if not _finished(sweep, given):
                console.print(f"run {arm} seed {seed}")
                if _train(sweep, given) != 0:
                    failed.append(f"{arm}-{seed}")
    rows = summary(sweep)
    console.print(_table(sweep, rows))
    if out is not None:
        out.write_text(json.dumps(rows, indent=1) + "\n")
    if failed:
        console.print(f"failed: {', '.join(failed)}; the same command runs them again")
    return 1 if failed else 0


def _finished(sweep: Sweep, given: Sequence[str]) -> bool:
    config = load_config(sweep.base, given)
    return any(e["step"] == config.run.steps for e in read_jsonl(Path(config.run.dir) / "evals.jsonl"))


def _train(sweep: Sweep, given: Sequence[str]) -> int:
    """In a process of its own, from its checkpoint where it has one."""
    run = RunDirectory(Path(load_config(sweep.base, given).run.dir))
    command = [sys.executable, "-m", "cluster.cli", "train", sweep.base, *given]
    if run.latest_checkpoint() is not None or run.path.exists():
        command.append("--resume")
    return subprocess.run(command, check=False).returncode


def summary(sweep: Sweep) -> dict[str, Any]:
    """Per arm: seeds done, accuracies before and after, mean, sd, 95 % interval over seeds, paired difference."""
    found: dict[str, dict[int, tuple[float, float]]] = {}
    for arm in sweep.arms:
        found[arm] = {}
        for seed in sweep.seeds:
            evals = read_jsonl(Path(sweep.dir) / f"{arm}-{seed}" / "evals.jsonl")
            if len(evals) > 1:
                found[arm][seed] = (evals[0]["accuracy"], evals[-1]["accuracy"])
    control = found[sweep.control]
    rows = {}
    for arm, runs in found.items():
        after = [a for _, a in runs.values()]
        shared = [s for s in runs if s in control]
        rows[arm] = {
            "seeds": list(runs),
            "before": [b for b, _ in runs.values()],
            "after": after,
            **_statistics(after),
            "difference": _statistics([runs[s][1] - control[s][1] for s in shared]) if arm != sweep.control else None,
        }
    return rows


def _statistics(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation and Student's 95 % interval; None where too few."""
    if len(values) < 2:
        return {"mean": float(values[0]) if values else None, "sd": None, "interval": None}
    mean, sd = float(np.mean(values)), float(np.std(values, ddof=1))
    half = T_975[min(len(values) - 1, len(T_975)) - 1] * sd / len(values) ** 0.5
    return {"mean": mean, "sd": sd, "interval": [mean - half, mean + half]}


def _table(sweep: Sweep, rows: Mapping[str, Any]) -> Table:
    table = Table("arm", "seeds", "before", "after", "mean", "95 % interval", f"minus {sweep.control}", title=sweep.dir)
    for arm, row in rows.items():
        difference = row["difference"] or {"mean": None, "interval": None}
        table.add_row(
            arm,
            str(len(row["seeds"])),
            _list(row["before"]),
            _list(row["after"]),
            _number(row["mean"]),
            _interval(row["interval"]),
            f"{_number(difference['mean'], '+')} {_interval(difference['interval'], '+')}",
        )
    return table


def _list(values: Sequence[float]) -> str:
    return " ".join(f"{v:.3f}" for v in values)


def _number(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{value:{sign}.3f}"


def _interval(value: Sequence[float] | None, sign: str = "") -> str:
    return "" if value is None else f"[{value[0]:{sign}.3f}, {value[1]:{sign}.3f}]"
