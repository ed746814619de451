"""`azero sweep`: a base config, arms of overrides and seeds; what is finished is skipped, what broke off is resumed.

base: local
dir: runs/controls
seeds: [0, 1, 2]
control: selfplay            # the arm that the others are compared with, seed by seed
arms:
  selfplay: []
  solver_only: [task.source=solver_only]
columns: [throughput/samples_per_s]   # optional: metrics to show, each as the median over a run's steps

All runs share one Ray: the cluster of RAY_ADDRESS or the job's, or else one that the sweep starts. Each run is a driver
(in Ray's terms a job) of its own, started when the CPUs and GPUs of its plan are free among the runs of this sweep.
That is the whole scheduler. Ray Tune would bring processes, checkpoints and a resume of its own beside those of
`azero train`.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import ray
from pydantic import AfterValidator, Field
from rich.console import Console

from azero.config import ClusterConfig, Config, File, Seed, load_config
from azero.config.overrides import Section, read_yaml, validated, values
from azero.errors import UserError
from azero.models.loading import resolve_model_path
from cluster.commands.comparison import arm_summary, comparison_table, difference
from cluster.commands.stopping import INTERRUPTED, StopSignals
from cluster.records.resume import changes
from cluster.records.rundir import CONFIG, EVALS, RunDirectory, read_jsonl
from cluster.supervise.memory import count_parameters
from cluster.supervise.room import Demand, Room, demand, room_of_cluster
from cluster.supervise.runtime import ray_session

POLL_S = 0.5
BESIDE = re.compile(r"(run\.(?!seed$)|cluster\.).*|.*\.threads")  # keys that a run's outcome does not depend on
LIBC = ctypes.CDLL(None)  # loaded before any fork


def _distinct(values: Sequence[Any]) -> Sequence[Any]:
    if len({str(v).lower() for v in values}) < len(values):  # folders of some disks do not tell cases apart
        raise ValueError("must be distinct")
    return values


def _arms(arms: Mapping[str, list[str]]) -> Mapping[str, list[str]]:
    bad = next((a for a in arms if not a.strip() or a.startswith(".") or set(a) & set("/\\\0\n")), None)
    if bad is not None:
        raise ValueError(f"an arm names a folder, and {bad!r} cannot: give names without a slash or a dot in front")
    _distinct(list(arms))
    return arms


class Sweep(Section):
    base: str
    dir: Annotated[File, Field(min_length=1)]
    seeds: Annotated[list[Seed], Field(min_length=1), AfterValidator(_distinct)]
    control: str
    arms: Annotated[dict[str, list[str]], Field(min_length=1), AfterValidator(_arms)]
    columns: list[str] = Field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One arm with one seed."""

    arm: str
    seed: int
    overrides: list[str]
    config: Config

    @property
    def name(self) -> str:
        return f"{self.arm}-{self.seed}"

    @property
    def path(self) -> Path:
        return Path(self.config.run.dir)

    @property
    def demand(self) -> Demand:
        return demand(self.config)

    def is_finished(self) -> bool:
        evals = read_jsonl(self.path / EVALS)
        return bool(evals) and evals[-1]["step"] == self.config.run.steps

    def require_same(self) -> None:
        """Raises UserError if the folder holds a run of another configuration, which would pass for this one."""
        saved = self.path / CONFIG
        if not saved.exists():
            return
        for key, (there, here) in changes(values(load_config(saved)), values(self.config)).items():
            if not BESIDE.fullmatch(key):
                raise UserError(
                    f"{self.path} holds a run with {key}={there}, and this sweep has {here}: move that folder away, or "
                    "name another dir in the sweep"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunProcess:
    """`azero train` of one run, in a process of its own."""

    run: Run
    process: subprocess.Popen[bytes]
    log: Path
    since: float  # monotonic seconds

    @classmethod
    def start(cls, sweep: Sweep, run: Run, address: str) -> RunProcess:
        """Start the run, from its checkpoint if it has one; `address` is Ray's. Its output goes to <dir>/logs."""
        log = Path(sweep.dir) / "logs" / f"{run.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        resume = ["--resume"] if RunDirectory(run.path).holds_run() else []
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "cluster.cli", "train", sweep.base, *run.overrides, *resume],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=os.environ | {"RAY_ADDRESS": address},
                start_new_session=True,  # Ctrl-C reaches the sweep alone, which then asks each run once
                preexec_fn=_end_with_parent,
            )
        return cls(run=run, process=process, log=log, since=time.monotonic())

    def outcome(self, stopping: bool, console: Console) -> str:
        """Say how the run ended; why it failed, or nothing."""
        run, minutes, status = self.run, (time.monotonic() - self.since) / 60, self.process.returncode
        if status == INTERRUPTED or (stopping and status == -signal.SIGTERM):  # the second: before it had begun
            saved = RunDirectory(run.path).has_checkpoint()
            console.print(f"stopped {run.name} {'with a checkpoint' if saved else 'before it trained'}")
            return ""
        if status == 0 and run.is_finished():
            evals = read_jsonl(run.path / EVALS)
            before, after = evals[0]["accuracy"], evals[-1]["accuracy"]
            console.print(f"finished {run.name} in {minutes:.1f} min: accuracy {before:.1%} -> {after:.1%}")
            return ""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        reason = f"exit status {status}: {lines[-1].strip() if lines else 'no output'}"
        console.print(f"FAILED {run.name} after {minutes:.1f} min, {reason} (see {self.log})")
        return reason


