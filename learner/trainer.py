"""The trainer, without Ray: rows of tokens in, one step, one weight version out."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from azero.config import BASE, AlgorithmConfig, LearnerConfig, ModelConfig
from azero.models.loading import generation_file, load_tokenizer
from azero.models.weights import digests, flatten, owned_state
from azero.policies import Policies
from azero.process import peak_memory_gib
from azero.types import ProbeSet, PublishedWeights, StepResult, TrainBatch
from learner.agreement import require_agreement
from learner.checkpoint import Checkpoint
from learner.net import PolicyNet
from learner.policy import CPU, PolicyOptimizer, Totals, UpdateResult
from learner.saving import ModelFiles, StateCopy, load_checkpoint, require_writable, save_checkpoint
from learner.workers import Workers


class Trainer:
    """All policies as one: their step, its number, and their state.

    Each of the learner's workers has a trainer, is given the same, and does the same, but for the rows that it runs.
    """

    def __init__(
        self,
        *,
        model: ModelConfig,
        algorithm: AlgorithmConfig,
        learner: LearnerConfig,
        policies: Policies,
        state: Checkpoint | StateCopy | None = None,
        probe_texts: Sequence[str] = (),
        workers: Workers | None = None,
        device: torch.device = CPU,
    ) -> None:
        """Begin at step 0 with the models that the policies name, or go on from `state`.

        Those models are the frozen references of the KL terms either way.
        """
        self.dtype = model.dtype
        self.workers = workers or Workers()
        self.step_number = 0
        self.driver_state: dict[str, Any] = {}  # what the driver put into `state`
        folders = {n: str(state.model(n)) for n in policies.names} if isinstance(state, Checkpoint) else {}
        self.policies = assemble(
            policies,
            model=model,
            algorithm=algorithm,
            learner=learner,
            workers=self.workers,
            device=device,
            folders=folders,
        )
        self.probes, self.files = dict[str, list[tuple[int, ...]]](), dict[str, ModelFiles]()
        for name, policy in self.policies.items():
            tokenizer = load_tokenizer(policy.policy.model)  # every checkpoint holds it as it is
            self.probes[policy.policy.net] = [tuple(tokenizer(t)["input_ids"]) for t in probe_texts]
            self.files[name] = ModelFiles(
                policy=policy.policy,
                model=policy.model,
                tokenizer=tokenizer,
                generation=generation_file(policy.policy.model),
            )
        for files in self.files.values():
            require_writable(files)
        self._published: dict[str, tuple[np.ndarray, PublishedWeights]] = {}  # by part, since the start
        self._probed: dict[str, ProbeSet] = {}  # by part
        self._moved: set[str] = set()  # policies that made a step in the last one
        if state is not None:
            self._go_on(state)

    def _go_on(self, state: Checkpoint | StateCopy) -> None:
        if isinstance(state, Checkpoint):
            adapters, moments, trainer, self.driver_state = load_checkpoint(state)
            for name, tensors in adapters.items():
                self.policies[name].load_weights(tensors)
        else:
            trainer, self.driver_state = state.trainer, state.driver
            moments = {p: {k: torch.from_numpy(v.copy()) for k, v in m.items()} for p, m in state.moments.items()}
            for name, weights in state.weights.items():
                self.policies[name].load_weights({k: torch.from_numpy(v) for k, v in weights.items()})
        self.step_number = trainer["step"]
        for name, policy in self.policies.items():
            policy.load_optimizer_state(moments[name])
            policy.steps_done = trainer["policies"][name]["steps_done"]

    def step(self, batch: TrainBatch) -> StepResult:
        """One optimizer step of every policy that trains.

        Raises ValueError for a batch that is of other weights than these.
        """
        if batch.step != self.step_number:
            raise ValueError(f"a batch for step {batch.step}: the weights are of step {self.step_number}")
        began = time.monotonic()
        results: dict[str, UpdateResult] = {}
        before: dict[str, Sequence[float]] = {}
        after: dict[str, Sequence[float]] = {}
        for name, policy in self.policies.items():
            if not policy.policy.trains:
                continue
            rows = batch.rows.get(name, ())
            measured = [i for i, row in enumerate(rows) if row.part == batch.measured]
            results[name] = result = policy.update(rows, batch.weights[name], run_all=bool(measured))
            if measured and result.is_finite:
                before[name] = result.logprobs.tolist()
                after[name] = policy.sequence_logprobs(rows, measured).tolist()
        self.step_number += 1
        self._moved = {name for name, r in results.items() if r.is_finite and r.has_rows} or set(results)
        metrics = step_metrics(results)
        metrics["time/learn"] = time.monotonic() - began
        metrics["memory/learner_gib"] = peak_memory_gib()
        is_finite = all(result.is_finite for result in results.values())
        return StepResult(step=self.step_number, metrics=metrics, is_finite=is_finite, before=before, after=after)

    def publish(self) -> dict[str, tuple[np.ndarray, PublishedWeights]]:
        """Return by part the bytes in the engines' dtype, and their description, of what is new since the last call.

        A part is a policy, or the base that adapters share, which is published once. There are no bytes but at the
        first worker. The next call overwrites them.
        """
        found = {}
        for name, policy in self.policies.items():
            if policy.adapter and BASE not in self._published:
                found[BASE] = self._flat(BASE, self.workers.gather(owned_state(policy.model).items()))
            if name in self._moved or name not in self._published:
                found[name] = self._flat(name, policy.published())
        return found

    def _flat(self, part: str, weights: Mapping[str, Tensor]) -> tuple[np.ndarray, PublishedWeights]:
        out = self._published[part][0] if part in self._published else None
        buffer, layout = flatten(weights, getattr(torch, self.dtype), out)
        self._published[part] = buffer, PublishedWeights(layout=layout, dtype=self.dtype, bytes=buffer.nbytes)
        self._probed.pop(part, None)
        return self._published[part]

    def probe(self) -> dict[str, ProbeSet]:
        """Probe by part what `publish` gave last; digests are made at the first worker alone."""
        assert self._published, "publish comes first"
        for name, policy in self.policies.items():
            texts = self.probes[policy.policy.net]
            if policy.adapter and BASE not in self._probed:
                self._probed[BASE] = self._with_digests(BASE, policy.net.probe(texts))
            if name not in self._probed:
                self._probed[name] = self._with_digests(name, policy.probe(texts))
        return dict(self._probed)

    def _with_digests(self, part: str, probes: ProbeSet) -> ProbeSet:
        buffer, described = self._published[part]
        found = digests(buffer, described.layout, described.dtype) if self.workers.is_first else {}
        return replace(probes, digests=found)

    def copy_state(self, driver: Mapping[str, Any]) -> StateCopy:
        """All that a checkpoint holds, in memory; no tensors but at the first worker."""
        return StateCopy(
            weights={n: {k: v.numpy() for k, v in p.weights().items()} for n, p in self.policies.items()},
            moments={n: {k: v.numpy() for k, v in p.optimizer_state().items()} for n, p in self.policies.items()},
            trainer={
                "step": self.step_number,
                "policies": {name: {"steps_done": policy.steps_done} for name, policy in self.policies.items()},
            },
            driver=dict(driver),
        )

    def save(self, folder: Path, driver: Mapping[str, Any], capacity: int) -> Checkpoint | None:
        """The checkpoint, where this is the first worker. Raises OSError, as for a full disk."""
        state = self.copy_state(driver)
        return save_checkpoint(folder, state, self.files, capacity) if self.workers.is_first else None


def assemble(
    policies: Policies,
    *,
    model: ModelConfig,
    algorithm: AlgorithmConfig,
    learner: LearnerConfig,
    workers: Workers | None = None,
    device: torch.device = CPU,
    folders: Mapping[str, str] | None = None,
) -> dict[str, PolicyOptimizer]:
    """Each policy with its net, checked, and with the frozen reference of its KL term, which is what it started from.

    `folders`: of a checkpoint, the model folders of policies that have weights of their own. Raises UserError.
    """
    workers, found = workers or Workers(), dict[str, PolicyOptimizer]()
    recompute = learner.gradient_checkpointing
    load = partial(PolicyNet, dtype=model.dtype, device=device, recompute=recompute, workers=workers)
    for name, players in policies.nets.items():
        adapters = {p.name: p.adapter for p in players if p.adapter}
        net = load((folders or {}).get(name, players[0].model), adapters=adapters)
        with net.wearing(players[0].name):
            require_agreement(net)
        trains = any(p.trains for p in players)
        reference = None
        if algorithm.kl_beta > 0 and trains:
            reference = net if adapters else load(players[0].model).requires_grad_(False)
            reference.run_like(net)
        if not trains:
            net.requires_grad_(False)
        for policy in players:
            found[policy.name] = PolicyOptimizer(
                policy=policy,
                net=net,
                reference=reference if policy.trains else None,
                algorithm=algorithm,
                learner=learner,
                workers=workers,
            )
    return {name: found[name] for name in policies.names}


def step_metrics(results: Mapping[str, UpdateResult]) -> dict[str, float]:
    """Metrics of one step, of all policies together and of each where there are several. A mean of nothing is left out.

    `results`: of each policy that trained.

    With several policies "grad_norm/solver" and the like are of one policy, and "grad_norm" is of all their weights;
    with one policy "grad_norm/solver" is of the part of its loss that has this name.
    """
    every = list(results.values())
    totals = Totals(*(sum(values) for values in zip(*(astuple(r.totals) for r in every), strict=True)))
    metrics = _of_totals(totals, any(r.has_kl for r in every), any(r.has_rows for r in every)) | {
        "grad_norm": every[0].norm if len(every) == 1 else math.hypot(*(r.norm for r in every)),
        **({f"grad_norm/{part}": value for part, value in every[0].norms.items()} if len(every) == 1 else {}),
        "lr": max(r.lr for r in every),
        "faults/skipped_updates": 0.0 if all(r.is_finite for r in every) else 1.0,
    }
    if len(every) > 1:
        for name, r in results.items():
            own = {**_of_totals(r.totals, r.has_kl, r.has_rows), "grad_norm": r.norm, "lr": r.lr}
            metrics |= {f"{key}/{name}": value for key, value in own.items()}
    return metrics


def _of_totals(totals: Totals, has_kl: bool, has_rows: bool) -> dict[str, float]:
    sums = {"entropy": totals.entropy, "offpolicy/ratio_mean": totals.ratio, "clip_rate": totals.clipped}
    if has_kl:
        sums["kl/reference"] = totals.kl
    means = {key: total / totals.tokens for key, total in sums.items() if totals.tokens}
    losses = {"loss/total": totals.loss + totals.kl_loss, "loss/policy": totals.loss}
    return means | (losses if has_rows else {})
