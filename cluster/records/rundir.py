"""The run directory: what a run leaves behind, and all that progress, report and sweep read.

    config.yaml  provenance.json                     written once; a resume replaces the first and adds to the second
    metrics.jsonl  evals.jsonl  samples.jsonl        whole lines, appended and flushed
    proposer_evals.jsonl                             of `azero eval --role proposer`, made anew each time
    tensorboard/  wandb_run_id  mlflow_run_id        of the sinks, cluster/run/sinks.py
    checkpoints/  logs/                              others' business
    .unsaved                                         until the first checkpoint is written
    .lock                                            flock, held while a run writes the directory; dies with its process

Records hold null for NaN and infinity. Readers pass over a last line that a killed writer tore.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from azero.errors import UserError
from cluster.records import machine
from cluster.records.jsonl import EVALS as EVALS
from cluster.records.jsonl import METRICS, RECORDS, Records, plain, replace
from cluster.records.jsonl import SAMPLES as SAMPLES
from cluster.records.jsonl import episode_record as episode_record
from cluster.records.jsonl import iterate_jsonl as iterate_jsonl
from cluster.records.jsonl import read_jsonl as read_jsonl
from cluster.records.resume import changes, require_same_run, settings
from learner.checkpoint import LATEST, Checkpoint, checkpoints_in, newest_whole

PROPOSER_EVALS = "proposer_evals.jsonl"
CONFIG, PROVENANCE, CHECKPOINTS = "config.yaml", "provenance.json", "checkpoints"
UNSAVED = ".unsaved"
SINKS_RUNS = ("wandb_run_id", "mlflow_run_id")


def is_run(folder: Path) -> bool:
    """Whether it is a run's directory: others have a config.yaml too."""
    return (folder / CONFIG).is_file() and any(
        (folder / n).exists() for n in (PROVENANCE, METRICS, CHECKPOINTS, "logs")
    )


def run_of(path: str) -> Path | None:
    """The run directory that this is, or whose config.yaml this is; None for anything else."""
    given = Path(path).expanduser()
    folder = given.parent if given.name == CONFIG and given.is_file() else given
    return folder if is_run(folder) else None


def config_of(path: Path) -> Path | None:
    """config.yaml of the run directory that this is, or that this checkpoint is in; None for anything else."""
    return next((folder / CONFIG for folder in (path, path / "../..") if is_run(folder)), None)


def warn(text: str) -> None:
    print(f"azero: {text}", file=sys.stderr)


