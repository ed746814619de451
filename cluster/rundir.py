"""The run directory: what a run leaves behind, and all that progress, report and sweep read.

    config.yaml  provenance.json                     written once; a resume replaces the first and adds to the second
    metrics.jsonl  evals.jsonl  samples.jsonl        whole lines, appended and flushed
    proposer_evals.jsonl                             of `azero eval --role proposer`, made anew each time
    tensorboard/  wandb_run_id  mlflow_run_id        of the sinks, cluster/sinks.py
    checkpoints/  logs/                              others' business
    .lock                                            flock, held while a run writes the directory; dies with its process

Records hold null for NaN and infinity. Readers pass over a last line that a killed writer tore.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from azero.errors import UserError
from azero.types import Episode, Group, Sample
from cluster import machine
from learner.manifest import newest_whole

METRICS, EVALS, SAMPLES = "metrics.jsonl", "evals.jsonl", "samples.jsonl"
PROPOSER_EVALS = "proposer_evals.jsonl"


def warn(text: str) -> None:
    print(f"azero: {text}", file=sys.stderr)


class RunDirectory:
    """The files of one run. Reading needs nothing more; `open` locks it for the run that writes it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._unwritten: dict[str, str] = {}  # file -> lines that a full disk has kept out of it

    @contextmanager
    def open(self, config_yaml: str, provenance: Mapping[str, Any], *, resume: bool) -> Iterator[RunDirectory]:
        """Hold the directory for a run, made where it is missing.

        On resume the config is replaced and the provenance joins the first one's list `resumed`; `truncate_after` the
        checkpoint's step comes next. Raises UserError where another run uses the directory, where it holds a run and
        `resume` is false, and where it is not there and `resume` is true.
        """
        if resume and not self.path.is_dir():
            raise UserError(f"run.dir={self.path}: holds no run to resume; leave out --resume to begin one")
        lock = self._acquire()
        try:
            if self.holds_run() and not resume:
                raise UserError(
                    f"run.dir={self.path}: already holds a run; add --resume to go on with it, or give another run.dir"
                )
            self.logs.mkdir(exist_ok=True)
            file = self.path / "provenance.json"
            content = plain(provenance)
            if self.holds_run() and file.exists():
                first = json.loads(file.read_text())
                content = first | {"resumed": [*first.get("resumed", []), content]}
            _replace(file, json.dumps(content, indent=2) + "\n")
            _replace(self.path / "config.yaml", config_yaml)
            yield self
        finally:
            os.close(lock)

    def holds_run(self) -> bool:
        return any((self.path / name).exists() for name in ("config.yaml", METRICS, "checkpoints"))

    def has_checkpoint(self) -> bool:
        return (self.checkpoints / "latest").is_file()

    def room(self) -> str:
        """What to say of a disk that may not hold two more checkpoints; empty where it does."""
        newest = max(self.checkpoints.glob("step_*"), default=None)
        size = sum(f.stat().st_size for f in newest.rglob("*") if f.is_file()) if newest else 0
        free, mib = shutil.disk_usage(self.path).free, 2**20
        if free >= 2 * size:
            return ""
        return f"disk nearly full: {free / mib:.0f} MiB are free in {self.path}, a checkpoint takes {size / mib:.0f}"

    def latest_checkpoint(self, report: Callable[[str], None] = warn) -> Path | None:
        """The newest whole checkpoint; None before the first. Damaged ones are reported, a line each.

        Raises UserError where there are checkpoints, and all are damaged.
        """
        return newest_whole(self.checkpoints, report)

    @property
    def checkpoints(self) -> Path:
        return (self.path / "checkpoints").absolute()  # the learner works elsewhere

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def append_metrics(self, metrics: Mapping[str, Any]) -> str:
        """What kept the line out of the file, as a full disk; empty where it is in it."""
        return self._append(METRICS, [metrics])

    def append_eval(self, result: Mapping[str, Any]) -> str:
        return self._append(EVALS, [result])

    def append_samples(self, records: Sequence[Mapping[str, Any]]) -> str:
        return self._append(SAMPLES, records)

    def _append(self, name: str, records: Sequence[Mapping[str, Any]]) -> str:
        """Lines that cannot be written wait in memory and go with the next ones, so that none is lost or torn.

        A kill tears one at most.
        """
        text = self._unwritten.pop(name, "") + "".join(json.dumps(plain(r)) + "\n" for r in records)
        path = self.path / name
        before = path.stat().st_size if path.exists() else 0
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(text)
        except OSError as e:
            if path.exists():
                os.truncate(path, before)
            self._unwritten[name] = text
            return f"{path}: cannot be written ({e.strerror}); {text.count(chr(10))} lines wait in memory"
        return ""

    def sync(self) -> str:
        """Write what waits and have the disk keep it; what prevents it, or nothing."""
        for name in [n for n, text in self._unwritten.items() if text]:
            if trouble := self._append(name, []):
                return trouble
        for name in (METRICS, EVALS, SAMPLES):
            try:
                if (self.path / name).exists():
                    with open(self.path / name, "rb") as file:
                        os.fsync(file.fileno())
            except OSError as e:
                return f"{self.path / name}: {e.strerror}"
        return ""

    def truncate_after(self, step: int) -> None:
        """Drop every record of a later step, and a torn last line. Steps rise from line to line; no room is needed."""
        self._unwritten = {
            name: "".join(f"{line}\n" for line in text.splitlines() if json.loads(line)["step"] <= step)
            for name, text in self._unwritten.items()
        }
        for name in (METRICS, EVALS, SAMPLES):
            if (self.path / name).exists():
                os.truncate(self.path / name, _end_of(self.path / name, step))

    def _acquire(self) -> int:
        """File descriptor that holds the lock."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as e:
            raise UserError(f"run.dir={self.path}: cannot be used ({e.strerror}); give another run.dir") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid, _, host = os.read(lock, 1024).decode(errors="replace").partition(" ")
            os.close(lock)
            raise UserError(
                f"run.dir={self.path}: in use by process {pid or '?'} on host {host or '?'}; "
                "give another run.dir or wait"
            ) from None
        except OSError as e:
            os.close(lock)
            raise UserError(
                f"run.dir={self.path}: cannot be locked there ({e.strerror}); give another run.dir"
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()} {socket.gethostname()}".encode(), 0)
        return lock


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """All records of a file; none where it is missing. See `iterate_jsonl`."""
    return list(iterate_jsonl(path))


def iterate_jsonl(path: str | Path) -> Iterator[dict[str, Any]]:
    """The records of a file, without a last line that a killed writer tore or that one is just writing.

    Raises UserError for any other bad line.
    """
    if not Path(path).exists():
        return
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                record = json.loads(line)
            except ValueError:
                if not line.endswith(b"\n"):
                    return  # even if its writer goes on meanwhile: the next read would begin within this line
                raise UserError(f"{path}: line {number} is not JSON; remove that line") from None
            yield record
            if not line.endswith(b"\n"):
                return


def _end_of(path: Path, step: int) -> int:
    """Bytes up to the first record of a later step, or to a torn line."""
    end = 0
    with open(path, "rb") as file:
        for line in file:
            try:
                if json.loads(line)["step"] > step or not line.endswith(b"\n"):
                    break
            except ValueError:
                break
            end += len(line)
    return end


def plain(value: Any) -> Any:
    """The same as JSON has it: numpy scalars as numbers, tuples as lists, NaN and infinity as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    return plain(value.tolist())  # numpy


