"""What a checkpoint is made of, and what makes it whole. Free of torch: whoever looks for one stays light.

checkpoints/step_000120/policies/shared/model/                   transformers layout, fp32, with the tokenizer
checkpoints/step_000120/policies/shared/optimizer.safetensors    exp_avg/<name>, exp_avg_sq/<name>, step/<name>
checkpoints/step_000120/trainer.json                             step; of each policy its optimizer's steps
checkpoints/step_000120/driver.json                              what the driver gave, unread
checkpoints/step_000120/manifest.json                            bytes and SHA-256 of every other file
checkpoints/latest                                               "step_000120"
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from azero.errors import UserError

MANIFEST, TRAINER, DRIVER, POLICIES, LATEST = "manifest.json", "trainer.json", "driver.json", "policies", "latest"
PREFIX = "step_"


@dataclass(frozen=True, slots=True, order=True)
class Checkpoint:
    """Names the places of a checkpoint's parts, whether they exist or not."""

    path: Path

    @classmethod
    def of_step(cls, folder: Path, step: int) -> Checkpoint:
        return cls(folder / f"{PREFIX}{step:06d}")

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def step(self) -> int:
        return int(self.name.removeprefix(PREFIX))

    @property
    def trainer(self) -> Path:
        return self.path / TRAINER

    @property
    def driver(self) -> Path:
        return self.path / DRIVER

    @property
    def manifest(self) -> Path:
        return self.path / MANIFEST

    @property
    def policies(self) -> list[str]:
        """Names of the policies that it holds."""
        found = (p.name for p in (self.path / POLICIES).glob("*"))
        return sorted(n for n in found if self.model(n).is_dir() or self.adapter(n).is_dir())

    def model(self, policy: str) -> Path:
        return self.path / POLICIES / policy / "model"

    def adapter(self, policy: str) -> Path:
        return self.path / POLICIES / policy / "adapter"

    def optimizer(self, policy: str) -> Path:
        return self.path / POLICIES / policy / "optimizer.safetensors"

    def bytes(self) -> int:
        return sum(f.stat().st_size for f in self.path.rglob("*") if f.is_file())

    def write_manifest(self) -> None:
        """List every file with its size and SHA-256."""
        paths = [p for p in sorted(self.path.rglob("*")) if p.is_file()]
        files = {str(p.relative_to(self.path)): _fingerprint(p) for p in paths}
        self.manifest.write_text(json.dumps({"files": files}, indent=1))

    def damage(self) -> str:
        """Return what is wrong with it, in a few words; empty where every file is as it was written."""
        try:
            files = json.loads(self.manifest.read_text())["files"]
            for name, expected in files.items():
                if not (self.path / name).is_file():
                    return f"{name} is missing"
                if _fingerprint(self.path / name) != expected:
                    return f"{name} is not as it was written"
            if "state.json" in files:
                return "it is of a former version of azero, with another layout"
            has_weights = any(Path(n).match(f"{POLICIES}/*/*/*.safetensors") for n in files)
            if not ({TRAINER, DRIVER} <= files.keys() and has_weights):
                return f"{MANIFEST} does not list {TRAINER}, {DRIVER} and a policy's weights"
        except FileNotFoundError:
            return f"{MANIFEST} is missing"
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
            return f"{MANIFEST} is not readable ({type(e).__name__})"
        return ""


def checkpoints_in(folder: Path) -> list[Checkpoint]:
    """All that are there, whole or not, the newest last."""
    return sorted(Checkpoint(p) for p in folder.glob(f"{PREFIX}*") if p.is_dir())


def newest_whole(folder: Path, report: Callable[[str], None]) -> Checkpoint | None:
    """The checkpoint that `latest` names, or the newest before it that is whole; None where there is none at all.

    Each damaged one is reported in one line. Raises UserError where there are checkpoints, and all are damaged.
    """
    found = checkpoints_in(folder)
    try:
        named = (folder / LATEST).read_text().strip()
    except (OSError, ValueError):
        named = ""
    if found and named not in {c.name for c in found}:
        report(f"{folder / LATEST}: names no checkpoint; taking the newest")
        named = found[-1].name
    candidates = [c for c in found if c.name <= named]
    for checkpoint in reversed(candidates):
        wrong = checkpoint.damage()
        if not wrong:
            return checkpoint
        report(f"checkpoint {checkpoint.path}: damaged ({wrong}); trying the one before")
    if candidates:
        raise UserError(
            f"{folder}: none of its {len(candidates)} checkpoints is whole; remove the folder to begin anew"
        )
    return None


def _fingerprint(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
