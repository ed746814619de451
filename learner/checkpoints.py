"""Checkpoints: whole or absent. Written aside, synced, renamed; `latest` names the newest whole one. No pickle.

checkpoints/step_000120/model/                  transformers layout, fp32, with the tokenizer
checkpoints/step_000120/optimizer.safetensors   exp_avg/<name>, exp_avg_sq/<name>, step/<name>
checkpoints/step_000120/state.json              step, credit (azero.credit), driver (problem buffer)
checkpoints/latest                              "step_000120"
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from azero.errors import UserError
from learner.policy import PolicyOptimizer


def save_checkpoint(
    folder: Path, step: int, policy: PolicyOptimizer, tokenizer: Any, state: dict[str, Any], keep: int
) -> Path:
    """Write checkpoints/step_<step>, then point `latest` at it and drop all but the newest `keep`."""
    folder.mkdir(parents=True, exist_ok=True)
    final, aside = folder / f"step_{step:06d}", folder / f".step_{step:06d}.tmp"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    policy.model.save_pretrained(aside / "model")  # type: ignore[operator]
    tokenizer.save_pretrained(aside / "model")
    save_file({k: v.contiguous().cpu() for k, v in policy.optimizer_state()}, aside / "optimizer.safetensors")
    (aside / "state.json").write_text(json.dumps({"step": step, "steps_done": policy.steps_done, **state}))
    for path in sorted(aside.rglob("*"), reverse=True):
        _sync(path)
    _sync(aside)
    shutil.rmtree(final, ignore_errors=True)
    os.rename(aside, final)
    pointer = folder / ".latest.tmp"
    pointer.write_text(final.name)
    _sync(pointer)
    os.replace(pointer, folder / "latest")
    _sync(folder)
    for old in sorted(folder.glob("step_*"))[:-keep]:
        shutil.rmtree(old)
    return final


def load_checkpoint(checkpoint: Path, policy: PolicyOptimizer) -> dict[str, Any]:
    """Restore the optimizer of a policy built from checkpoint/model; returns state.json. Raises UserError."""
    try:
        policy.load_optimizer_state(load_file(checkpoint / "optimizer.safetensors"))
        state = json.loads((checkpoint / "state.json").read_text())
    except (OSError, ValueError, KeyError) as e:
        raise UserError(
            f"checkpoint {checkpoint}: not readable ({e}); remove it to resume from the one before"
        ) from None
    policy.steps_done = state["steps_done"]
    return state


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
