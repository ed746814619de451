"""Checkpoints: whole or absent. Written aside, synced, renamed, with a manifest of hashes. No pickle.

checkpoints/step_000120/model/                  transformers layout, fp32, with the tokenizer
checkpoints/step_000120/optimizer.safetensors   exp_avg/<name>, exp_avg_sq/<name>, step/<name>
checkpoints/step_000120/state.json              step, steps_done, credit (azero/credit), guards, driver (problem buffer)
checkpoints/step_000120/manifest.json           bytes and SHA-256 of every other file
checkpoints/latest                              "step_000120"
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import GenerationConfig
from transformers.modeling_utils import remove_tied_weights_from_state_dict
from transformers.utils import GENERATION_CONFIG_NAME

from azero.errors import UserError, first_line
from azero.models.weights import owned_state
from learner.manifest import write_manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What a checkpoint holds, in memory: whole tensors, whatever number of workers had them."""

    weights: dict[str, np.ndarray]
    moments: dict[str, np.ndarray]
    state: dict[str, Any]


def save_checkpoint(
    folder: Path, kept: Kept, model: Any, tokenizer: Any, keep: int, generation: bytes | None = None
) -> Path:
    """Write checkpoints/step_<step>, point `latest` at it, drop all but the newest `keep` and those of later steps.

    Later ones are of a future that a resume from an older checkpoint has given up.

    `model` gives the architecture alone; `generation` is its generation_config.json, written as it is. Raises OSError,
    as for a full disk, and leaves the checkpoints that were there as they were.
    """
    name = f"step_{kept.state['step']:06d}"
    final, aside, pointer = folder / name, folder / f".{name}.tmp", folder / ".latest.tmp"
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        _write(aside, kept, model, tokenizer, generation)
        pointer.write_text(name)
        _sync(pointer)
    except Exception as e:  # safetensors has an error of its own for a failed write
        shutil.rmtree(aside, ignore_errors=True)
        pointer.unlink(missing_ok=True)
        raise e if isinstance(e, OSError) else OSError(str(e)) from e
    shutil.rmtree(final, ignore_errors=True)
    os.rename(aside, final)
    os.replace(pointer, folder / "latest")
    _sync(folder)
    others = sorted(p for p in folder.glob("step_*") if p.name < name)
    for old in [*others[: max(0, len(others) - keep + 1)], *(p for p in folder.glob("step_*") if p.name > name)]:
        shutil.rmtree(old, ignore_errors=True)
    for torn in folder.glob(".step_*.tmp"):
        shutil.rmtree(torn, ignore_errors=True)
    return final


def require_writable(model: Any, tokenizer: Any, generation: bytes | None) -> None:
    """Write all of a checkpoint's model folder but the weights, and throw it away. Raises UserError where that fails.

    What fails here would fail at every checkpoint, and a run would end with none.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            _write_model(Path(folder), {}, model, tokenizer, generation)
        alone = {n: t for n, t in owned_state(model).items() if not isinstance(t, DTensor)}  # shares are joined anew
        remove_tied_weights_from_state_dict(alone, model)  # raises where tensors share memory unknown to transformers
    except Exception as e:  # each model and tokenizer has errors of its own
        raise UserError(
            f"model.path={model.name_or_path}: no checkpoint of {type(model).__name__} can be written "
            f"({type(e).__name__}: {first_line(e)}); mend the model's files, or choose another model"
        ) from e


def _write_model(
    folder: Path, weights: dict[str, Tensor], model: Any, tokenizer: Any, generation: bytes | None
) -> None:
    given = model.generation_config
    model.generation_config = GenerationConfig()  # transformers refuses to write one with, say, an idle temperature
    try:
        model.save_pretrained(folder, state_dict=weights)
    finally:
        model.generation_config = given
    if generation is not None:
        (folder / GENERATION_CONFIG_NAME).write_bytes(generation)
    else:
        given.to_json_file(folder / GENERATION_CONFIG_NAME)
    tokenizer.save_pretrained(folder)


def _write(folder: Path, kept: Kept, model: Any, tokenizer: Any, generation: bytes | None) -> None:
    weights = {k: torch.from_numpy(v) for k, v in kept.weights.items()}
    _write_model(folder / "model", weights, model, tokenizer, generation)
    save_file({k: np.asarray(v, order="C") for k, v in kept.moments.items()}, folder / "optimizer.safetensors")
    (folder / "state.json").write_text(json.dumps(kept.state))
    write_manifest(folder)
    for path in sorted(folder.rglob("*"), reverse=True):
        _sync(path)
    _sync(folder)


def load_checkpoint(checkpoint: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(moments, state): all but the weights, which are a plain model folder. Raises UserError."""
    try:
        return load_file(checkpoint / "optimizer.safetensors"), json.loads((checkpoint / "state.json").read_text())
    except (OSError, ValueError, KeyError) as e:
        raise UserError(
            f"checkpoint {checkpoint}: not readable ({e}); remove it to resume from the one before"
        ) from None


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
