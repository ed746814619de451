"""A run's records, one a line: appended, read while they are written, and cut back to a step; and an episode's."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from azero.errors import UserError
from azero.types import Episode, Group, Sample

METRICS, EVALS, SAMPLES = RECORDS = ("metrics.jsonl", "evals.jsonl", "samples.jsonl")


class Records:
    """The files of records in a run's folder. Each record has its step. Only `append` and the like write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._unwritten: dict[str, str] = {}  # file -> lines that a full disk has kept out of it

    def append(self, name: str, *records: Mapping[str, Any]) -> str:
        """Return what kept the lines out of the file, as a full disk; empty if they are in it.

        Lines that cannot be written wait in memory and go with the next ones, so that none is lost or torn. A kill
        tears one at most.
        """
        text = self._unwritten.pop(name, "") + "".join(json.dumps(plain(r)) + "\n" for r in records)
        path = self.folder / name
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
            if trouble := self.append(name):
                return trouble
        for path in self._present():
            try:
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
            except OSError as e:
                return f"{path}: {e.strerror}"
        return ""

    def truncate_after(self, step: int) -> None:
        """Drop every record of a later step, and a torn last line. No room is needed if steps rise line by line."""
        self._unwritten = {
            name: "".join(f"{line}\n" for line in text.splitlines() if json.loads(line)["step"] <= step)
            for name, text in self._unwritten.items()
        }
        for path in self._present():
            truncate_after(path, step)

    def last_step(self, *names: str) -> int:
        """The highest step of any record; -1 without one. Raises UserError for a damaged line, by its number."""
        found = (record["step"] for path in self._present(names or RECORDS) for record in records_of(path))
        return max(found, default=-1)

    def set_aside(self) -> int:
        """Rename each file to <name>.unsaved-<number>; the number."""
        number = 1 + len(list(self.folder.glob(f"{METRICS}.unsaved-*")))
        for path in self._present():
            os.replace(path, path.with_name(f"{path.name}.unsaved-{number}"))
        return number

    def _present(self, names: Sequence[str] = RECORDS) -> list[Path]:
        return [path for name in names if (path := self.folder / name).exists()]


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """All records of a file; none where it is missing. See `iterate_jsonl`."""
    return list(iterate_jsonl(path))


def iterate_jsonl(path: str | Path) -> Iterator[dict[str, Any]]:
    """The records of a file, without a last line that a killed writer tore or that one is just writing.

    Raises UserError for any other bad line, with its number.
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
            if not isinstance(record, dict):
                raise UserError(f"{path}: line {number} is no JSON object; remove that line")
            yield record
            if not line.endswith(b"\n"):
                return


def records_of(path: Path) -> Iterator[dict[str, Any]]:
    """The same; raises UserError for a line without a step, too."""
    for number, record in enumerate(iterate_jsonl(path), start=1):
        if not isinstance(record.get("step"), int):
            raise UserError(f"{path}: line {number} has no step; remove that line")
        yield record


def truncate_after(path: Path, step: int) -> None:
    """Nothing but records of later steps is lost, nor a damaged line that earlier ones follow."""
    end, position, later = 0, 0, list[tuple[int, int]]()  # bytes; from and to, of records of later steps
    with open(path, "rb") as file:
        for line in file:
            position += len(line)
            try:
                is_later = bool(json.loads(line)["step"] > step)
            except (ValueError, KeyError, TypeError):
                continue
            if is_later:
                later.append((position - len(line), position))
            elif line.endswith(b"\n"):
                end = position
    os.truncate(path, end)
    within = [part for part in later if part[1] <= end]
    if within:  # an evaluation that ended after a later one
        content = path.read_bytes()
        starts, stops = [0, *(stop for _, stop in within)], [*(start for start, _ in within), end]
        replace(path, b"".join(content[a:b] for a, b in zip(starts, stops, strict=True)))


def plain(value: Any) -> Any:
    """The same as JSON has it: numpy's numbers and arrays as plain ones, tuples as lists, NaN and infinity as null."""
    return to_jsonable_python(value, inf_nan_mode="null", fallback=lambda array: array.tolist())


def replace(path: Path, content: bytes) -> None:
    """The file holds its old content or the new one, never a part."""
    aside = path.with_name(f".{path.name}.tmp")
    with open(aside, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def episode_record(episode: Episode, step: int, with_text: bool) -> dict[str, Any]:
    """A line of samples.jsonl: {id, step, batch, requested_cell, proposal, problem, solver}, of which the last three
    may be null. `step` is the step that trained it. `with_text` adds references, prompts and completions."""
    record = {
        "id": episode.id,
        "step": step,
        "batch": episode.batch,
        "requested_cell": str(episode.requested_cell),
        "proposal": _proposal(episode.proposal, episode.prompt, with_text) if episode.proposal else None,
        "problem": _problem(episode.group) if episode.group else None,
        "solver": _solutions(episode.group, with_text) if episode.group else None,
    }
    return record | {"references": list(episode.references)} if with_text else record


def _proposal(sample: Sample, prompt: str, with_text: bool) -> dict[str, Any]:
    record = {
        "policy": sample.completion.policy,
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
        "text": problem.statement,
        "answer": problem.answer,
        "cell": str(problem.cell),
        "canonical": problem.canonical,
        "structure": problem.structure,
        "payload": dict(problem.payload),
        "author_version": problem.author_version,
    }


def _solutions(group: Group, with_text: bool) -> dict[str, Any]:
    """Lists are [samples]. `pilot`: how many of them were drawn first; without a pilot it is left out."""
    samples = group.samples
    record = {
        "group": group.id,
        "policy": group.samples[0].completion.policy,
        "success_rate": group.success_rate,
        **({"pilot": group.pilot} if group.pilot else {}),
        "rewards": [s.reward for s in samples],
        "reward_parts": [dict(s.reward_parts) for s in samples],
        "verdicts": [s.verdict.value for s in samples],
        "reasons": [s.reason for s in samples],
        "versions": [s.completion.version for s in samples],
        "tokens": [len(s.completion.token_ids) for s in samples],
        "finish_reasons": [s.completion.finish_reason for s in samples],
    }
    texts = {"prompt": group.prompt, "completions": [s.completion.text for s in samples]}
    return record | texts if with_text else record
