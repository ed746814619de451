"""`azero scale`: the control plane at size without GPUs, and what to buy for a target.

Engines and learner are clocks (actor.py and learner.py beside this file); Ray, the loop, the queue, pacing, the problem
buffer, the run's records and the published bytes are real.

A small model, with constants that the runs give, says what to expect elsewhere:

    period of an actor = max(T + l, n d)     T seconds of an assignment, n actors, l latency between two assignments of
    efficiency         = T / period          an actor while the driver is idle, d driver's own seconds an assignment

d grows with the samples of an assignment. While n d < T only l is lost; from n = T / d on, more actors bring nothing:
the knee. Actors on this machine take its cores from the driver, as they would not on machines of their own.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, TextIO

import numpy as np
import ray
from pydantic import Field
from rich.console import Console

from azero.config import Config, Count, NotNegative, Positive, Whole
from azero.config.overrides import Section, merged
from azero.credit.credit import Credit
from azero.credit.guards import Guards
from azero.domains import get_domain
from azero.errors import RunFailed, UserError
from azero.problems.buffer import ProblemBuffer
from azero.problems.curriculum import SlotSource
from azero.verbatim import VerbatimTable
from benchmarks.scale.actor import SimulatedActor, Timing
from benchmarks.scale.learner import SimulatedLearner
from cluster.records import machine
from cluster.records.rundir import RunDirectory, read_jsonl
from cluster.run.loop import TrainingLoop
from cluster.run.progress import Progress
from cluster.run.recorder import Recorder
from cluster.supervise.fleet import Fleet
from cluster.supervise.learning import LearnerHost
from cluster.supervise.runtime import ray_session

WARM_UP_STEPS = 2


Some = Field(min_length=1)


class ScaleConfig(Section):
    """Every combination of the lists is one run."""

    actors: Annotated[list[Count], Some] = [1, 4, 16, 64]
    batch: Annotated[list[Count], Some] = [4096]  # solver samples a step
    decode_rate: Annotated[list[Positive], Some] = [32.0]  # tokens/s of each sequence: 160 tokens take 5 s
    weights_mib: Annotated[list[Positive], Some] = [2.0]  # published every step
    max_staleness: Annotated[list[Whole], Some] = [1]
    solutions: Count = 16  # a problem
    tokens: Count = 160  # of a completion, the mean
    spread: NotNegative = 0.0  # standard deviation of the log of a completion's length
    load_rate: Positive = 5.0  # GiB/s, of an engine's own reload
    learn_rate: NotNegative = 0.0  # tokens/s of the learner; 0: twice what all actors make
    steps: Count = 6  # measured, after two of warm-up
    target: NotNegative = 0.0  # solver samples/s to plan for; 0: ten times the largest run's


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One run."""

    actors: int
    batch: int
    decode_rate: float
    weights_mib: float
    max_staleness: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    point: Point
    assignment_s: float  # T: mean seconds of an assignment's play
    samples_per_s: float  # solver samples
    efficiency: float  # share of the actors' time in which they play: throughput over actors x their own rate
    staleness: float  # mean
    actors_waited: float  # share of the time
    learner_waited: float
    driver_load: float  # share of one core
    driver_s: float  # d: driver's processor seconds an assignment
    machine_load: float  # share of all cores
    load_s: float  # of the published bytes into an actor, the engine's own reload included

    @property
    def samples(self) -> float:
        """Of an assignment."""
        return self.point.batch / self.point.actors


def parse(overrides: Sequence[str]) -> ScaleConfig:
    """Raises UserError."""
    options = merged(ScaleConfig, [], overrides)
    for actors, batch in itertools.product(options.actors, options.batch):
        if batch % options.solutions or batch // options.solutions < actors:
            raise UserError(
                f"batch={batch}: must be a multiple of solutions={options.solutions} and hold a problem for each of "
                f"{actors} actors, {actors * options.solutions} samples or more"
            )
    return options


def scale(overrides: Sequence[str], json_file: Path | None, out: TextIO | None = None) -> int:
    """Run every combination, then print the tables and the plan. Raises UserError."""
    options = parse(overrides)
    console = Console(file=out, soft_wrap=True, width=180)
    measured: list[Measured] = []
    with ray_session(Config().cluster), tempfile.TemporaryDirectory() as folder:
        pool: dict[int, Any] = {}
        for i, point in enumerate(_points(options)):
            measured.append(_simulate(point, options, Path(folder) / str(i), pool))
            console.print(_one_line(measured[-1]), highlight=False)
        for actor in pool.values():
            ray.kill(actor)
    model = calibrate(measured)
    console.print(_table(measured, model))
    plan = _plan(options, measured, model)
    for line in plan:
        console.print(line, highlight=False)
    if json_file:
        runs = [asdict(m) | {"samples": m.samples} for m in measured]
        json_file.write_text(json.dumps({"runs": runs, "model": asdict(model), "plan": plan}, indent=2))
    return 0