class RunDirectory:
    """The files of one run. Reading needs nothing more; `open` locks it for the run that writes it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoint: Checkpoint | None = None  # what a resumed run goes on from
        self.records = Records(self.path)

    @contextmanager
    def open(
        self,
        config_yaml: str,
        provenance: Mapping[str, Any],
        *,
        resume: bool,
        newest_checkpoint: Callable[[], Checkpoint | None] | None = None,
    ) -> Iterator[RunDirectory]:
        """Hold the directory for a run, made where it is missing. A start that fails before any record leaves no run.

        On resume the config is replaced, and the provenance joins the first one's list `resumed` with what changed;
        `truncate_after` the step of `checkpoint`, which `newest_checkpoint` found, comes next. Raises UserError where
        another run uses the directory, where it holds a run and `resume` is false, where it is not there and `resume`
        is true, and where what it holds is not what the run goes on from: nothing is written then.
        """
        if not self.path.exists():
            self.require_fit(resume)
        with self._locked():
            self.require_fit(resume)
            held = self.holds_run()
            if held:
                provenance = self._going_on(config_yaml, provenance)
            if resume:
                last = self.records.last_step()
                self.checkpoint = (newest_checkpoint or self.latest_checkpoint)()
                if self.checkpoint is None and last > 0:
                    self._begin_again(last)
            self.logs.mkdir(exist_ok=True)
            if not held:
                (self.path / UNSAVED).touch()
            replace(self.path / PROVENANCE, f"{json.dumps(plain(provenance), indent=2)}\n".encode())
            replace(self.path / CONFIG, config_yaml.encode())
            try:
                yield self
            except BaseException:
                if not held:
                    self._take_back()
                raise

    def require_fit(self, resume: bool) -> None:
        """Raises UserError where a run cannot begin here, or go on; writes nothing."""
        if resume and not self.path.is_dir():
            raise UserError(f"run.dir={self.path}: holds no run to resume; leave out --resume to begin one")
        if (self.path / CONFIG).exists() and not is_run(self.path):
            raise UserError(f"run.dir={self.path}: holds a {CONFIG} that is no run's; give another run.dir")
        if self.holds_run() and not resume:
            raise UserError(
                f"run.dir={self.path}: already holds a run; add --resume to go on with it, or give another run.dir"
            )

    def _begin_again(self, last: int) -> None:
        """A run that was killed before its first checkpoint; what it recorded is kept under other names.

        Raises UserError where it has had a checkpoint.
        """
        if not (self.path / UNSAVED).exists():
            raise UserError(
                f"run.dir={self.path}: its records reach step {last}, and it has no checkpoint to go on from; "
                f"put {CHECKPOINTS}/ back, or begin a new run in another run.dir"
            )
        number = self.records.set_aside()
        warn(f"{self.path}: has no checkpoint yet and begins again; its {last} steps are kept as *.unsaved-{number}")

    def saved(self) -> None:
        """A checkpoint is written: from then on a resume needs one."""
        (self.path / UNSAVED).unlink(missing_ok=True)

    def _going_on(self, config_yaml: str, provenance: Mapping[str, Any]) -> dict[str, Any]:
        """The provenance of a run that is resumed. Raises UserError where it would be another run."""
        first = self._read(PROVENANCE, {})
        if (self.path / CONFIG).exists():
            before = settings(
                (self.path / CONFIG).read_text(encoding="utf-8", errors="replace"), str(self.path / CONFIG)
            )
            now = settings(config_yaml, "config")
            changed = changes(before, now)
            known = {key: values for key, values in changed.items() if key in before}  # to the version that began it
            require_same_run(self.path, known, first.get("fingerprints", {}), provenance.get("fingerprints", {}))
            if self._is_copy_of(original := Path(str(before.get("run.dir", ""))), first):
                if before.get("run.mirror") and "run.mirror" not in changed:
                    raise UserError(
                        f"run.mirror={before['run.mirror']}: keeps the checkpoints of {original}, of which {self.path} "
                        "is a copy; give the copy a run.mirror of its own"
                    )
                for name in SINKS_RUNS:  # those are the original's
                    (self.path / name).unlink(missing_ok=True)
            provenance = dict(provenance) | ({"changed": changed} if changed else {})
        return {**first, "resumed": [*first.get("resumed", []), provenance]} if first else dict(provenance)

    def _is_copy_of(self, other: Path, first: Mapping[str, Any]) -> bool:
        """`first`: this one's provenance, which a copy has from its original."""
        if not is_run(other) or other.samefile(self.path):
            return False
        return bool(first) and RunDirectory(other)._read(PROVENANCE, {}).get("time") == first.get("time")

    def _read(self, name: str, default: dict[str, Any]) -> dict[str, Any]:
        """Raises UserError for a file that is no JSON object."""
        file = self.path / name
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return default
        except (OSError, ValueError):
            content = None
        if not isinstance(content, dict):
            raise UserError(f"{file}: cannot be read as a JSON object; restore it, or move it away")
        return content

    def _take_back(self) -> None:
        """Remove what a failed start has written, except for logs/, which may help."""
        if any((self.path / name).exists() for name in (*RECORDS, CHECKPOINTS)):
            return
        for name in (CONFIG, PROVENANCE, UNSAVED, ".lock"):
            (self.path / name).unlink(missing_ok=True)
        for folder in (self.logs, self.path):
            with suppress(OSError):  # not empty
                folder.rmdir()

    def holds_run(self) -> bool:
        return any((self.path / name).exists() for name in (CONFIG, METRICS, CHECKPOINTS))

    def has_checkpoint(self) -> bool:
        return (self.checkpoints / LATEST).is_file()

    def room(self) -> str:
        """Return what to say of a disk that may not hold two more checkpoints; empty where it does."""
        found = checkpoints_in(self.checkpoints)
        size = found[-1].bytes() if found else 0
        free, mib = shutil.disk_usage(self.path).free, 2**20
        if free >= 2 * size:
            return ""
        return f"disk nearly full: {free / mib:.0f} MiB are free in {self.path}, a checkpoint takes {size / mib:.0f}"

    def latest_checkpoint(self, report: Callable[[str], None] = warn) -> Checkpoint | None:
        """The newest whole checkpoint; None before the first. Damaged ones are reported, a line each.

        Raises UserError where there are checkpoints, and all are damaged.
        """
        return newest_whole(self.checkpoints, report)

    @property
    def checkpoints(self) -> Path:
        return (self.path / CHECKPOINTS).absolute()  # the learner works elsewhere

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the directory's lock, in which stands who does. Raises UserError where it cannot be had."""
        where = f"run.dir={self.path}"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = open(self.path / ".lock", "a+", errors="replace")  # noqa: SIM115
        except OSError as e:
            raise UserError(f"{where}: cannot be used ({e.strerror}); give another run.dir") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                pid, _, host = lock.read(1024).partition(" ")
                holder = f"in use by process {pid or '?'} on host {host or '?'}"
                raise UserError(f"{where}: {holder}; give another run.dir or wait") from None
            except OSError as e:
                raise UserError(f"{where}: cannot be locked there ({e.strerror}); give another run.dir") from None
            lock.truncate(0)
            lock.write(f"{os.getpid()} {socket.gethostname()}")
            lock.flush()
            yield


def provenance() -> dict[str, Any]:
    """Return what a figure of this run depends on beside its config: code, packages, machine, command."""
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
