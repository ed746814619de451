"""Composition of a training run: everything that a config names is built here and handed to the loop."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
from rich.console import Console

from actors.rollout import RolloutActor
from azero.config import Config, Protocol, Transfer, to_yaml, unlikely
from azero.credit.credit import Credit
from azero.credit.guards import Guards
from azero.domains import get_domain
from azero.domains.base import Domain
from azero.errors import RunFailed, UserError
from azero.evaluation.solver import table
from azero.models.gguf import is_gguf
from azero.models.lfs import require_fetched
from azero.models.loading import require_weights, resolve_model_path
from azero.problems.buffer import ProblemBuffer
from azero.problems.curriculum import SlotSource
from azero.problems.exclusion import evaluation_problems
from azero.types import EvalItem
from cluster.records import machine
from cluster.records.resume import fingerprints
from cluster.records.rundir import METRICS, RunDirectory, provenance, read_jsonl, warn
from cluster.records.trace import Trace
from cluster.run.loop import TrainingLoop
from cluster.run.progress import Progress
from cluster.run.recorder import Recorder
from cluster.run.sinks import open_sinks, require_packages
from cluster.supervise.failures import in_one_line
from cluster.supervise.fleet import Fleet
from cluster.supervise.learning import LearnerHost, LearnerLost
from cluster.supervise.placement import Rooms, alive_nodes, require_room, visible_gpus
from cluster.supervise.resources import ResourcePlan, plan, require, share_threads
from cluster.supervise.runtime import cluster_address, ray_session
from learner.checkpoint import Checkpoint
from learner.learner import Learner
from learner.mirror import Mirror, newest_anywhere, require_unused

HUB_ID, FILE_ENDING = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+"), re.compile(r"\.[a-z]{2,8}")
INTERRUPTED = 130  # exit status of a run that was stopped and can be resumed


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """All that can be checked before a process is started."""

    config: Config
    domain: Domain
    model_path: str
    items: list[EvalItem]
    needs: ResourcePlan
    buffer: ProblemBuffer
    source: SlotSource


def prepare(config: Config, *, dry: bool = False) -> Prepared:
    """Raises UserError for whatever would fail later for a reason that is known now.

    Where `dry`, nothing is converted and nothing is asked of the Hub: `unchecked` says what is left out.
    """
    require_packages(config.run.sinks)
    for line in unlikely(config):
        warn(line)
    domain = get_domain(config.task.domain)
    model_path = config.model.path if dry and is_gguf(config.model.path) else resolve_model_path(config.model.path)
    require_weights(model_path)
    if Protocol.chat in (config.task.protocol, config.eval.protocol):
        require_chat_template(model_path)
    require_fetched(Path(config.eval.data), "eval.data")
    items = [] if dry and is_of_hub(config.eval.data) else domain.evaluation_set(config.eval.data)
    if config.run.mirror:
        Mirror(config.run.mirror)
    evaluation = evaluation_problems(domain, items)
    excluded = evaluation if config.task.exclude_evaluation else ()
    local = not cluster_address(config.cluster)
    share_threads(config, local)
    needs = plan(config, model_path)
    if local:
        require(needs, {"CPU": machine.cores(), "GPU": visible_gpus()}, "this machine")
    rollout = config.rollout
    return Prepared(
        config=config,
        domain=domain,
        model_path=model_path,
        items=items,
        needs=needs,
        buffer=ProblemBuffer(config.task.buffer_size, domain.seed_problems(), excluded),
        source=SlotSource(
            domain, config.task, rollout.problems_per_step, rollout.max_tries, config.run.seed, evaluation
        ),
    )


def unchecked(config: Config) -> list[str]:
    """What of a run only its start will show, in words."""
    named = {"model.path": config.model.path, "eval.data": config.eval.data}
    return [f"{key}={value}, of the Hugging Face Hub" for key, value in named.items() if is_of_hub(value)]


def is_of_hub(name: str) -> bool:
    """Whether it looks like the Hub id of a model or a data set, and is nothing on this disk."""
    path = Path(name)
    return bool(HUB_ID.fullmatch(name)) and not FILE_ENDING.fullmatch(path.suffix) and not path.exists()


def require_chat_template(model_path: str) -> None:
    """Raises UserError for a model folder without a chat template; a Hub id is checked when it is loaded."""
    folder = Path(model_path)
    if not folder.is_dir() or (folder / "chat_template.jinja").exists():
        return
    settings = folder / "tokenizer_config.json"
    if settings.exists() and "chat_template" in json.loads(settings.read_text()):
        return
    raise UserError(f"task.protocol or eval.protocol=chat: the tokenizer of {model_path} has no chat template; use raw")


def probe_texts(domain: Domain) -> list[str]:
    """An easy and a hard seed problem, worked: what the proof of sync is scored on at every step, hence short."""
    seeds = domain.seed_problems()
    return ["".join(f"{domain.solver_prompt(p.text, None)}{p.answer}\n" for p in (seeds[0], seeds[-1]))]


def train(config: Config, resume: bool, console: Console) -> int:
    """Run to the end; 0 when done, INTERRUPTED when stopped with a checkpoint. Raises UserError and RunFailed."""
    ready = prepare(config)
    run = RunDirectory(Path(config.run.dir))
    if config.run.mirror and resume:
        run.path.mkdir(parents=True, exist_ok=True)  # on a new machine the copies are all there is
    elif config.run.mirror:
        require_unused(Mirror(config.run.mirror), warn)
    origin = {**provenance(), "fingerprints": fingerprints(ready.model_path, ready.items)}
    find = partial(_newest_checkpoint, config, run, warn)
    with (
        run.open(to_yaml(config), origin, resume=resume, newest_checkpoint=find),
        in_one_line(run.logs.absolute() / "driver.log"),
        ray_session(config.cluster),
    ):
        if incomplete := _room(config):
            console.print(incomplete)
        with StopSignals(only_ask=False) as stop:
            try:
                done = _train(ready, run, stop, console)
            except LearnerLost as e:
                raise RunFailed(f"{e}; see {run.logs}") from None
            except KeyboardInterrupt:
                if stop.only_ask:  # it was the second Ctrl-C
                    raise
                console.print(f"stopped before its first step; go on with: azero train {run.path}/config.yaml --resume")
                return INTERRUPTED
        before, after = _first_and_last(read_jsonl(run.path / "evals.jsonl"))
        if after is not None:
            console.print(table(before, after))
        if done:
            console.print(f"done: {config.run.steps} steps in {run.path}; next: azero export {run.path} OUT_DIR")
            return 0
        console.print(f"stopped with a checkpoint; go on with: azero train {run.path}/config.yaml --resume")
        return INTERRUPTED


def _room(config: Config) -> str:
    """What has to join the cluster, in words, or nothing. Raises UserError where this machine is all there will be."""
    try:
        return require_room(config, alive_nodes(), "the cluster")
    except UserError as e:
        if not cluster_address(config.cluster):
            raise
        return f"{e}; waiting for nodes, up to {config.cluster.start_timeout_s:g} s (cluster.start_timeout_s)"


def _newest_checkpoint(config: Config, run: RunDirectory, report: Callable[[str], None]) -> Checkpoint | None:
    mirror = Mirror(config.run.mirror) if config.run.mirror else None
    return newest_anywhere(lambda: run.latest_checkpoint(report), mirror, run.checkpoints, report)


def _train(ready: Prepared, run: RunDirectory, stop: StopSignals, console: Console) -> bool:
    config, domain = ready.config, ready.domain
    logs = (run.path / "logs").absolute()

    rooms = Rooms(config)
    sending: dict[str, Any] = {}  # what a learner that sends weights needs as an actor
    make_sender = None
    if config.rollout.transfer is Transfer.nccl:
        from actors.transfer import SENDING

        sending = {"concurrency_groups": {SENDING: 2 * config.rollout.actors}}
        # What actors play on, and one more for an evaluation.
        make_sender = partial(_sender, config.rollout.max_staleness + 2)

    def spawn_learner(lineage: int, checkpoint: Checkpoint | None, copies: Sequence[Any]) -> list[Any]:
        return [
            ray.remote(
                num_cpus=config.learner.cpus_per_worker,
                num_gpus=config.learner.gpus_per_worker,
                scheduling_strategy=rooms.worker(rank),
                **sending,
            )(Learner).remote(
                rank,
                config,
                ready.model_path,
                lineage,
                str(checkpoint.path) if checkpoint else None,
                list(copies),
                probe_texts(domain),
                str(logs / ("learner.log" if rank == 0 else f"learner-{rank}.log")),
                make_sender,
            )
            for rank in range(config.learner.workers)
        ]

    examples = ready.source.examples()

    def spawn(index: int) -> Any:
        return RolloutActor.options(  # type: ignore[attr-defined]
            num_cpus=config.rollout.cpus_per_actor,
            num_gpus=config.rollout.gpus_per_actor,
            scheduling_strategy=rooms.actor(index),
        ).remote(index, config, ready.model_path, str(logs / f"actor-{index}.log"), ready.items, examples)

    progress = Progress(config.run.steps, config.cluster.progress)
    start_timeout_s = config.cluster.start_timeout_s
    learner = LearnerHost(
        spawn_learner,
        lambda: _newest_checkpoint(config, run, progress.warning),
        config.learner.timeout_s,
        start_timeout_s,
    )
    trace = Trace(run.path / "trace.json" if config.run.trace else None)
    with console.status("starting the learner and the rollout actors"):
        start_learner = partial(learner.start, run.checkpoint)
        make_fleet = partial(
            Fleet, spawn, config.rollout.actors, config.rollout.timeout_s, start_timeout_s, progress.warning, trace
        )
        if _may_share_a_gpu(config):
            started, fleet = start_learner(), make_fleet()
        else:  # both at once
            fleet, started = make_fleet(), start_learner()
        fleet.wait_ready()
    stop.only_ask = True  # what is cut off now is made again by the loop alone
    # Of a run that was stopped before its first step: its evaluation of the start model is used where it is recorded.
    run.truncate_after(started.publication.version.step if run.checkpoint or run.last_step(METRICS) == 0 else -1)
    recorder = Recorder(run, progress, config.run.samples_text_share, open_sinks(run, config))
    credit = Credit(
        config.reward, config.baseline, config.algorithm, config.task, temperature=config.rollout.temperature
    )
    progress.start()
    try:
        return TrainingLoop(
            config,
            fleet=fleet,
            learner=learner,
            started=started,
            credit=credit,
            guards=Guards(config.guard, credit.has_proposals),
            buffer=ready.buffer,
            source=ready.source,
            items=ready.items,
            recorder=recorder,
            should_stop=lambda: stop.asked,
            trace=trace,
        ).run()
    finally:
        recorder.close()


def _may_share_a_gpu(config: Config) -> bool:
    """Then an engine, which takes of its GPU what it finds free, must not start while a learner does."""
    return bool(config.rollout.gpus_per_actor % 1 and config.learner.gpus_per_worker % 1)


def _sender(keep: int, device: Any) -> Any:
    """Made in the learner's process, after its threads are set: it brings torch."""
    from actors.transfer import Sender

    return Sender(device, keep)


class StopSignals:
    """Ctrl-C and SIGTERM. Where they `only_ask`, the first sets `asked` and a second Ctrl-C raises KeyboardInterrupt;
    else, as while a run starts or waits for nodes, the first raises it.
    """

    def __init__(self, only_ask: bool) -> None:
        self.asked, self.only_ask = False, only_ask

    def __enter__(self) -> StopSignals:
        self._before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: Any) -> None:
        if not self.only_ask or (self.asked and number == signal.SIGINT):
            raise KeyboardInterrupt
        self.asked = True


def _first_and_last(evals: Sequence[dict[str, Any]]) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    if not evals:
        return None, None
    return (evals[0] if len(evals) > 1 else None), evals[-1]
