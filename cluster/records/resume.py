"""What makes a run the same run: what a resume may change, and what it may not."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from azero.errors import UserError
from azero.types import EvalItem

# With another value of one of these, figures before and after the resume are not of one thing.
FIXED = (
    *("model.path", "model.dtype", "task.domain", "task.options", "task.protocol", "run.seed"),
    *("eval.data", "eval.protocol", "eval.max_new_tokens", "eval.stop"),
)
FIXED_OF_POLICIES = re.compile(r"policies\.[^.]+\.(roles|model|trains|adapter\..*)")
SAMPLED, SAMPLE_BYTES = 256, 2**16  # places in a file of weights that are looked at, and how much of each


def settings(text: str, where: str) -> dict[str, Any]:
    """Dotted key -> value of a config.yaml's text. Raises UserError where it is no mapping of sections."""
    try:
        content = OmegaConf.to_container(OmegaConf.create(text))
    except (YAMLError, OmegaConfBaseException, ValueError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{where}: cannot be read as keys and values; restore it")
    return flat(content, whole=("task.options",))


def flat(content: Mapping[Any, Any], prefix: str = "", whole: Collection[str] = ()) -> dict[str, Any]:
    """Dotted key -> value of a nested mapping; `whole`: keys whose mappings are values."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        own = f"{prefix}{key}"
        is_section = isinstance(value, Mapping) and own not in whole
        found |= flat(value, f"{own}.", whole) if is_section else {own: value}
    return found


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Key -> [value before, value now] of what differs; None for a key that one of them has not."""
    return {key: [before.get(key), now.get(key)] for key in {**before, **now} if before.get(key) != now.get(key)}


def fingerprints(models: Mapping[str, str], items: Sequence[EvalItem]) -> dict[str, str | None]:
    """Return a digest of what each key names, which may move but not become something else; None if it is not here.

    `models`: by key, such as model.path.
    """
    rows = [(i.problem.statement, i.problem.answer, dict(i.problem.payload), i.label, i.operation) for i in items]
    return {
        **{key: _of_weights(Path(path)) for key, path in models.items()},
        "eval.data": hashlib.sha256(repr(rows).encode()).hexdigest(),
    }


def _of_weights(folder: Path) -> str | None:
    """SHA-256 of the sizes of a model folder's weights and of samples spread over each file: 16 MiB of it at most."""
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{size} ".encode())
        with path.open("rb") as file:
            for start in range(0, size, max(SAMPLE_BYTES, size // SAMPLED)):
                file.seek(start)
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest() if files else None


def require_same_run(
    folder: Path,
    changed: Mapping[str, Sequence[Any]],
    before: Mapping[str, str | None],
    now: Mapping[str, str | None],
) -> None:
    """Raises UserError where a resume would make it another run. `before`, `now`: fingerprints, where known."""
    for key in (*FIXED, *filter(FIXED_OF_POLICIES.fullmatch, {**changed, **now})):
        was, is_now = changed.get(key, (None, None))
        are_known = before.get(key) and now.get(key)
        if before[key] == now[key] if are_known else key not in changed:
            continue
        how = f"{key}={is_now}, and it began with {key}={was}" if key in changed else f"{key} with other content"
        raise UserError(
            f"run.dir={folder}: cannot go on with {how}, which makes it another run; leave it as it was, or begin a "
            "new one in another run.dir"
        )
