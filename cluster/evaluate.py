"""`azero eval`: one engine in this process, no Ray."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from actors.engines import build_engine
from azero.config import Protocol, load_config
from azero.domains import get_domain
from azero.evaluation import evaluate, table
from azero.models import resolve_model_path
from cluster.export import resolve_model
from cluster.resources import share_threads
from cluster.train import require_chat_template


def evaluate_model(model: str, data: str, config_path: str, overrides: Sequence[str], out: Path | None) -> int:
    """Print the table, write JSON where asked. Raises UserError.

    A run directory, or a checkpoint in one, is evaluated with the run's own config, anything else with `config_path` or
    the base config.
    """
    config = load_config(config_path or _own_config(Path(model)) or "base", overrides)
    path = resolve_model_path(resolve_model(model))
    if config.eval.protocol is Protocol.chat:
        require_chat_template(path)
    domain = get_domain(config.task.domain)
    source = data or config.eval.data
    items = domain.evaluation_set(source)
    config.rollout.max_staleness = 0  # nothing learns beside it: it may use every core
    share_threads(config, local=True)
    engine = build_engine(config.model, config.rollout, seed=config.run.seed, path=path)
    try:
        result = evaluate(
            engine,
            domain,
            items,
            chat=config.eval.protocol is Protocol.chat,
            samples=config.eval.samples,
            temperature=config.rollout.temperature,
            max_new_tokens=config.eval.max_new_tokens,
            stop=tuple(config.eval.stop),
            data=source,
        )
    finally:
        engine.close()
    Console().print(table(None, result))
    if out is not None:
        out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def _own_config(model: Path) -> Path | None:
    """config.yaml of the run directory that this is, or that this checkpoint is in."""
    return next((f for f in (model / "config.yaml", model / "../../config.yaml") if f.is_file()), None)
