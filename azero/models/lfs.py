"""Files that git-lfs has not fetched: a few lines of text stand in their place, which no reader understands."""

from __future__ import annotations

from pathlib import Path

from azero.errors import UserError

POINTER = b"version https://git-lfs.github.com/spec/"


def require_fetched(path: Path, key: str) -> None:
    """Raises UserError where a file, or a file in this folder, is a git-lfs pointer. `key`: what named it."""
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if not file.is_file():
            continue
        try:
            with file.open("rb") as f:
                start = f.read(len(POINTER))
        except OSError:
            continue  # whoever needs it says so
        if start == POINTER:
            raise UserError(f"{key}={path}: {file.name} is a git-lfs pointer, not the file; run `git lfs pull`")
