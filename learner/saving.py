"""Writing and reading checkpoints: whole or absent. Written aside, synced, renamed, with a manifest. No pickle."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
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
from azero.models.adapters import is_adapter, read_adapter, write_adapter
from azero.models.weights import owned_state
from azero.policies import Policy
from learner.checkpoint import LATEST, Checkpoint, checkpoints_in


@dataclass(frozen=True, slots=True, kw_only=True)
class StateCopy:
    """Holds a checkpoint in memory: whole tensors by policy and name, whatever number of workers had them."""

    weights: dict[str, dict[str, np.ndarray]]
    moments: dict[str, dict[str, np.ndarray]]
    trainer: dict[str, Any]
    driver: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """Holds what a policy's folder holds beside its weights."""

    policy: Policy
    model: Any  # gives the architecture alone
    tokenizer: Any
    generation: bytes | None = None  # its generation_config.json, written as it is


def save_checkpoint(folder: Path, state: StateCopy, files: Mapping[str, ModelFiles], capacity: int) -> Checkpoint:
    """Write checkpoints/step_<step>, point `latest` at it, drop all but the newest `capacity` and those of later steps.

    Later ones are of a future that a resume from an older checkpoint has given up. `files` is by policy. Raises
    OSError, as for a full disk, and leaves the checkpoints that were there as they were.
    """
    final = Checkpoint.of_step(folder, state.trainer["step"])
    aside, pointer = Checkpoint(folder / f".{final.name}.tmp"), folder / ".latest.tmp"
    try:
        shutil.rmtree(aside.path, ignore_errors=True)
        aside.path.mkdir(parents=True)
        _write(aside, state, files)
        pointer.write_text(final.name)
        _sync(pointer)
    except Exception as e:  # safetensors has an error of its own for a failed write
        shutil.rmtree(aside.path, ignore_errors=True)
        pointer.unlink(missing_ok=True)
        raise e if isinstance(e, OSError) else OSError(str(e)) from e
    shutil.rmtree(final.path, ignore_errors=True)
    os.rename(aside.path, final.path)
    os.replace(pointer, folder / LATEST)
    _sync(folder)
    found = checkpoints_in(folder)
    later, earlier = [c for c in found if c > final], [c for c in found if c < final]
    for old in [*earlier[: max(0, len(earlier) - capacity + 1)], *later]:
        shutil.rmtree(old.path, ignore_errors=True)
    for torn in folder.glob(".step_*.tmp"):
        shutil.rmtree(torn, ignore_errors=True)
    return final


def require_writable(files: ModelFiles) -> None:
    """Write all of a checkpoint's model folder but the weights, and throw it away. Raises UserError where that fails.

    What fails here would fail at every checkpoint, and a run would end with none.
    """
    model = files.model
    try:
        with tempfile.TemporaryDirectory() as folder:
            _write_policy(Checkpoint(Path(folder)), {}, files)
        if files.policy.adapter:
            return
        alone = {n: t for n, t in owned_state(model).items() if not isinstance(t, DTensor)}  # shares are joined anew
        remove_tied_weights_from_state_dict(alone, model)  # raises where tensors share memory unknown to transformers
    except Exception as e:  # each model and tokenizer has errors of its own
        raise UserError(
            f"model.path={model.name_or_path}: no checkpoint of {type(model).__name__} can be written "
            f"({type(e).__name__}: {first_line(e)}); mend the model's files, or choose another model"
        ) from e


def _write_policy(checkpoint: Checkpoint, weights: dict[str, Tensor], files: ModelFiles) -> None:
    policy = files.policy
    if policy.adapter:
        folder = checkpoint.adapter(policy.name)
        write_adapter(folder, weights, policy.adapter, policy.model)
        files.tokenizer.save_pretrained(folder)
    else:
        write_model(checkpoint.model(policy.name), weights, files)


def write_model(folder: Path, weights: dict[str, Tensor], files: ModelFiles) -> None:
    """Write a plain model folder."""
    given = files.model.generation_config
    files.model.generation_config = (
        GenerationConfig()
    )  # transformers refuses to write one with, say, an idle temperature
    try:
        files.model.save_pretrained(folder, state_dict=weights)
    finally:
        files.model.generation_config = given
    if files.generation is not None:
        (folder / GENERATION_CONFIG_NAME).write_bytes(files.generation)
    else:
        given.to_json_file(folder / GENERATION_CONFIG_NAME)
    files.tokenizer.save_pretrained(folder)


def _write(aside: Checkpoint, state: StateCopy, files: Mapping[str, ModelFiles]) -> None:
    for policy, weights in state.weights.items():
        _write_policy(aside, {k: torch.from_numpy(v) for k, v in weights.items()}, files[policy])
        moments = {k: np.asarray(v, order="C") for k, v in state.moments[policy].items()}
        save_file(moments, aside.optimizer(policy))
    aside.trainer.write_text(json.dumps(state.trainer))
    aside.driver.write_text(json.dumps(state.driver))
    aside.write_manifest()
    for path in sorted(aside.path.rglob("*"), reverse=True):
        _sync(path)
    _sync(aside.path)


Tensors = dict[str, dict[str, Tensor]]  # by policy and name


def load_checkpoint(checkpoint: Checkpoint) -> tuple[Tensors, Tensors, dict[str, Any], dict[str, Any]]:
    """(adapters, moments, trainer's state, driver's): all but weights in plain model folders. Raises UserError."""
    try:
        folders = {policy: checkpoint.adapter(policy) for policy in checkpoint.policies}
        adapters = {policy: read_adapter(folder) for policy, folder in folders.items() if is_adapter(folder)}
        moments = {policy: load_file(checkpoint.optimizer(policy)) for policy in checkpoint.policies}
        return adapters, moments, json.loads(checkpoint.trainer.read_text()), json.loads(checkpoint.driver.read_text())
    except (OSError, ValueError, KeyError) as e:
        raise UserError(
            f"checkpoint {checkpoint.path}: not readable ({e}); remove it to resume from the one before"
        ) from None


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