def load_sweep(path: str) -> Sweep:
    """Raises UserError for a missing file, or unknown, missing or contradictory keys."""
    if not Path(path).is_file():
        raise UserError(f"sweep {path}: no such file; see configs/experiments/")
    loaded = read_yaml(Path(path))
    needed = {name for name, f in Sweep.model_fields.items() if f.is_required()}
    if not needed <= set(loaded) <= set(Sweep.model_fields):
        raise UserError(
            f"sweep {path}: needs the keys {', '.join(sorted(needed))} and may have "
            f"{', '.join(sorted(set(Sweep.model_fields) - needed))}; see configs/experiments/"
        )
    sweep = validated(Sweep, loaded, dict.fromkeys(loaded, path))
    if sweep.control not in sweep.arms:
        raise UserError(f"sweep {path}: control={sweep.control} is none of the arms {', '.join(sweep.arms)}")
    return sweep


def runs_of(sweep: Sweep, overrides: Sequence[str]) -> list[Run]:
    """Every arm with the first seed, then with the second, ...: a sweep cut short is still a comparison.

    Raises UserError if the config or the model of an arm is not valid.
    """
    runs = []
    for seed in sweep.seeds:
        for arm, own in sweep.arms.items():
            name = f"{arm}-{seed}"
            given = [*own, *overrides, f"run.seed={seed}", f"run.name={name}", f"run.dir={sweep.dir}/{name}"]
            config = load_config(sweep.base, given)
            count_parameters(Path(resolve_model_path(config.model.path)))  # reads the heads of its files
            runs.append(Run(arm=arm, seed=seed, overrides=given, config=config))
    return runs


def run_sweep(path: str, overrides: Sequence[str], out: Path | None) -> int:
    """Run what is missing; print the comparison and write it to <dir>/sweep.json after each run.

    1 if a run failed (the others still run); INTERRUPTED when stopped, the runs in progress with a checkpoint.
    """
    sweep, console = load_sweep(path), Console(soft_wrap=True, markup=False, emoji=False)
    runs = runs_of(sweep, overrides)
    for run in runs:
        run.require_same()
    missing = [r for r in runs if not r.is_finished()]
    console.print(f"{sweep.dir}: {len(runs) - len(missing)} of {len(runs)} runs are finished, {len(missing)} to go")
    failed: dict[str, str] = {}
    stopped = False
    if missing:
        with ray_session(ClusterConfig()), StopSignals(only_ask=True) as stop:
            room = room_of_cluster()
            for run in missing:
                room.require_all(run.demand)
            for ended in _run_all(sweep, missing, room, stop, console):
                if reason := ended.outcome(stop.asked, console):
                    failed[ended.run.name] = reason
                _write(Path(sweep.dir) / "sweep.json", summary(sweep, runs, failed))
            stopped = stop.asked
    result = summary(sweep, runs, failed)
    _write(Path(sweep.dir) / "sweep.json", result)
    if out is not None:
        _write(out, result)
    console.print(comparison_table(result))
    if stopped:
        console.print("stopped; the same command goes on")
        return INTERRUPTED
    if failed:
        console.print(f"failed: {', '.join(failed)}; the same command tries them again")
    return 1 if failed else 0


def summary(sweep: Sweep, runs: Sequence[Run], failed: Mapping[str, str]) -> dict[str, Any]:
    """Summarise the finished runs for sweep.json: accuracies by arm, their statistics, differences to the control."""
    arms: dict[str, dict[str, Any]] = {}
    for arm in sweep.arms:
        done = {r.seed: r.path for r in runs if r.arm == arm and r.is_finished()}
        found = arm_summary(done, sweep.columns)
        found["failed"] = {str(s): failed[f"{arm}-{s}"] for s in sweep.seeds if f"{arm}-{s}" in failed}
        arms[arm] = found
    for arm, found in arms.items():
        found["difference"] = difference(found, arms[sweep.control]) if arm != sweep.control else None
    return {"name": sweep.dir, "control": sweep.control, "metric": "eval/accuracy", "arms": arms}


def _run_all(
    sweep: Sweep, runs: Sequence[Run], room: Room, stop: StopSignals, console: Console
) -> Iterator[RunProcess]:
    """Start each run when there is room for it; yield it when it has ended."""
    waiting, running, asked = list(runs), list[RunProcess](), False
    address = ray.get_runtime_context().gcs_address
    while waiting or running:
        if stop.asked and not asked:
            asked = True  # once: a second signal would end a run in the middle of its checkpoint
            waiting.clear()
            for going_on in running:
                going_on.process.terminate()
        while waiting and not room.short_of([waiting[0].demand, *(r.run.demand for r in running)]):
            run = waiting.pop(0)
            console.print(f"started {run.name} ({len(waiting)} wait)")
            running.append(RunProcess.start(sweep, run, address))
        for ended in [r for r in running if r.process.poll() is not None]:
            running.remove(ended)
            yield ended
        time.sleep(POLL_S)


def _end_with_parent() -> None:
    """A run whose sweep was killed must not go on beside the next one (Linux: PR_SET_PDEATHSIG)."""
    LIBC.prctl(1, signal.SIGKILL)


def _write(path: Path, result: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