def _points(options: ScaleConfig) -> Iterator[Point]:
    for rate, weights, staleness, batch, actors in itertools.product(
        options.decode_rate, options.weights_mib, options.max_staleness, options.batch, options.actors
    ):
        yield Point(actors=actors, batch=batch, decode_rate=rate, weights_mib=weights, max_staleness=staleness)


def _one_line(r: Measured) -> str:
    return (
        f"{r.point.actors} actors, assignments of {r.assignment_s:.3g} s: {r.samples_per_s:.0f} samples/s, "
        f"{r.efficiency:.1%} of the ideal"
    )


def _simulate(point: Point, options: ScaleConfig, folder: Path, pool: dict[int, Any]) -> Measured:
    """`pool` holds the actors' processes, which later runs use again."""
    config = _config(point, options)
    timing = Timing(
        solutions=options.solutions,
        tokens=options.tokens,
        spread=options.spread,
        decode_rate=point.decode_rate,
        load_rate=options.load_rate,
    )
    learn_rate = options.learn_rate or 2 * point.batch * point.decode_rate

    def spawn(index: int) -> Any:
        if index not in pool:
            pool[index] = SimulatedActor.remote(index, config.task.domain)  # type: ignore[attr-defined]
        pool[index].set.remote(timing)
        return pool[index]

    def spawn_learner(*_: Any) -> list[Any]:
        return [SimulatedLearner.remote(learn_rate, int(point.weights_mib * 2**20))]  # type: ignore[attr-defined]

    start_timeout_s = config.cluster.start_timeout_s
    domain = get_domain(config.task.domain, config.task.options)
    warnings: list[str] = []
    learner = LearnerHost(spawn_learner, lambda: None, config.learner.timeout_s, start_timeout_s)
    fleet = Fleet(spawn, point.actors, config.rollout.timeout_s, start_timeout_s, warnings.append)
    fleet.start()
    started = learner.start(None)
    fleet.wait_ready(point.actors)
    credit = Credit(config.reward, config.baseline, config.algorithm, config.task, cells=domain.cells, temperature=1.0)
    run = RunDirectory(folder)
    with run.open("", {}, resume=False), open(os.devnull, "w") as nowhere:
        recorder = Recorder(run, Progress(config.run.steps, "plain", file=nowhere), 0.0, [])
        before = time.monotonic(), time.process_time(), _busy_seconds()
        TrainingLoop(
            config,
            fleet=fleet,
            learner=learner,
            started=started,
            credit=credit,
            guards=Guards(config.guard, credit.has_proposals),
            buffer=ProblemBuffer(config.task.buffer_size, domain.seeds()),
            source=SlotSource(domain, config.task, config.rollout.problems_per_step, 1, config.run.seed),
            items=[],
            recorder=recorder,
            should_stop=lambda: False,
        ).run()
        after = time.monotonic(), time.process_time(), _busy_seconds()
        recorder.close()
        rows = [r for r in read_jsonl(folder / "metrics.jsonl") if r["step"] > WARM_UP_STEPS]
    learner.end()
    if warnings:
        raise RunFailed(f"the simulation of {point.actors} actors lost one ({warnings[0]}): use fewer on this machine")
    seconds, processor_s, busy_s = (b - a for a, b in zip(before, after, strict=True))
    wall = sum(r["time/step"] for r in rows)
    play_s = sum(r["time/generate"] for r in rows) / len(rows)
    return Measured(
        point=point,
        assignment_s=play_s,
        samples_per_s=point.batch * len(rows) / wall,
        efficiency=play_s * len(rows) / wall,
        staleness=sum(r["staleness/mean"] for r in rows) / len(rows),
        actors_waited=sum(r["time/wait_learner"] for r in rows) / wall,
        learner_waited=sum(r["time/wait_rollouts"] for r in rows) / wall,
        driver_load=processor_s / seconds,
        driver_s=processor_s / (config.run.steps * point.actors),
        machine_load=busy_s / seconds / machine.cores(),
        load_s=sum(r["sync/seconds"] for r in rows) / len(rows),
    )


