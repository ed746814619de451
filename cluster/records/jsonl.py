"""Files of records, one a line: read while they are written, and cut back to a step."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from azero.errors import UserError


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


def replace(path: Path, content: bytes) -> None:
    """The file holds its old content or the new one, never a part."""
    aside = path.with_name(f".{path.name}.tmp")
    with open(aside, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
