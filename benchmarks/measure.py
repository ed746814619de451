"""What `bench.py` measures, each in a process of its own: `python benchmarks/measure.py NAME '{"key": value}'`.

A measurement prints one line of JSON, its last: numbers by name.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from references import learner_bare, matrix_products, rollout_bare, trl
from sandbox import judgements
from workload import CACHE, COMMON, GRPO, LR, WARM_UP, configured, flop_of_update, rate, rows_of, shape

from azero.config import load_config
from azero.process import keep_heap
from cluster.records.rundir import read_jsonl


def azero_run(folder: Path, overrides: Sequence[str], pinned: bool = False) -> list[dict[str, Any]]:
    """`azero train`'s lines of metrics. `pinned`: the actor has the first core, the learner the second."""
    command = [sys.executable, "-m", "cluster.cli", "train", "base", *COMMON, *overrides, f"run.dir={folder}"]
    with open(folder.with_suffix(".log"), "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        while pinned and process.poll() is None and not pin(process.pid):
            time.sleep(0.2)
        if process.wait():
            raise SystemExit(folder.with_suffix(".log").read_text()[-3000:])
    return [m for m in read_jsonl(folder / "metrics.jsonl") if m["step"] > 0]


def pin(root: int) -> bool:
    """Whether both processes were there, each with all of its threads now on a core of its own."""
    found = {}
    for child in psutil.Process(root).children(recursive=True):
        for core, name in enumerate(("ray::RolloutActor", "ray::Learner")):
            if name in " ".join(child.cmdline()):
                found[core] = child
    if len(found) < 2:
        return False
    for core, child in found.items():
        for thread in child.threads():
            os.sched_setaffinity(thread.id, {core})
    return True


def median(lines: Sequence[dict[str, Any]], key: str) -> float:
    return statistics.median(m[key] for m in lines[WARM_UP:])


def train(model: str, dtype: str, overrides: Sequence[str], pinned: bool = False, **sizes: int) -> dict[str, float]:
    """Medians over the steps of a run: what of a step's time went where, and solver samples a second."""
    with tempfile.TemporaryDirectory() as folder:
        lines = azero_run(Path(folder) / "run", [*shape(model, dtype, **sizes), *overrides], pinned)
    keys = ["time/step", "time/generate", "time/learn", "throughput/samples_per_s", "sync/seconds", "sync/bytes"]
    return {key: median(lines, key) for key in keys}


def growth_with_steps(steps: int) -> dict[str, float]:
    """Median seconds a step around step 10 and around the last one, of one run."""
    with tempfile.TemporaryDirectory() as folder:
        small = shape("small", "float32", steps=steps, problems=4, tokens=4)
        lines = azero_run(Path(folder) / "run", [*small, *GRPO, "rollout.engine=hf", "run.samples_text_share=0"])
    times = [m["time/step"] for m in lines]
    return {"early": statistics.median(times[5:25]), "late": statistics.median(times[-20:])}


def growth_with_buffer(problems: int) -> dict[str, float]:
    """Seconds that a step of 32 problems spends on a buffer of so many."""
    from azero.domains import get_domain
    from azero.domains.expression import make_problem
    from azero.problems.buffer import ProblemBuffer
    from azero.problems.curriculum import SlotSource

    config, rng = load_config("local"), random.Random(0)
    domain = get_domain("arithmetic")
    buffer = ProblemBuffer(problems, domain.seeds())
    sums = ((a, b) for b in range(1000) for a in range(b + 1))  # of random problems there are not so many that differ
    while len(buffer) < problems:
        buffer.add(make_problem("{} + {}".format(*next(sums)), -1))
    source, times = SlotSource(domain, config.task, 32, 4, seed=0), []
    for batch in range(50):
        fresh = [domain.generate(rng, domain.cells[2]) for _ in range(32)]
        began = time.perf_counter()
        source.slots(batch, buffer)
        for problem in fresh:
            buffer.add(problem)
        times.append(time.perf_counter() - began)
    return {"seconds": statistics.median(times)}


def rollout_azero(config: str, overrides: Sequence[str], batches: int = 7) -> dict[str, float]:
    """Completion tokens a second of a rollout actor of its own process that plays batches of the start model, from the
    call to the answer. Leaves what it played to `rollout_bare` and the learner's measurements.
    """
    import ray

    from actors.rollout import RolloutActor
    from azero.domains import get_domain
    from azero.policies import policies_of
    from azero.problems.buffer import ProblemBuffer
    from azero.problems.curriculum import SlotSource
    from azero.types import Assignment, Publication, WeightVersion
    from cluster.run.build import probe_texts
    from cluster.supervise.runtime import ray_session
    from learner.trainer import Trainer

    c, domain = configured(config, overrides), get_domain("arithmetic")
    policies, folder = policies_of(c), CACHE / f"played-{config}"
    folder.mkdir(parents=True, exist_ok=True)
    learner = Trainer(
        model=c.model,
        algorithm=c.algorithm,
        learner=c.learner,
        policies=policies,
        probe_texts=probe_texts(domain),
    )
    published, probes = learner.publish(), learner.probe()
    buffer = ProblemBuffer(c.task.buffer_size, domain.seeds())
    source = SlotSource(domain, c.task, c.rollout.problems_per_step, c.rollout.max_tries, c.run.seed)
    rates, steps = [], []
    with ray_session(c.cluster):
        version, ref = WeightVersion(lineage=0, step=0), ray.put({name: flat for name, (flat, _) in published.items()})
        parts = {name: replace(part, since=version, ref=ref) for name, (_, part) in published.items()}
        publication = Publication(version=version, parts=parts, probes=ray.put(probes))
        del learner, published
        actor = RolloutActor.remote(0, c, policies, str(folder / "actor.log"))  # type: ignore[attr-defined]
        for batch in range(batches):
            assignment = Assignment(id=f"{batch}/0", batch=batch, slots=source.slots(batch, buffer))
            began = time.perf_counter()
            episodes = ray.get(actor.play.remote(assignment, publication)).episodes
            seconds = time.perf_counter() - began
            asked = [[e.proposal] for e in episodes if e.proposal] + [e.group.samples for e in episodes if e.group]
            completions = [[s.completion for s in samples] for samples in asked]
            steps.append([(cs[0].prompt_ids, [len(c.token_ids) for c in cs]) for cs in completions])
            rates.append(sum(sum(lengths) for _, lengths in steps[-1]) / seconds)
            for e in episodes:
                if e.group:
                    buffer.add(e.group.problem)
    (folder / "steps.json").write_text(json.dumps(steps[WARM_UP:]))
    (folder / "rows.pickle").write_bytes(pickle.dumps([s for e in episodes if e.group for s in e.group.samples]))
    return {"tokens_per_s": statistics.median(rates[WARM_UP:])}


def learner_azero(config: str, overrides: Sequence[str], kl_beta: float) -> dict[str, float]:
    """Completion tokens a second of full updates."""
    import torch

    from azero.loss import completion_tokens
    from azero.models.loading import resolve_model_path
    from azero.policies import one_policy
    from azero.types import SHARED, Role
    from learner.trainer import assemble

    c = configured(config, overrides)
    c.algorithm.kl_beta, c.optim.lr = kl_beta, LR
    torch.set_num_threads(2)
    keep_heap()
    policies = one_policy(resolve_model_path(c.model.path), c.optim)
    policy = assemble(policies, model=c.model, algorithm=c.algorithm, learner=c.learner)[SHARED]
    rows, weights = rows_of(config), {Role.PROPOSER: 1.0, Role.SOLVER: 1.0}
    found = rate(lambda: policy.update(rows, weights), completion_tokens(rows, Role.SOLVER))
    # A prompt and each of its distinct completions are run once; a completion's last token is predicted alone.
    run = {(r.prompt_ids, r.token_ids) for r in rows}
    predicted = sum(len(ids) for _, ids in run)
    tokens = sum(map(len, {prompt for prompt, _ in run})) + predicted - len(run)
    return found | {"flop_per_s": flop_of_update(policy.model, tokens, predicted) / found["seconds"]}


def sync(model: str, dtype: str, more: Sequence[str] = ()) -> dict[str, float]:
    """Seconds from the end of an update to the first play on its weights, without the engine's own reload, of that, of
    the proof, of reading the tensors back for it (in part while they are reloaded), and of a copy. All are of the last
    versions, when Ray has used the memory of the object store once. Each side has a thread.
    """
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        overrides = [
            "rollout.max_staleness=0",
            "run.trace=true",
            "rollout.threads=1",
            "learner.threads=1",
            *GRPO,
            *more,
        ]
        lines = azero_run(run, [*shape(model, dtype, steps=16, problems=2, tokens=4), *overrides])
        events = json.loads((run / "trace.json").read_text().rstrip().rstrip(",") + "]")
    spans = [e for e in events if e["ph"] == "X"]
    began = [e["ts"] / 1e6 for e in spans if e["name"].startswith("assignment")]
    learning = [e["ts"] / 1e6 for e in spans if e["name"].startswith("learn")]
    learned = [ts + m["time/learn"] for ts, m in zip(learning, lines, strict=True)]
    gaps = [next((b for b in began if b > t), t) - t for t in learned][-9:-1]
    keys = ("seconds", "load_seconds", "proof_seconds")
    loads, reloads, tensors = ([m[f"sync/{key}"] for m in lines[-8:]] for key in keys)
    weights = np.ones(int(median(lines, "sync/bytes")), dtype=np.uint8)
    target = weights.copy()
    copies = []
    for _ in range(15):
        start = time.perf_counter()
        target[:] = weights
        copies.append(time.perf_counter() - start)
    return {
        "seconds": statistics.median(gaps),
        "added": statistics.median(gap - inside for gap, inside in zip(gaps, reloads, strict=True)),
        "reload": statistics.median(reloads),
        "proof": statistics.median(load - inside for load, inside in zip(loads, reloads, strict=True)),
        "tensors": statistics.median(tensors),
        "copy": statistics.median(copies),
        "bytes": float(weights.nbytes),
        "learner_gib": max(m["memory/learner_gib"] for m in lines),
    }


def start() -> dict[str, float]:
    """Seconds from `azero train local` to the first line of a learner step, and of `azero --help`."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "cluster.cli", "train", "local", *COMMON, "run.steps=1", f"run.dir={run}"]
        began = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not any(m["step"] == 1 for m in read_jsonl(run / "metrics.jsonl")):
            time.sleep(0.05)
        first = time.monotonic() - began
        if process.wait():
            raise SystemExit("azero train local failed")
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "cluster.cli", "--help"], stdout=subprocess.DEVNULL, check=True)
    return {"first_step": first, "help": time.monotonic() - began}


MEASUREMENTS: dict[str, Callable[..., dict[str, float]]] = {
    f.__name__: f
    for f in (
        train, growth_with_steps, growth_with_buffer, rollout_azero, rollout_bare, learner_azero, learner_bare,
        matrix_products, judgements, sync, start, trl,
    )
}  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(MEASUREMENTS[sys.argv[1]](**json.loads(sys.argv[2]))))
