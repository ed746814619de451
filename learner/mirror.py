"""Copies of checkpoints elsewhere (`run.mirror`): a bucket, a shared folder, whatever fsspec reaches. Free of torch.

An object store has no rename, so a copy is whole when its manifest is there, which goes last; what it names is checked
again after a copy comes back.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from azero.errors import UserError, first_line
from learner.checkpoint import MANIFEST, PREFIX, Checkpoint


class Mirror:
    """A place for copies: folders step_000120 below an fsspec address."""

    def __init__(self, address: str) -> None:
        """Raises UserError for an address that fsspec cannot open, as for a missing s3fs."""
        import fsspec

        self.address = address
        try:
            fs, root = fsspec.core.url_to_fs(address)
        except (ImportError, ValueError, OSError) as e:
            raise UserError(
                f"run.mirror={address}: cannot be opened ({e}); for s3:// pip install 'azero[s3]'"
            ) from None
        self._fs: Any = fs
        self._root = str(root).rstrip("/")

    def put(self, checkpoint: Checkpoint, capacity: int) -> None:
        """Copy a whole checkpoint, then drop all but the newest `capacity`. Raises OSError, and what the store does."""
        target = f"{self._root}/{checkpoint.name}"
        files = sorted(p for p in checkpoint.path.rglob("*") if p.is_file() and p != checkpoint.manifest)
        for file in (*files, checkpoint.manifest):
            place = f"{target}/{file.relative_to(checkpoint.path)}"
            self._fs.makedirs(place.rsplit("/", 1)[0], exist_ok=True)
            self._fs.put_file(str(file), place)
        for old in self.names()[:-capacity]:
            self._fs.rm(f"{self._root}/{old}", recursive=True)

    def names(self) -> list[str]:
        """Return the names of the whole copies, the newest last."""
        self._fs.invalidate_cache()
        if not self._fs.exists(self._root):
            return []
        found = [str(p).rsplit("/", 1)[-1] for p in self._fs.ls(self._root, detail=False)]
        return sorted(n for n in found if n.startswith(PREFIX) and self._fs.exists(f"{self._root}/{n}/{MANIFEST}"))

    def fetch(self, name: str, folder: Path) -> str:
        """Bring a copy to folder/name. What is wrong with it, if anything; then nothing is left of it."""
        aside = folder / f".{name}.{os.getpid()}.tmp"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        source = f"{self._root}/{name}"
        for file in self._fs.find(source):
            place = aside / str(file).split(f"{name}/", 1)[1]
            place.parent.mkdir(parents=True, exist_ok=True)
            self._fs.get_file(file, str(place))
        wrong = Checkpoint(aside).damage()
        if wrong:
            shutil.rmtree(aside)
            return wrong
        if Checkpoint(folder / name).damage():
            shutil.rmtree(folder / name, ignore_errors=True)
        try:
            os.rename(aside, folder / name)
        except OSError:  # another process of this machine was first
            shutil.rmtree(aside)
        return Checkpoint(folder / name).damage()


def newest_anywhere(
    local: Callable[[], Checkpoint | None], mirror: Mirror | None, folder: Path, report: Callable[[str], None]
) -> Checkpoint | None:
    """`local()`, the newest whole checkpoint in `folder`, or a newer one of the mirror, brought there.

    A mirror that does not answer is reported where there is one in `folder`. Raises UserError where there is none, so
    that nobody begins anew whose checkpoints are only out of reach, and where all that there is is damaged.
    """
    if mirror is None:
        return local()
    here, damaged = None, None
    try:
        here = local()
    except UserError as e:
        damaged = e
    try:
        for name in reversed(mirror.names()):
            if here is not None and name <= here.name:
                break
            wrong = mirror.fetch(name, folder)
            if not wrong:
                return Checkpoint(folder / name)
            report(f"checkpoint {name} of {mirror.address}: damaged ({wrong}); trying the one before")
    except Exception as e:  # each store has errors of its own
        if here is None and damaged is None:
            raise UserError(f"{_silence(mirror, e)}, and {folder} has no checkpoint; try again when it does") from None
        report(_silence(mirror, e))
    if here is None and damaged is not None:
        raise damaged
    return here


def require_unused(mirror: Mirror, report: Callable[[str], None]) -> None:
    """Refuse a mirror of another run, whose copies a new run's must not mix with. Raises UserError."""
    try:
        names = mirror.names()
    except Exception as e:  # each store has errors of its own
        report(_silence(mirror, e))
        return
    if names:
        raise UserError(
            f"run.mirror={mirror.address}: holds the checkpoint {names[-1]} of another run; give another address, or "
            "go on with that run by --resume"
        )


def _silence(mirror: Mirror, error: Exception) -> str:
    return f"run.mirror={mirror.address}: does not answer ({type(error).__name__}: {first_line(error)})"
