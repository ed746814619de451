"""From a run to its model: which folder a name stands for, and a copy of it as a plain transformers folder."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from azero.errors import UserError
from azero.models.gguf import is_gguf
from azero.types import SHARED
from cluster.records.rundir import CHECKPOINTS, RunDirectory, is_run
from learner.checkpoint import Checkpoint

HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def resolve_model(source: str) -> str:
    """Return what to load for a run directory (its latest checkpoint), a checkpoint or a model folder.

    "embedded", .gguf files and Hub ids come back as they are. Raises UserError for a folder without a model, and for a
    path to nothing.
    """
    path = Path(source).expanduser()
    if source == "embedded" or is_gguf(source):
        return source
    if path.is_dir():
        return str(_model_folder(path))
    if path.exists():
        raise UserError(f"{source}: is a file; give a run directory, a checkpoint or a model folder, or a Hub id")
    beside = _runs_in(path.parent) if path.parent != Path() else []
    if not HUB_ID.fullmatch(source) or beside:
        hint = f"; runs in {path.parent}: {', '.join(beside)}" if beside else ""
        raise UserError(f"{source}: no such folder{hint or '; give a run directory, a checkpoint or a model folder'}")
    return source


def export_run(source: str, out: str) -> Path:
    """Copy the model of a run, a checkpoint or a model folder to `out`, whole or not at all; returns `out`.

    Raises UserError where the source holds no model, or `out` exists and is not an empty folder.
    """
    if not Path(source).expanduser().is_dir():
        raise UserError(f"{source}: no such folder; give a run directory or one of its checkpoints")
    model, target = Path(resolve_model(source)).resolve(), Path(out).expanduser().absolute()
    if target.resolve().is_relative_to(model):
        raise UserError(f"{out}: lies inside the model {model}; give a folder elsewhere")
    aside = target.with_name(f".{target.name}.tmp")
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise UserError(f"{out}: exists already; give a new or an empty folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(model, aside)
        aside.rename(target)
    except (OSError, shutil.Error) as e:
        raise UserError(f"{out}: cannot be written ({getattr(e, 'strerror', None) or 'copy failed'})") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Path(out)


def checkpoint_of(model: Path) -> Checkpoint:
    """The checkpoint that a model folder of `resolve_model` lies in."""
    return Checkpoint(model.parents[2])


def _model_folder(path: Path) -> Path:
    if (path / "config.json").is_file():
        return path
    checkpoint = Checkpoint(path)
    if (path / CHECKPOINTS).is_dir() or is_run(path):
        newest = RunDirectory(path).latest_checkpoint()
        if newest is None:
            raise UserError(f"{path}: holds no whole checkpoint yet; see run.checkpoint_every")
        checkpoint = newest
    elif not checkpoint.policies:
        raise UserError(f"{path}: holds no model (config.json), checkpoint (policies/) or run (checkpoints/)")
    model = checkpoint.model(SHARED)
    if not (model / "config.json").is_file():
        raise UserError(f"{checkpoint.path}: holds no model of the policy {SHARED}; give another checkpoint")
    return model


def _runs_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.glob("*") if is_run(p)) if folder.is_dir() else []
