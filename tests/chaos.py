"""Runs of their own process, and what is done to their processes."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from cluster.records.rundir import read_jsonl

TAIL = 8192  # bytes; a line of metrics takes about 2,000


@dataclass
class Victim:
    """A run in the background, in its own process group."""

    folder: Path
    process: subprocess.Popen[str]
    log: Path
    root: int  # the process whose descendants its actors and learner are

    @classmethod
    def start(
        cls, folder: Path, overrides: Sequence[str], resume: bool = False, log: Path | None = None, root: int = 0
    ) -> Victim:
        log = log or folder.with_suffix(".log")
        command = [sys.executable, "-m", "cluster.cli", "train", "local", *overrides, f"run.dir={folder}"]
        with open(log, "a") as out:
            process = subprocess.Popen(
                command + ["--resume"] * resume, stdout=out, stderr=subprocess.STDOUT, text=True, start_new_session=True
            )
        return cls(folder, process, log, root or process.pid)

    @property
    def step(self) -> int:
        """The last one in metrics.jsonl; -1 before the first. Asked often beside what is measured: reads the end."""
        try:
            with open(self.folder / "metrics.jsonl", "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
                found = re.findall(rb'^\{"step": (\d+).*\}$', file.read().rpartition(b"\n")[0], re.MULTILINE)
        except FileNotFoundError:
            return -1
        return int(found[-1]) if found else -1

    def wait_for_step(self, step: int, limit_s: float = 240.0) -> None:
        self.wait_until(lambda: self.step >= step, f"step {step}", limit_s)

    def wait_until(self, condition: Any, what: str, limit_s: float = 240.0) -> None:
        deadline = time.monotonic() + limit_s
        while not condition():
            assert self.process.poll() is None, f"ended before {what}: {self.said()[-2000:]}"
            assert time.monotonic() < deadline, f"no {what} in {limit_s:g} s: {self.said()[-2000:]}"
            time.sleep(0.05)

    def wait_to_say(self, text: str, limit_s: float) -> None:
        self.wait_until(lambda: text in self.said(), repr(text), limit_s)

    def actors(self) -> list[psutil.Process]:
        return list(self._named("ray::RolloutActor"))

    def actor(self, index: int) -> psutil.Process:
        """The one that writes logs/actor-INDEX.log."""
        written = {os.readlink(f"/proc/{process.pid}/fd/1"): process for process in self.actors()}
        return next(process for log, process in written.items() if log.endswith(f"/actor-{index}.log"))

    def learners(self) -> list[psutil.Process]:
        return list(self._named("ray::Learner"))

    def _named(self, name: str) -> Iterator[psutil.Process]:
        for child in psutil.Process(self.root).children(recursive=True):
            try:
                if name in " ".join(child.cmdline()):
                    yield child
            except psutil.Error:
                continue

    def kill_one(self, rng: random.Random, kind: str) -> None:
        """SIGKILL a rollout actor or the learner, as soon as there is one."""
        found: list[psutil.Process] = []

        def there() -> bool:
            found[:] = self.actors() if kind == "actor" else self.learners()
            return bool(found)

        self.wait_until(there, f"a {kind} to kill")
        os.kill(rng.choice(sorted(found, key=lambda p: p.pid)).pid, signal.SIGKILL)

    def kill_all(self) -> None:
        """The driver with all that it started: what a node's death leaves."""
        for process in [*psutil.Process(self.process.pid).children(recursive=True), psutil.Process(self.process.pid)]:
            try:
                process.kill()
            except psutil.Error:
                continue
        self.process.wait()

    def recoveries(self, who: str) -> list[float]:
        """Seconds that the log gives: who is "serves again" or "the learner goes on"."""
        return [float(s) for s in re.findall(rf"{who}.*?, after ([\d.]+) s", self.said())]

    def losses(self) -> int:
        return len(re.findall(r"starting it again|retired, after|starting the learner again", self.said()))

    def is_well(self) -> bool:
        """Whether each actor and the learner, if it was lost, has come back since."""
        last: dict[str, bool] = {}
        for line in self.said().splitlines():
            if found := re.search(r"rollout actor \d+|the learner", line):
                if re.search(r"starting it again|retired, after|starting the learner again", line):
                    last["the learner" if "the learner again" in line else found[0]] = False
                elif re.search(r"serves again|the learner goes on", line):
                    last[found[0]] = True
        return all(last.values())

    def finish(self, limit_s: float = 400.0) -> int:
        return self.process.wait(timeout=limit_s)

    def said(self) -> str:
        return self.log.read_text()


def check_whole(folder: Path, steps: int, problems: int | None) -> None:
    """Each step has one line and its groups, none is there twice, and no step has too few."""
    assert [m["step"] for m in read_jsonl(folder / "metrics.jsonl")] == list(range(steps + 1))
    records = read_jsonl(folder / "samples.jsonl")
    groups = [r["solver"]["group"] for r in records if r["solver"]]
    assert len(groups) == len(set(groups)) and len({r["id"] for r in records}) == len(records)
    for step in range(1, steps + 1):
        mine = [r for r in records if r["step"] == step]
        assert {r["batch"] for r in mine} == {step - 1}
        slots = {r["id"].rsplit(".", 1)[0] for r in mine}
        assert problems is None or slots == {f"{step - 1}.{i}" for i in range(problems)}, step


def timeless(metrics: dict[str, Any]) -> dict[str, Any]:
    """Without what differs between equal runs: times, memory, and what was done about faults."""
    changing = ("time", "throughput", "memory", "sync/seconds", "sync/load", "sync/proof", "faults", "actors")
    return {k: v for k, v in metrics.items() if not k.startswith(changing)}
