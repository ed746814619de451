"""One policy that trains: its model, its frozen reference and its optimizer, in one of the learner's workers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field

import numpy as np
import torch
from torch import Tensor

from azero.config import AlgorithmConfig, LearnerConfig
from azero.loss import MicroBatch, completion_tokens, kl_estimate, pack, policy_loss, shares
from azero.models.adapters import adapter_state, scaled
from azero.models.weights import ADAPTER_PART, owned_state
from azero.policies import Policy
from azero.types import ProbeSet, TrainRow
from learner.net import PolicyNet, full_norm, whole_number
from learner.workers import Workers, sharded_like

CPU = torch.device("cpu")


@dataclass(slots=True)
class Totals:
    """Sums over the completion tokens of an update."""

    tokens: float = 0
    loss: float = 0.0  # already divided by its part's tokens, times the part's weight
    kl_loss: float = 0.0  # likewise, times kl_beta
    kl: float = 0.0
    entropy: float = 0.0
    ratio: float = 0.0
    clipped: float = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateResult:
    totals: Totals
    norm: float  # of the whole gradient, before it is clipped
    norms: Mapping[str, float]  # by part
    lr: float
    # [rows] log-prob of each completion under the weights before the update; nan where skipped. In fp32 where there is
    # a reference or `run_all`: what comes after is to be subtracted from it.
    logprobs: np.ndarray
    has_rows: bool
    has_kl: bool
    is_finite: bool  # whether loss and gradient were, and the step was made


@dataclass(slots=True, kw_only=True)
class PolicyOptimizer:
    """Master weights and moments are fp32 (at lr 5e-6 a bf16 weight does not move); `model.dtype` is the autocast's."""

    policy: Policy
    net: PolicyNet  # the policy's own, or one that it shares with others, whose adapters are none of its business
    reference: PolicyNet | None  # of the KL term: the start model, or the same net without an adapter
    algorithm: AlgorithmConfig
    learner: LearnerConfig
    workers: Workers = field(default_factory=Workers)
    steps_done: int = 0
    parameters: dict[str, torch.nn.Parameter] = field(init=False)  # that the policy trains, by the net's own names
    optimizer: torch.optim.AdamW | None = field(init=False)

    def __post_init__(self) -> None:
        mark = f".{self.policy.name}.weight"
        named = self.model.named_parameters()
        self.parameters = {n: p for n, p in named if not self.adapter or (ADAPTER_PART.search(n) and n.endswith(mark))}
        optim = self.policy.optim
        self.optimizer = None
        if self.policy.trains:
            self.optimizer = torch.optim.AdamW(
                self.parameters.values(),
                lr=optim.lr,
                betas=(optim.beta1, optim.beta2),
                weight_decay=optim.weight_decay,
                fused=True if self.device.type == "cpu" else None,  # None: on a GPU torch has its own fast default
            )

    @property
    def model(self) -> torch.nn.Module:
        return self.net.model

    @property
    def device(self) -> torch.device:
        return self.net.device

    @property
    def adapter(self) -> str | None:
        """Name of the adapter that the net wears for this policy; None if it has none."""
        return self.policy.name if self.policy.adapter else None

    @property
    def lr(self) -> float:
        """Return the next step's rate: linear warm-up, then constant or falling to 0 at `optim.decay_steps`."""
        optim = self.policy.optim
        risen = min(1.0, (self.steps_done + 1) / max(1, optim.warmup_steps))
        left = max(0.0, 1 - self.steps_done / optim.decay_steps) if optim.decay_steps else 1.0
        return optim.lr * risen * left

    def update(self, rows: Sequence[TrainRow], weights: Mapping[str, float], run_all: bool = False) -> UpdateResult:
        """One optimizer step on all rows. `run_all`: also run rows without a gradient, for their log-probs.

        Where loss or gradient is not finite nothing changes, neither weights nor moments nor the learning rate's step.
        Where there are no rows, that step alone goes on.

        L = sum over parts of weights[part] * mean over the part's tokens of (l + kl_beta k).
        """
        assert self.optimizer is not None, f"policy {self.policy.name} does not train"
        totals, logprobs = Totals(), np.zeros(len(rows))
        parameters = list(self.parameters.values())
        total: list[Tensor] = []
        norms, ran = {}, np.zeros(len(rows), dtype=bool)
        exact = run_all or self.reference is not None
        for part, weight in weights.items():
            indices = [i for i, r in enumerate(rows) if r.part == part]
            if not run_all and self.algorithm.kl_beta == 0:
                indices = [i for i in indices if rows[i].advantage != 0]
            ran[indices] = True
            self._accumulate(rows, indices, weight / max(1, completion_tokens(rows, part)), totals, logprobs, exact)
            gradient = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
            norms[part] = full_norm(gradient)
            self._forget_gradient()
            total = [a.add_(b) for a, b in zip(total, gradient, strict=True)] if total else gradient
        for p, gradient_of_p in zip(parameters, total, strict=True):
            p.grad = gradient_of_p
        norm = whole_number(torch.nn.utils.clip_grad_norm_(parameters, self.policy.optim.grad_clip))
        everywhere = self.workers.sum(np.concatenate([astuple(totals), logprobs]))
        cut = len(everywhere) - len(rows)
        totals, logprobs = Totals(*everywhere[:cut]), np.where(ran, everywhere[cut:], np.nan)
        lr = self.lr
        is_finite = math.isfinite(norm + totals.loss + totals.kl_loss)
        if is_finite:
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            if rows:  # without any, momentum alone would move the weights
                self.optimizer.step()
            self.steps_done += 1
        self._forget_gradient()
        return UpdateResult(
            totals=totals,
            norm=norm,
            norms=norms,
            lr=lr,
            logprobs=logprobs,
            has_rows=bool(rows),
            has_kl=self.reference is not None,
            is_finite=is_finite,
        )

    def gradients(self, rows: Sequence[TrainRow], weights: Mapping[str, float]) -> dict[str, Tensor]:
        """The gradient of the loss by name, whole, at the first worker; no step is made. For tests and diagnosis."""
        for part, weight in weights.items():
            indices = [i for i, r in enumerate(rows) if r.part == part]
            scale = weight / max(1, completion_tokens(rows, part))
            self._accumulate(rows, indices, scale, Totals(), np.zeros(len(rows)), self.reference is not None)
        found = self.workers.gather((n, p.grad) for n, p in self.parameters.items() if p.grad is not None)
        self._forget_gradient()
        return found

    def _forget_gradient(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None

    def _accumulate(
        self,
        rows: Sequence[TrainRow],
        indices: Sequence[int],
        scale: float,
        totals: Totals,
        logprobs: np.ndarray,
        exact: bool,
    ) -> None:
        """Add scale * the rows' gradient to the parameters', and this worker's share of the sums to `totals`."""
        with self.net.wearing(self.adapter):
            for batch, counts in self._share(rows, indices):
                sums, out = (totals, logprobs) if counts else (Totals(), np.zeros(len(rows)))
                self._backward(batch, scale if counts else 0.0, sums, out, exact)

    def _share(self, rows: Sequence[TrainRow], indices: Sequence[int]) -> Iterator[tuple[MicroBatch, bool]]:
        """This worker's micro-batches, and whether they count: all workers run as many, since each is a collective."""
        if not indices:
            return
        plans = shares(rows, indices, self.learner.tokens_per_microbatch, self.workers.size)
        for part in plans[self.workers.rank]:
            yield pack(rows, part or indices[:1]), bool(part)

    def _backward(self, batch: MicroBatch, scale: float, totals: Totals, out: np.ndarray, exact: bool) -> None:
        """Add one micro-batch's gradient, its sums to `totals`, and its rows' log-probs to `out`.

        `exact`: KL and `out` are of fp32 log-probs, with the gradient of those in `model.dtype`; two passes in bf16
        differ more by their rounding than by an update. The ratio needs none: the engine rounds its side as well.
        """
        in_fp32 = self.net.exact(batch) if exact and self.net.dtype != "float32" else None
        logprobs, entropy = self.net(batch)
        values = logprobs if in_fp32 is None else logprobs + (in_fp32 - logprobs).detach()
        behaviour, advantages = batch.behaviour.to(self.device), batch.advantages.to(self.device)
        policy = policy_loss(
            logprobs,
            behaviour,
            advantages,
            clip_low=self.algorithm.clip_low,
            clip_high=self.algorithm.clip_high,
            ratio_cap=self.algorithm.ratio_cap,
        )
        loss = policy.loss.sum() * scale
        totals.loss += float(loss.detach())
        if self.reference is not None:
            with self.reference.wearing(None):
                reference = self.reference.exact(batch)
            kl = kl_estimate(values, reference)
            kl_loss = self.algorithm.kl_beta * kl.sum() * scale
            totals.kl += float(kl.detach().sum())
            totals.kl_loss += float(kl_loss.detach())
            loss = loss + kl_loss
        loss.backward()
        totals.tokens += len(logprobs)
        totals.entropy += float(entropy.sum())
        totals.ratio += float(policy.ratio.sum())
        totals.clipped += int(policy.clipped.sum())
        out[list(batch.indices)] = row_sums(values.detach(), batch)

    def sequence_logprobs(self, rows: Sequence[TrainRow], indices: Sequence[int]) -> np.ndarray:
        """[rows] fp32 log-prob of each completion under the present weights; nan where the row is not in `indices`."""
        out, ran = np.zeros(len(rows)), np.zeros(len(rows), dtype=bool)
        ran[list(indices)] = True
        with self.net.wearing(self.adapter):
            for batch, counts in self._share(rows, indices):
                sums = row_sums(self.net.exact(batch), batch)
                if counts:
                    out[list(batch.indices)] = sums
        return np.where(ran, self.workers.sum(out), np.nan)

    def probe(self, sequences: Sequence[Sequence[int]]) -> ProbeSet:
        """Log-probs of tokens 1.. of each sequence at temperature 1, under the present weights."""
        with self.net.wearing(self.adapter):
            return self.net.probe(sequences)

    def weights(self) -> dict[str, Tensor]:
        """Every weight of the policy's own, as `_state` names them. Whole, at the first worker."""
        return self.workers.gather(self._state().items())

    def published(self) -> dict[str, Tensor]:
        """`weights` as engines want them: of an adapter with its factor in B."""
        weights = self.weights()
        return scaled(weights, self.policy.adapter) if self.policy.adapter else weights

    def _state(self) -> dict[str, Tensor]:
        """The adapter's tensors, or all of the model, tied ones once."""
        return adapter_state(self.model, self.adapter) if self.adapter else owned_state(self.model)

    def optimizer_state(self) -> dict[str, Tensor]:
        """Names like `exp_avg/model.norm.weight`; empty before the first step. Whole, at the first worker."""
        return self.workers.gather(
            (f"{key}/{name}", value)
            for name, p in self.parameters.items()
            for key, value in (self.optimizer.state.get(p, {}) if self.optimizer else {}).items()
        )

    @torch.no_grad()
    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Replace every weight of the policy's own by the one of that name, as `weights` names them."""
        for name, tensor in self._state().items():
            tensor.copy_(sharded_like(weights[name], tensor))

    def load_optimizer_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Load what `optimizer_state` gave, whatever the number of workers was."""
        assert self.optimizer is not None or not tensors
        for name, p in self.parameters.items():
            if self.optimizer and f"step/{name}" in tensors:
                moments = {k: sharded_like(tensors[f"{k}/{name}"], p) for k in ("exp_avg", "exp_avg_sq")}
                self.optimizer.state[p] = {"step": tensors[f"step/{name}"], **moments}


def make_repeatable(device: torch.device) -> None:
    """Have all later sums of this process add up in one order, so that an update repeats to the last bit on a CPU.

    torch adds up the gradient of a tensor that was read by index, as a prompt's keys and values are by its
    completions, from several threads at once, and in the order in which they come. A GPU is left as it is.
    """
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a check that costs time


def row_sums(values: Tensor, batch: MicroBatch) -> np.ndarray:
    """[rows of the batch], float64: sums of the token values [tokens] of each row."""
    sums = torch.zeros(len(batch.indices), dtype=torch.float64)
    sums.index_add_(0, batch.row_of, values.double().cpu())
    return sums.numpy()
