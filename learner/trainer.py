"""The trainer, without Ray: rows of tokens in, one step, one weight version out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from azero.config import AlgorithmConfig, LearnerConfig, ModelConfig, OptimConfig
from azero.models.loading import generation_file, load_tokenizer
from azero.models.weights import digests, flatten
from azero.process import peak_memory_gib
from azero.types import SHARED, ProbeSet, PublishedWeights, StepResult, TrainBatch
from learner.checkpoint import Checkpoint
from learner.policy import CPU, PolicyOptimizer
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
        optim: OptimConfig,
        learner: LearnerConfig,
        start: str,
        state: Checkpoint | StateCopy | None = None,
        probe_texts: Sequence[str] = (),
        policies: Sequence[str] = (SHARED,),
        workers: Workers | None = None,
        device: torch.device = CPU,
    ) -> None:
        """Begin at step 0 with the model of the folder `start`, or go on from `state`.

        `start` is the frozen reference of the KL term either way.
        """
        self.dtype = model.dtype
        self.workers = workers or Workers()
        self.step_number = 0
        self.driver_state: dict[str, Any] = {}  # what the driver put into `state`
        self.policies = {
            name: PolicyOptimizer(
                model_config=model,
                path=str(state.model(name)) if isinstance(state, Checkpoint) else start,
                reference_path=start,
                algorithm=algorithm,
                optim=optim,
                learner=learner,
                workers=self.workers,
                device=device,
            )
            for name in policies
        }
        tokenizer, generation = load_tokenizer(start), generation_file(start)  # every checkpoint has both as they are
        self.probes = [tuple(tokenizer(t)["input_ids"]) for t in probe_texts]
        self.files = {
            name: ModelFiles(model=policy.model, tokenizer=tokenizer, generation=generation)
            for name, policy in self.policies.items()
        }
        for files in self.files.values():
            require_writable(files)
        self._published: dict[str, tuple[np.ndarray, PublishedWeights]] = {}
        if state is not None:
            self._go_on(state)

    def _go_on(self, state: Checkpoint | StateCopy) -> None:
        if isinstance(state, Checkpoint):
            moments, trainer, self.driver_state = load_checkpoint(state)
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
        """One optimizer step of every policy. Raises ValueError for a batch that is of other weights than these."""
        if batch.step != self.step_number:
            raise ValueError(f"a batch for step {batch.step}: the weights are of step {self.step_number}")
        began = time.monotonic()
        metrics: dict[str, float] = {}
        before: dict[str, Sequence[float]] = {}
        after: dict[str, Sequence[float]] = {}
        is_finite = True
        for name, policy in self.policies.items():
            rows = batch.rows.get(name, ())
            result = policy.update(rows, batch.weights, run_all=bool(batch.measured))
            metrics |= result.metrics
            is_finite &= result.is_finite
            if batch.measured and result.is_finite:
                measured = [i for i, row in enumerate(rows) if row.part == batch.measured]
                before[name] = result.logprobs.tolist()
                after[name] = policy.sequence_logprobs(rows, measured).tolist()
        self.step_number += 1
        metrics["time/learn"] = time.monotonic() - began
        metrics["memory/learner_gib"] = peak_memory_gib()
        return StepResult(step=self.step_number, metrics=metrics, is_finite=is_finite, before=before, after=after)

    def publish(self) -> dict[str, tuple[np.ndarray, PublishedWeights]]:
        """Return by policy the bytes of the present weights in the engines' dtype, and their description.

        There are no bytes but at the first worker. The next call overwrites them.
        """
        for name, policy in self.policies.items():
            out = self._published[name][0] if name in self._published else None
            buffer, layout = flatten(policy.weights(), getattr(torch, self.dtype), out)
            self._published[name] = buffer, PublishedWeights(layout=layout, dtype=self.dtype, bytes=buffer.nbytes)
        return self._published

    def probe(self) -> dict[str, ProbeSet]:
        """Probe by policy what `publish` gave last; digests are made at the first worker alone."""
        assert self._published, "publish comes first"
        found = {}
        for name, policy in self.policies.items():
            buffer, part = self._published[name]
            published = digests(buffer, part.layout, part.dtype) if self.workers.is_first else {}
            found[name] = replace(policy.probe(self.probes), digests=published)
        return found

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