def _busy_seconds() -> float:
    """Seconds of all cores that this machine has worked since its start, summed; 0 without /proc."""
    try:
        user, nice, system, _idle, _wait, irq, soft = map(int, Path("/proc/stat").read_text().split()[1:8])
    except (OSError, ValueError):
        return 0.0
    return (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK")


def _config(point: Point, options: ScaleConfig) -> Config:
    config = Config()
    config.run.steps, config.run.eval_every, config.run.checkpoint_every = WARM_UP_STEPS + options.steps, 0, 0
    config.learner.keep_every = 0
    config.reward.learnability = "variance"  # a clock has no log-probs to give
    config.rollout.actors, config.rollout.max_staleness = point.actors, point.max_staleness
    config.rollout.problems_per_step = point.batch // options.solutions
    return config


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The constants of this module's model."""

    latency_s: float  # l
    per_assignment_s: float  # d = this + per_sample_s * samples of the assignment
    per_sample_s: float

    def driver_s(self, samples: float) -> float:
        return self.per_assignment_s + self.per_sample_s * samples

    def efficiency(self, actors: int, assignment_s: float, samples: float) -> float:
        return assignment_s / max(assignment_s + self.latency_s, actors * self.driver_s(samples))

    def knee(self, assignment_s: float, samples: float) -> float:
        """Actors beyond which nothing is gained."""
        return (assignment_s + self.latency_s) / self.driver_s(samples)


def calibrate(runs: Sequence[Measured]) -> Model:
    """The model's constants from the runs: d by least squares, l as the median over runs with an idle driver."""
    samples, costs = np.array([r.samples for r in runs]), np.array([r.driver_s for r in runs])
    slope = max(0.0, float(np.polyfit(samples, costs, 1)[0])) if len(set(samples)) > 1 else 0.0
    fixed = max(1e-6, float(np.mean(costs - slope * samples)))
    calm = [r for r in runs if r.driver_load < 0.3 and r.machine_load < 0.7] or list(runs)
    latency = float(np.median([max(0.0, r.assignment_s * (1 / r.efficiency - 1)) for r in calm]))
    return Model(latency_s=latency, per_assignment_s=fixed, per_sample_s=slope)


def _table(runs: Sequence[Measured], model: Model) -> VerbatimTable:
    table = VerbatimTable(title="simulated engines, real control plane")
    for name in ("actors", "batch", "weights", "stale", "T", "samples/s", "efficiency", "expected", "staleness",
                 "actors wait", "learner waits", "driver", "machine", "load"):  # fmt: skip
        table.add_column(name, justify="right")
    for r in runs:
        p = r.point
        expected = model.efficiency(p.actors, r.assignment_s, r.samples)
        table.add_row(
            str(p.actors), str(p.batch), f"{p.weights_mib:g} MiB", str(p.max_staleness), f"{r.assignment_s:.3g} s",
            f"{r.samples_per_s:.0f}", f"{r.efficiency:.1%}", f"{expected:.1%}", f"{r.staleness:.2f}",
            f"{r.actors_waited:.0%}", f"{r.learner_waited:.0%}", f"{r.driver_load:.0%}", f"{r.machine_load:.0%}",
            f"{r.load_s:.3g} s",
        )  # fmt: skip
    return table


def _plan(options: ScaleConfig, runs: Sequence[Measured], model: Model) -> list[str]:
    """What the model expects, and what a target takes, in sentences."""
    largest = max(runs, key=lambda r: r.samples_per_s)
    T, k = largest.assignment_s, largest.samples
    target = options.target or 10 * largest.samples_per_s
    ideal = target / (k / T)
    actors = math.ceil(ideal / model.efficiency(math.ceil(ideal), T, k))
    tokens = target * options.tokens
    lines = [
        f"driver: {1e3 * model.driver_s(k):.3g} ms of one core an assignment of {k:g} samples; latency "
        f"{1e3 * model.latency_s:.3g} ms. The knee for assignments of {T:.3g} s: {model.knee(T, k):.0f} actors.",
        f"for {target:.0f} samples/s ({tokens:,.0f} completion tokens/s): {actors} actors that play {k:g} samples in "
        f"{T:.3g} s, and a learner of {tokens:,.0f} tokens/s",
    ]
    if actors > model.knee(T, k):
        lines[1] = (
            f"for {target:.0f} samples/s: more than one driver feeds with assignments of {T:.3g} s; make them longer "
            f"(a larger batch, so more problems an actor), {model.driver_s(k) * ideal:.3g} s or more"
        )
    elif options.learn_rate:
        lines[1] += f", which is {math.ceil(tokens / options.learn_rate)} workers of {options.learn_rate:,.0f}"
    return lines
