"""`azero train --dry-run`: the resolved config, what it needs, whether it could start here, and the next command."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from azero.config import Config, to_yaml
from azero.domains import get_domain
from azero.errors import UserError
from azero.models.gguf import is_gguf
from azero.models.loading import resolve_model_path
from azero.verbatim import VerbatimTable
from cluster.commands.train import prepare, unchecked
from cluster.records.rundir import RunDirectory
from cluster.supervise.placement import nodes_of, require_room
from cluster.supervise.resources import plan


def dry_run(config: Config, path: str, overrides: Sequence[str], resume: bool, console: Console) -> int:
    """Print; start and load nothing. 0 where `azero train` could start here, else 1 and what to change.

    Raises UserError where the model or the domain is missing, or a cluster.
    """
    get_domain(config.task.domain)
    print(to_yaml(config))
    table = VerbatimTable("needs", "", title=f"{config.run.name}: {config.run.steps} steps")
    path_of_model = config.model.path if is_gguf(config.model.path) else resolve_model_path(config.model.path)
    for what, amount in plan(config, path_of_model).lines():
        table.add_row(what, amount)
    has_room, said = room(config)
    trouble = troubles(config, resume)
    table.add_row("room", said)
    table.add_row("other checks", f"no: {trouble}" if trouble else "passed")
    for what in unchecked(config):
        table.add_row("not checked", what)
    console.print(table)
    if trouble or not has_room:
        console.print("it cannot start here: change what stands behind `no`", highlight=False)
        return 1
    given = shlex.join(["azero", "train", path, *overrides, *(["--resume"] if resume else [])])
    console.print("next:", given, highlight=False)
    return 0


def troubles(config: Config, resume: bool) -> str:
    """The first thing for which `azero train` would refuse the run; empty where nothing is known."""
    try:
        RunDirectory(Path(config.run.dir)).require_fit(resume)
        prepare(config, dry=True)
    except UserError as e:
        return str(e)
    return ""


def room(config: Config) -> tuple[bool, str]:
    """Whether this machine, or the cluster that is named, can hold the run; and the same in words."""
    nodes, where = nodes_of(config.cluster)
    try:
        incomplete = require_room(config, nodes, where)
    except UserError as e:
        return False, f"no: {e}"
    return True, f"at first: {incomplete}" if incomplete else f"yes: {where} can hold all of it now"