def provenance() -> dict[str, Any]:
    """What a figure of this run depends on beside its config: code, packages, machine, command."""
    names = (*machine.REQUIRED, *machine.BROUGHT_ALONG, *machine.EXTRAS)
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": list(sys.argv),
        "git": machine.git_state(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "cpu": machine.cpu()[0],
        "cores": machine.cores(),
        "memory_bytes": machine.memory_bytes(),
        "gpus": machine.gpus(),
        "packages": {name: version for name in names if (version := machine.version_of(name))},
    }


def episode_record(episode: Episode, step: int, with_text: bool) -> dict[str, Any]:
    """A line of samples.jsonl: {id, step, batch, requested_tier, proposal, problem, solver}, of which the last three
    may be null. `step` is the step that trained it. `with_text` adds references, prompts and completions."""
    record = {
        "id": episode.id,
        "step": step,
        "batch": episode.batch,
        "requested_tier": episode.requested_tier.value,
        "proposal": _proposal(episode.proposal, episode.prompt, with_text) if episode.proposal else None,
        "problem": _problem(episode.group) if episode.group else None,
        "solver": _solutions(episode.group, with_text) if episode.group else None,
    }
    return record | {"references": list(episode.references)} if with_text else record


def _proposal(sample: Sample, prompt: str, with_text: bool) -> dict[str, Any]:
    record = {
        "version": sample.completion.version,
        "verdict": sample.verdict.value,
        "reason": sample.reason,
        "reward": sample.reward,
        "reward_parts": dict(sample.reward_parts),
        "tokens": len(sample.completion.token_ids),
        "finish_reason": sample.completion.finish_reason,
    }
    return record | {"prompt": prompt, "completion": sample.completion.text} if with_text else record


def _problem(group: Group) -> dict[str, Any]:
    problem = group.problem
    return {
        "id": problem.id,
        "text": problem.text,
        "answer": problem.answer,
        "tier": problem.tier.value,
        "canonical": problem.canonical,
        "structure": problem.structure,
        "author_version": problem.author_version,
    }


def _solutions(group: Group, with_text: bool) -> dict[str, Any]:
    """Lists are [samples]."""
    samples = group.samples
    record = {
        "group": group.id,
        "success_rate": group.success_rate,
        "rewards": [s.reward for s in samples],
        "reward_parts": [dict(s.reward_parts) for s in samples],
        "verdicts": [s.verdict.value for s in samples],
        "versions": [s.completion.version for s in samples],
        "tokens": [len(s.completion.token_ids) for s in samples],
        "finish_reasons": [s.completion.finish_reason for s in samples],
    }
    texts = {"prompt": group.prompt, "completions": [s.completion.text for s in samples]}
    return record | texts if with_text else record


def _replace(path: Path, content: str | Iterable[str]) -> None:
    """The file holds its old content or the new one, never a part."""
    aside = path.with_name(f".{path.name}.tmp")
    with open(aside, "w", encoding="utf-8") as file:
        file.writelines([content] if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
