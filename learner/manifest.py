"""What makes a checkpoint whole: a manifest of its files' hashes. Free of torch: whoever looks for one stays light."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from azero.errors import UserError

MANIFEST = "manifest.json"


def write_manifest(folder: Path) -> None:
    """List every file of the folder with its size and SHA-256."""
    files = {str(p.relative_to(folder)): _fingerprint(p) for p in sorted(folder.rglob("*")) if p.is_file()}
    (folder / MANIFEST).write_text(json.dumps({"files": files}, indent=1))


def damage(checkpoint: Path) -> str:
    """What is wrong with a checkpoint, in a few words; empty where every file is as it was written."""
    try:
        files = json.loads((checkpoint / MANIFEST).read_text())["files"]
        for name, expected in files.items():
            if not (checkpoint / name).is_file():
                return f"{name} is missing"
            if _fingerprint(checkpoint / name) != expected:
                return f"{name} is not as it was written"
        if "state.json" not in files or not any(n.startswith("model/") and n.endswith(".safetensors") for n in files):
            return f"{MANIFEST} does not list state.json and the model's weights"
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        return f"{MANIFEST} is not readable ({type(e).__name__})"
    return ""


def newest_whole(folder: Path, report: Callable[[str], None]) -> Path | None:
    """The checkpoint that `latest` names, or the newest before it that is whole; None where there is none at all.

    Each damaged one is reported in one line. Raises UserError where there are checkpoints, and all are damaged.
    """
    found = sorted(p for p in folder.glob("step_*") if p.is_dir())
    try:
        named = (folder / "latest").read_text().strip()
    except (OSError, ValueError):
        named = ""
    if found and named not in {p.name for p in found}:
        report(f"{folder / 'latest'}: names no checkpoint; taking the newest")
        named = found[-1].name
    candidates = [p for p in found if p.name <= named]
    for checkpoint in reversed(candidates):
        wrong = damage(checkpoint)
        if not wrong:
            return checkpoint
        report(f"checkpoint {checkpoint}: damaged ({wrong}); trying the one before")
    if candidates:
        raise UserError(
            f"{folder}: none of its {len(candidates)} checkpoints is whole; remove the folder to begin anew"
        )
    return None


def _fingerprint(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
