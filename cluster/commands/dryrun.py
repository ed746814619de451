"""`azero train --dry-run`: the resolved config, what it needs, whether it could start here, and the next command."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from rich.console import Console

from azero.config import Config, to_yaml
from azero.domains import get_domain
from azero.errors import UserError
from azero.policies import policies_of
from azero.verbatim import VerbatimTable
from cluster.records.rundir import RunDirectory
from cluster.run.preparation import prepare, unchecked
from cluster.supervise.memory import named_model
from cluster.supervise.room import needs, room_for


def dry_run(config: Config, path: str, overrides: Sequence[str], resume: bool, console: Console) -> int:
    """Print; start and load nothing. 0 if `azero train` could start here, else 1 and what to change.

    Raises UserError if the model, the domain or the cluster is missing.
    """
    get_domain(config.task.domain, config.task.options)
    print(to_yaml(config))
    table = VerbatimTable("needs", "", title=f"{config.run.name}: {config.run.steps} steps")
    policies = policies_of(config, named_model)
    for what, amount in needs(config, policies):
        table.add_row(what, amount)
    room = room_for(config.cluster).answer(config)
    trouble = ""
    try:
        RunDirectory(config.run.dir).require_fit(resume)
        prepare(config, dry=True)
    except UserError as e:
        trouble = str(e)
    table.add_row("room", f"{'yes' if room.whole else 'at first' if room.starts else 'no'}: {room.text}")
    table.add_row("other checks", f"no: {trouble}" if trouble else "passed")
    for what in unchecked(config):
        table.add_row("not checked", what)
    console.print(table)
    if trouble or not room.starts:
        console.print("it cannot start here: change what stands behind `no`", highlight=False)
        return 1
    given = shlex.join(["azero", "train", path, *overrides, *(["--resume"] if resume else [])])
    console.print("next:", given, highlight=False)
    return 0
