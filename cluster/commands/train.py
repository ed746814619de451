"""`azero train`: check, open the run directory, find room, build the parts, and let the loop run.

With --dry-run: the resolved config, what it needs, whether it could start here, and the next command.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from azero.config import Config, to_yaml
from azero.credit.guards import Guards
from azero.domains import get_domain
from azero.errors import RunFailed, UserError
from azero.evaluation.solver import table
from azero.policies import policies_of
from azero.verbatim import VerbatimTable
from cluster.commands.stopping import INTERRUPTED, StopSignals
from cluster.records.resume import fingerprints
from cluster.records.rundir import EVALS, METRICS, RunDirectory, provenance, read_jsonl, warn
from cluster.records.trace import NO_TRACE, Trace
from cluster.run.build import Prepared, build_fleet, build_learner, newest_checkpoint, prepare, start_both, unchecked
from cluster.run.loop import TrainingLoop
from cluster.run.progress import Progress
from cluster.run.recorder import Recorder
from cluster.run.sinks import open_sinks
from cluster.supervise.failures import in_one_line
from cluster.supervise.learning import LearnerLost
from cluster.supervise.memory import named_model
from cluster.supervise.room import Placement, needs, room_for, room_of_cluster
from cluster.supervise.runtime import cluster_address, ray_session
from learner.mirror import Mirror, require_unused


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """How a run ended. `before` and `after`: its first and last evaluation, as evals.jsonl has them."""

    status: Literal["done", "stopped"]  # stopped: `resume` goes on
    path: Path  # of the run directory
    steps: int  # learner updates done
    before: Mapping[str, Any] | None = field(repr=False)  # None if there is one evaluation, or none
    after: Mapping[str, Any] | None = field(repr=False)


def train(config: Config, resume: bool, console: Console) -> TrainingResult:
    """Run to the end, or until it is stopped. Raises UserError and RunFailed."""
    ready = prepare(config)
    run = RunDirectory(Path(config.run.dir))
    if config.run.mirror and resume:
        run.path.mkdir(parents=True, exist_ok=True)  # on a new machine the copies are all there is
    elif config.run.mirror:
        require_unused(Mirror(config.run.mirror), warn)
    origin = {**provenance(), "fingerprints": fingerprints(ready.models, ready.items)}
    find = partial(newest_checkpoint, config, run, warn)
    with (
        run.open(to_yaml(config), origin, resume=resume, newest_checkpoint=find),
        in_one_line(run.logs.absolute() / "driver.log"),
        ray_session(config.cluster),
    ):
        if incomplete := _missing_room(config):
            console.print(incomplete)
        with StopSignals(only_ask=False) as stop:
            try:
                done = _run_loop(ready, run, stop, console)
            except LearnerLost as e:
                raise RunFailed(f"{e}; see {run.logs}") from None
            except KeyboardInterrupt:
                if stop.only_ask:  # it was the second Ctrl-C
                    raise
                done = False
        evals = read_jsonl(run.path / EVALS)
        return TrainingResult(
            status="done" if done else "stopped",
            path=run.path,
            steps=max(0, run.records.last_step(METRICS)),
            before=evals[0] if len(evals) > 1 else None,
            after=evals[-1] if evals else None,
        )


def _missing_room(config: Config) -> str:
    """Say what has to join the cluster, or nothing. Raises UserError if this machine is all there will be."""
    answer = room_of_cluster().answer(config)
    if answer.starts:
        return "" if answer.whole else answer.text
    if not cluster_address(config.cluster):
        raise UserError(answer.text)
    return f"{answer.text}; waiting for nodes, up to {config.cluster.start_timeout_s:g} s (cluster.start_timeout_s)"


def _run_loop(ready: Prepared, run: RunDirectory, stop: StopSignals, console: Console) -> bool:
    """Whether all steps are done. Starts everything; from then on signals only ask the loop to stop."""
    config = ready.config
    placement = Placement(config)
    placement.reserve()
    progress = Progress(config.run.steps, config.cluster.progress)
    trace = Trace(run.path / "trace.json") if config.run.trace else NO_TRACE
    learner = build_learner(ready, run, placement, progress.warning)
    fleet = build_fleet(ready, run, placement, progress.warning, trace)
    with console.status("starting the learner and the rollout actors"):
        started = start_both(config, learner, fleet, run.checkpoint)
    stop.only_ask = True  # what is cut off now is made again by the loop alone
    # A run that was stopped before its first step has no checkpoint, and may have its evaluation of the start model.
    goes_on = run.checkpoint or run.records.last_step(METRICS) == 0
    run.records.truncate_after(started.publication.version.step if goes_on else -1)
    recorder = Recorder(run, progress, config.run.samples_text_share, open_sinks(run, config), ready.extra)
    recorder.start()
    try:
        return TrainingLoop(
            config,
            fleet=fleet,
            learner=learner,
            started=started,
            credit=ready.credit,
            guards=Guards(config.guard, ready.credit.has_proposals),
            buffer=ready.buffer,
            source=ready.source,
            items=ready.items,
            recorder=recorder,
            should_stop=lambda: stop.asked,
            trace=trace,
        ).run()
    finally:
        recorder.close()


def show_outcome(result: TrainingResult, console: Console) -> int:
    """Print the last evaluation beside the first, and how to go on; the exit status."""
    if result.after is not None:
        console.print(table(result.before, result.after))
    if result.status == "done":
        console.print(f"done: {result.steps} steps in {result.path}; next: azero export {result.path} OUT_DIR")
        return 0
    when = "with a checkpoint" if RunDirectory(result.path).has_checkpoint() else "before its first step"
    console.print(f"stopped {when}; go on with: azero train {result.path}/config.yaml --resume")
    return INTERRUPTED


def dry_run(config: Config, path: str, overrides: Sequence[str], resume: bool, console: Console) -> int:
    """Print; start and load nothing. 0 if `azero train` could start here, else 1 and what to change.

    Raises UserError if the model, the domain or the cluster is missing.
    """
    get_domain(config.task.domain, config.task.options)
    print(to_yaml(config))
    rows = VerbatimTable("needs", "", title=f"{config.run.name}: {config.run.steps} steps")
    policies = policies_of(config, named_model)
    for what, amount in needs(config, policies):
        rows.add_row(what, amount)
    room = room_for(config.cluster).answer(config)
    trouble = ""
    try:
        RunDirectory(config.run.dir).require_fit(resume)
        prepare(config, dry=True)
    except UserError as e:
        trouble = str(e)
    rows.add_row("room", f"{'yes' if room.whole else 'at first' if room.starts else 'no'}: {room.text}")
    rows.add_row("other checks", f"no: {trouble}" if trouble else "passed")
    for what in unchecked(config):
        rows.add_row("not checked", what)
    console.print(rows)
    if trouble or not room.starts:
        console.print("it cannot start here: change what stands behind `no`", highlight=False)
        return 1
    given = shlex.join(["azero", "train", path, *overrides, *(["--resume"] if resume else [])])
    console.print("next:", given, highlight=False)
    return 0
