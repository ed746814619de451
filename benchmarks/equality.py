"""Guard of a reshaping: two checkouts train the same synchronous runs, and their metrics must be equal to the last bit.

    python benchmarks/equality.py OLD_CHECKOUT NEW_CHECKOUT [--steps 12] [--keep FOLDER] [--python PYTHON] [ARM ...]

An arm is a name of ARMS. Each runs with one thread a side, in either checkout, with this environment's packages. What
depends on the clock or on the machine is left out. A key or value that the new checkout calls otherwise stands in
RENAMED and OVERRIDES_OF_OLD. With --keep the old checkout's metrics are kept in FOLDER, and not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ARMS = {
    "local-0": ["run.seed=0"],
    "local-1": ["run.seed=1"],
    "solver_only": ["task.source=solver_only"],
    "grpo_fixed": ["task.source=fixed", "baseline.by=problem"],
    "sorting": ["task.domain=sorting", "eval.data=dev"],
}
SYNCHRONOUS = ["rollout.max_staleness=0", "rollout.threads=1", "learner.threads=1", "run.eval_every=6"]
OF_A_CELL = ("problems/share", "baseline/proposer", "baseline/solver")
RENAMED: dict[str, str] = {  # metric of the old checkout -> of the new one, where {task} is the arm's domain
    f"{name}/{tier}": f"{name}/{{task}}/{tier}" for name in OF_A_CELL for tier in ("easy", "medium", "hard")
}
OVERRIDES_OF_OLD: dict[str, list[str]] = {  # override of the new checkout -> what the old one calls it
    "task.source=solver_only": ["task.source=frozen"],
    "baseline.by=problem": ["algorithm.name=grpo"],  # of an arm whose source is not selfplay
}
# Metrics that the old checkout does not have.
ADDED = ("proposer/reasons/", "solver/success_rate", "groups/stopped_rate", "groups/informative", "tokens/")
OF_CLOCK_OR_MACHINE = ("time", "throughput/", "memory/", "sync/seconds", "sync/load_seconds", "sync/proof_seconds")


def metrics_of(checkout: Path, python: str, overrides: list[str], folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl of a run of the local config. Raises SystemExit where it fails."""
    command = [python, "-m", "cluster.cli", "train", "local", f"run.dir={folder}", *overrides]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{checkout}: {' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def differences(old: list[dict[str, Any]], new: list[dict[str, Any]], task: str) -> list[str]:
    """What differs, a line each: a step's key with both values. A key that only one side has is a difference too."""
    found = [] if len(old) == len(new) else [f"{len(old)} lines in the old checkout, {len(new)} in the new one"]
    for before, after in zip(old, new, strict=False):
        before = {RENAMED.get(key, key).format(task=task): value for key, value in before.items()}
        for key in sorted(before.keys() | after.keys()):
            if key.startswith((*ADDED, *OF_CLOCK_OR_MACHINE)) or before.get(key) == after.get(key):
                continue
            found.append(f"step {before['step']}: {key}: {before.get(key)} -> {after.get(key)}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("arms", nargs="*", help=", ".join(ARMS))
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--keep", type=Path, help="a folder for the old checkout's metrics")
    parser.add_argument("--python", default=sys.executable)
    given = parser.parse_intermixed_args()
    if unknown := set(given.arms) - set(ARMS):
        parser.error(f"{', '.join(sorted(unknown))}: no such arm; allowed are {', '.join(ARMS)}")
    status = 0
    for arm in given.arms or ARMS:
        overrides = [*SYNCHRONOUS, f"run.steps={given.steps}", *ARMS[arm]]
        of_old = [old for o in overrides for old in OVERRIDES_OF_OLD.get(o, [o])]
        with tempfile.TemporaryDirectory() as folder:
            kept = given.keep / f"{arm}-{given.steps}.json" if given.keep else Path(folder) / "kept"
            if not kept.exists():
                old = metrics_of(given.old.resolve(), given.python, of_old, Path(folder) / "old")
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_text(json.dumps(old))
            old = json.loads(kept.read_text())
            new = metrics_of(given.new.resolve(), given.python, overrides, Path(folder) / "new")
        found = differences(old, new, task="sorting" if arm == "sorting" else "arithmetic")
        status = status or int(bool(found))
        print(f"{arm}: {'equal' if not found else f'{len(found)} differences'} in {len(new)} lines", flush=True)
        print("".join(f"  {line}\n" for line in found[:20]), end="", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
