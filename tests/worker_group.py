"""Learner workers as processes of this machine, and what the tests have them do."""

from __future__ import annotations

import multiprocessing as mp
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from helpers import metrics_of
from rows import WEIGHTS, random_rows
from safetensors.torch import load_file

from azero.config import AlgorithmConfig, LearnerConfig, ModelConfig, OptimConfig, load_config
from azero.policies import one_policy, policies_of
from azero.types import SHARED, TrainBatch, TrainRow
from learner.checkpoint import Checkpoint
from learner.policy import PolicyOptimizer
from learner.saving import ModelFiles, StateCopy, load_checkpoint, save_checkpoint
from learner.trainer import Trainer, assemble
from learner.workers import Workers

TIMEOUT_S = 120.0


def run(size: int, body: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What body(workers, *arguments) returned in each of `size` processes."""
    context = mp.get_context("spawn")
    results, address = context.Queue(), context.Queue()
    processes = [context.Process(target=_main, args=(r, size, address, results, body, arguments)) for r in range(size)]
    for p in processes:
        p.start()
    found = {}
    try:
        while len(found) < size:
            rank, outcome = results.get(timeout=TIMEOUT_S)
            assert not isinstance(outcome, str), outcome  # the others wait for that one
            found[rank] = outcome
    finally:
        for p in processes:
            p.join(0 if len(found) < size else 10)
            p.kill()
    return [found[r] for r in range(size)]


def _main(rank: int, size: int, address: Any, results: Any, body: Callable[..., Any], arguments: Sequence[Any]) -> None:
    torch.set_num_threads(1)
    try:
        workers = Workers(rank, size)
        if rank == 0:
            where = workers.listen("127.0.0.1", TIMEOUT_S)
            for _ in range(size - 1):
                address.put(where)
        else:
            where = address.get(timeout=TIMEOUT_S)
        workers.join(where, "127.0.0.1", torch.device("cpu"), TIMEOUT_S)
        results.put((rank, body(workers, *arguments)))
    except Exception as e:
        results.put((rank, f"worker {rank}: {type(e).__name__}: {e}"))
        raise


def policy(workers: Workers, path: str, reference: str, **learner: Any) -> PolicyOptimizer:
    """With the weights of the folder `path`; the policy started from `reference`."""
    return assemble(
        one_policy(reference, OptimConfig(lr=1e-3, warmup_steps=2)),
        model=ModelConfig(),
        algorithm=AlgorithmConfig(kl_beta=0.1),
        learner=LearnerConfig(**learner),
        workers=workers,
        folders={SHARED: path},
    )[SHARED]


def gradient(workers: Workers, path: str, rows: Sequence[TrainRow], **learner: Any) -> Any:
    found = policy(workers, path, path, **learner).gradients(rows, WEIGHTS)
    return {name: tensor.numpy() for name, tensor in found.items()}


def updates(workers: Workers, path: str, batches: Sequence[Sequence[TrainRow]], out: Path | None) -> Any:
    """(metrics and log-probs of each update, weights at the end, probes), with a checkpoint of the end in `out`."""
    from azero.models.loading import load_tokenizer

    p = policy(workers, path, path, tokens_per_microbatch=60)
    results = []
    for rows in batches:  # with what a publication does in between
        p.weights()
        p.probe([(5, 6, 7), (8, 9)])
        results.append(p.update(rows, WEIGHTS))
    copied = StateCopy(
        weights={SHARED: {k: v.numpy() for k, v in p.weights().items()}},
        moments={SHARED: {k: v.numpy() for k, v in p.optimizer_state().items()}},
        trainer={"step": p.steps_done},
        driver={},
    )
    if workers.is_first and out:
        files = {SHARED: ModelFiles(policy=p.policy, model=p.model, tokenizer=load_tokenizer(path))}
        save_checkpoint(out, copied, files, capacity=1)
    return [(metrics_of(r), r.logprobs) for r in results], copied.weights[SHARED], p.probe([(5, 6, 7), (8, 9)]).logprobs


def resumed(workers: Workers, checkpoint: Checkpoint, start: str, rows: Sequence[TrainRow], from_memory: bool) -> Any:
    """(metrics, weights) of an update after a checkpoint that another number of workers wrote."""
    model = checkpoint.model(SHARED)
    p = policy(workers, start if from_memory else str(model), start)
    _, moments, trainer, _ = load_checkpoint(checkpoint)
    if from_memory:
        p.load_weights(load_file(model / "model.safetensors"))
    p.load_optimizer_state(moments[SHARED])
    p.steps_done = trainer["step"]
    return metrics_of(p.update(rows, WEIGHTS)), {k: v.numpy() for k, v in p.weights().items()}


def shaped(workers: Workers, path: str, shape: str) -> Any:
    """(metrics of each step, tensors of all policies at the end, log-probs of the probes by part)."""
    given = [f"policies={shape}", f"model.path={path}", "optim.lr=1e-3", "optim.warmup_steps=0"]
    trainer = Trainer(
        model=ModelConfig(),
        algorithm=AlgorithmConfig(kl_beta=0.1),
        learner=LearnerConfig(tokens_per_microbatch=60),
        policies=policies_of(load_config("base", given)),
        probe_texts=["1 + 2"],
        workers=workers,
    )
    metrics = []
    for seed in range(3):
        rows = random_rows(32, seed)
        batch = TrainBatch(
            step=seed,
            rows={name: [r for r in rows if r.part in p.policy.roles] for name, p in trainer.policies.items()},
            weights={name: dict.fromkeys(p.policy.roles, 1.0) for name, p in trainer.policies.items()},
            measured="solver",
        )
        trainer.publish()
        trainer.probe()
        metrics.append({k: v for k, v in trainer.step(batch).metrics.items() if not k.startswith(("time", "memory"))})
    trainer.publish()
    weights = {f"{p}/{k}": v for p, ws in trainer.copy_state({}).weights.items() for k, v in ws.items()}
    return metrics, weights, {part: probes.logprobs for part, probes in trainer.probe().items()}


def everything(workers: Workers, path: str, folder: Path) -> dict[str, Any]:
    """All that the tests compare between groups of different sizes; processes take long to start."""
    ones = [r for r in random_rows(64) if len(r.token_ids) == 1]
    longer = [r for r in random_rows(64) if len(r.token_ids) > 3][: len(ones)]
    batches = [random_rows(32, seed) for seed in range(5)]
    results = {
        "gradient": gradient(workers, path, random_rows(32), tokens_per_microbatch=60),
        "recomputed": gradient(workers, path, random_rows(32), tokens_per_microbatch=60, gradient_checkpointing=True),
        "few rows": gradient(workers, path, random_rows(3), tokens_per_microbatch=60),
        "one token": gradient(workers, path, [*ones, *longer], tokens_per_microbatch=12),
        "updates": updates(workers, path, batches, folder if workers.size == 1 else None),
    }
    results |= {shape: shaped(workers, path, shape) for shape in ("adapters", "separate")}
    checkpoint = Checkpoint.of_step(folder, len(batches))
    for from_memory in (False, True):
        results[f"resumed {from_memory}"] = resumed(workers, checkpoint, path, random_rows(32, 9), from_memory)
    return results
