"""What a run leaves behind, in order: metrics, samples, evaluations, sinks, and what a person sees."""

from __future__ import annotations

import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from azero.errors import RunFailed
from azero.plugs import checked, find, no_numbers
from azero.types import Episode
from cluster.records.jsonl import EVALS, METRICS, SAMPLES, episode_record, read_jsonl
from cluster.records.rundir import RunDirectory
from cluster.run.progress import Progress
from cluster.run.sinks import Sink


class ExtraMetrics:
    """Calls a user's own functions of a step's episodes (`run.metrics`), each of which gives {name: number}.

    One that fails, or gives what is no metric, is told once and not called again.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        """`names`: import paths. Raises UserError where there is no such function."""
        self._functions = {
            name: checked(f"run.metrics={name}", find("run.metrics", name, {}), no_numbers) for name in names
        }

    def of(
        self, episodes: Sequence[Episode], metrics: Mapping[str, float], warn: Callable[[str], None]
    ) -> dict[str, float]:
        """`metrics` of the step with those of the functions."""
        found = dict(metrics)
        for name, function in list(self._functions.items()):
            try:
                given = {key: float(value) for key, value in function(episodes).items()}
                if taken := given.keys() & found.keys():
                    raise RunFailed(
                        f"run.metrics={name} gives {min(taken)}, which is a metric already; name it otherwise"
                    )
                found |= given
            except RunFailed as e:
                del self._functions[name]
                warn(f"{e}; the run goes on without it")
        return found


@dataclass
class Recorder:
    """A metrics line waits for the evaluation of its step, so that each step is one line and lines are in order."""

    run: RunDirectory
    progress: Progress
    text_share: float  # of the episodes: those that are recorded with their texts
    sinks: list[Sink]
    extra: ExtraMetrics = field(default_factory=ExtraMetrics)

    def __post_init__(self) -> None:
        self._began = time.monotonic()
        self._waiting: deque[dict[str, Any]] = deque()
        self._awaited: set[int] = set()
        self._evaluated: set[int] = set()
        self._disk_trouble = ""  # of the last append

    def start(self) -> None:
        """Take up what a run that goes on has recorded, and show its progress."""
        if lines := read_jsonl(self.run.path / METRICS):
            self._began -= float(lines[-1].get("time_s", 0.0))
        evaluations = read_jsonl(self.run.path / EVALS)
        self._evaluated = {int(e["step"]) for e in evaluations}
        if evaluations:
            self.progress.last_accuracy(evaluations[-1]["accuracy"])
        self.progress.start()

    def has_evaluation(self, step: int) -> bool:
        return step in self._evaluated

    def await_base_model(self) -> None:
        """Its evaluation makes the line of step 0, before which no other is written."""
        self._awaited.add(0)

    def step(self, metrics: dict[str, Any], episodes: Sequence[Episode], awaits_evaluation: bool) -> None:
        step = int(metrics["step"])
        metrics = self.extra.of(episodes, metrics, lambda text: self.warn(step, text))
        texts = self.text_share * 2**32  # the hash of an id lies in [0, 2**32), so that a rerun chooses the same
        self._append(SAMPLES, *(episode_record(e, step, zlib.crc32(e.id.encode()) < texts) for e in episodes))
        self._waiting.append(metrics | {"time_s": time.monotonic() - self._began})
        if awaits_evaluation:
            self._awaited.add(step)
        self.progress.step(metrics)
        self.flush()

    def evaluation(self, step: int, result: dict[str, Any]) -> None:
        self._evaluated.add(step)
        self._append(EVALS, {"step": step, **result})
        values = {"eval/accuracy": result["accuracy"]}
        values |= {f"eval/accuracy/{label}": part["accuracy"] for label, part in result["by_label"].items()}
        if step == 0:
            line = {"step": step, "weight_version": step, "time_s": time.monotonic() - self._began, **values}
            self._waiting.appendleft(line)
        elif step in self._awaited:  # otherwise it was stopped before its evaluation, and has its line
            next(m for m in self._waiting if m["step"] == step).update(values)
        self._awaited.discard(step)
        self.progress.evaluation(result, step)
        self.flush()

    def flush(self, all_lines: bool = False) -> None:
        """Write the lines that wait for nothing; with `all_lines` the others too."""
        while self._waiting and (all_lines or not self._awaited & {0, self._waiting[0]["step"]}):
            metrics = self._waiting.popleft()
            self._awaited.discard(metrics["step"])
            self._append(METRICS, metrics)
            for sink in self.sinks.copy():
                with self._tolerate(sink):
                    sink.write(metrics["step"], metrics)

    @contextmanager
    def _tolerate(self, sink: Sink) -> Iterator[None]:
        """A sink that fails, as when its server is gone, is left out from then on; the run goes on."""
        try:
            yield
        except Exception as e:  # each package has errors of its own
            self.sinks.remove(sink)
            self.progress.warning(f"{sink.name} fails and gets no more metrics ({type(e).__name__}: {e})")

    def go_back(self, step: int) -> None:
        """Drop all that was recorded of later steps: they will be made again."""
        self.flush(all_lines=True)
        self._evaluated = {s for s in self._evaluated if s <= step}
        self.run.records.truncate_after(step)

    def sync(self) -> str:
        """Have the disk keep all lines; what prevents it, or nothing."""
        return self.run.records.sync()

    def _append(self, file: str, *records: dict[str, Any]) -> None:
        """Warns of a disk that is full once, not once a step."""
        trouble = self.run.records.append(file, *records)
        if trouble and not self._disk_trouble:
            self.progress.warning(trouble)
        self._disk_trouble = trouble

    def warn(self, step: int, text: str) -> None:
        self.progress.warning(f"step {step}: {text}")

    def close(self) -> None:
        self.flush(all_lines=True)
        self.progress.stop()
        for sink in self.sinks.copy():
            with self._tolerate(sink):
                sink.close()
