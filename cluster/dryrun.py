"""`azero train --dry-run`: the resolved config, the arithmetic of its resources, and the next command."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from azero.config import Config, to_yaml
from azero.domains import get_domain
from azero.errors import UserError
from azero.gguf import is_gguf
from azero.models import resolve_model_path
from cluster.placement import nodes_of, require_room
from cluster.resources import plan


def dry_run(config: Config, path: str, overrides: Sequence[str], console: Console) -> None:
    """Print; start and load nothing. Raises UserError where the model or the domain is missing, or a cluster."""
    get_domain(config.task.domain)
    print(to_yaml(config))
    table = Table("needs", "", title=f"{config.run.name}: {config.run.steps} steps", title_justify="left")
    path_of_model = config.model.path if is_gguf(config.model.path) else resolve_model_path(config.model.path)
    for what, amount in plan(config, path_of_model).lines():
        table.add_row(what, amount)
    table.add_row("room", room(config))
    console.print(table)
    console.print("next:", shlex.join(["azero", "train", path, *overrides]), markup=False, highlight=False)


def room(config: Config) -> str:
    """Whether this machine, or the cluster that RAY_ADDRESS or cluster.address names, can hold the run."""
    nodes, where = nodes_of(config.cluster)
    try:
        incomplete = require_room(config, nodes, where)
    except UserError as e:
        return f"no: {e}"
    return f"at first: {incomplete}" if incomplete else f"yes: {where} can hold all of it now"
