"""The trained model, its frozen reference and its optimizer: one process's share of a TRR++ update."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from azero.batch import TrainBatch, TrainRow, completion_tokens, microbatches
from azero.config import AlgorithmConfig, Dtype, LearnerConfig, ModelConfig, OptimConfig
from azero.losses import kl_estimate, policy_loss, token_logprobs
from azero.models import load_model
from azero.types import ProbeSet, Role


@dataclass(slots=True)
class Totals:
    """Sums over the completion tokens of an update."""

    tokens: int = 0
    loss: float = 0.0  # already divided by its role's tokens
    kl_loss: float = 0.0  # likewise, times kl_beta
    kl: float = 0.0
    entropy: float = 0.0
    ratio: float = 0.0
    clipped: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateResult:
    metrics: dict[str, float]
    logprobs: np.ndarray  # [rows] log-prob of each completion under the weights before the update; nan where skipped
    skipped_rows: int = 0


@dataclass(slots=True)
class PolicyOptimizer:
    """Master weights and moments are fp32 (at lr 5e-6 a bf16 weight does not move); `model.dtype` is the autocast's."""

    model_config: ModelConfig
    path: str  # where the weights come from: the start model, or a checkpoint's model folder
    reference_path: str  # the frozen start model
    algorithm: AlgorithmConfig
    optim: OptimConfig
    learner: LearnerConfig
    temperature: float
    steps_done: int = 0
    device: torch.device = field(init=False)
    model: torch.nn.Module = field(init=False)
    reference: torch.nn.Module | None = field(init=False)
    optimizer: torch.optim.AdamW = field(init=False)

    def __post_init__(self) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() and self.learner.gpus_per_worker else "cpu")
        self.model = self._load(self.path).train()
        if self.learner.gradient_checkpointing:
            self.model.gradient_checkpointing_enable()  # type: ignore[operator]
        self.reference = None
        if self.algorithm.kl_beta > 0:
            self.reference = self._load(self.reference_path).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=self.optim.lr,
            betas=(self.optim.beta1, self.optim.beta2),
            weight_decay=self.optim.weight_decay,
            fused=self.device.type == "cpu",  # one pass over the parameters; on a GPU torch has its own fast default
        )

    def _load(self, path: str) -> torch.nn.Module:
        model = load_model(path).to(self.device)
        if self.device.type == "cpu":  # whose fused attention is slower than the plain one on short sequences
            model.set_attn_implementation("eager")
        return model

    @property
    def lr(self) -> float:
        """Of the next step: linear warm-up, then constant or falling linearly to 0 at `optim.decay_steps`."""
        risen = min(1.0, (self.steps_done + 1) / max(1, self.optim.warmup_steps))
        left = max(0.0, 1 - self.steps_done / self.optim.decay_steps) if self.optim.decay_steps else 1.0
        return self.optim.lr * risen * left

    def update(self, rows: Sequence[TrainRow], keep_all: bool = False) -> UpdateResult:
        """One optimizer step on all rows. `keep_all`: also run rows without a gradient, for their log-probs.

        L = mean over solver tokens of (l + kl_beta k) + proposer_weight * mean over proposer tokens of (l + kl_beta k).
        """
        logprobs = np.full(len(rows), np.nan)
        totals, norms = Totals(), {}
        stash: list[Tensor] | None = None
        skipped = 0
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        for role in (Role.PROPOSER, Role.SOLVER):  # the few proposer gradients are stashed while the solver's add up
            indices = [i for i, r in enumerate(rows) if r.sample.role is role]
            if not keep_all and self.algorithm.kl_beta == 0:
                trained = [i for i in indices if rows[i].advantage != 0]
                skipped += len(indices) - len(trained)
                indices = trained
            weight = self.algorithm.proposer_weight if role is Role.PROPOSER else 1.0
            scale = weight / max(1, completion_tokens(rows, role))
            for batch in microbatches(rows, indices, self.learner.tokens_per_microbatch):
                self._backward(batch, scale, totals, logprobs)
            gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
            norms[role] = float(torch.nn.utils.get_total_norm(gradients))
            if stash is None:
                stash = gradients
                self.optimizer.zero_grad(set_to_none=True)
        for p, g in zip(parameters, stash or (), strict=True):
            p.grad = g if p.grad is None else p.grad.add_(g)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.optim.grad_clip))
        lr = self.lr
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps_done += 1
        n = max(1, totals.tokens)
        metrics = {
            "loss/total": totals.loss + totals.kl_loss,
            "loss/policy": totals.loss,
            "kl/reference": totals.kl / n,
            "entropy": totals.entropy / n,
            "offpolicy/ratio_mean": totals.ratio / n,
            "clip_rate": totals.clipped / n,
            "grad_norm": norm,
            "grad_norm/proposer": norms[Role.PROPOSER],
            "grad_norm/solver": norms[Role.SOLVER],
            "lr": lr,
        }
        return UpdateResult(metrics=metrics, logprobs=logprobs, skipped_rows=skipped)

    def gradients(self, rows: Sequence[TrainRow]) -> dict[str, Tensor]:
        """The gradient of the loss, name -> tensor, without a step; for tests and diagnosis."""
        for role in Role:
            indices = [i for i, r in enumerate(rows) if r.sample.role is role]
            weight = self.algorithm.proposer_weight if role is Role.PROPOSER else 1.0
            for batch in microbatches(rows, indices, self.learner.tokens_per_microbatch):
                self._backward(batch, weight / completion_tokens(rows, role), Totals(), np.zeros(len(rows)))
        found = {n: p.grad.clone() for n, p in self.model.named_parameters() if p.grad is not None}
        self.optimizer.zero_grad(set_to_none=True)
        return found

    def _backward(self, batch: TrainBatch, scale: float, totals: Totals, out: np.ndarray) -> None:
        logprobs, entropy = self.forward(self.model, batch)
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
            with torch.no_grad():
                reference, _ = self.forward(self.reference, batch)
            kl = kl_estimate(logprobs, reference)
            kl_loss = self.algorithm.kl_beta * kl.sum() * scale
            totals.kl += float(kl.detach().sum())
            totals.kl_loss += float(kl_loss.detach())
            loss = loss + kl_loss
        loss.backward()
        totals.tokens += len(logprobs)
        totals.entropy += float(entropy.sum())
        totals.ratio += float(policy.ratio.sum())
        totals.clipped += int(policy.clipped.sum())
        out[list(batch.indices)] = row_sums(logprobs.detach(), batch)

    def forward(self, model: Any, batch: TrainBatch) -> tuple[Tensor, Tensor]:
        """(log-probs, entropy) of the rows' completion tokens, [tokens].

        Each prompt is run once and its keys and values serve all of its completions, gradients included; each distinct
        completion is run once too. Logits are made for completion tokens alone.
        """
        mask, token_of = batch.mask.to(self.device), batch.token_of.to(self.device)
        with self._autocast():
            hidden = self._hidden(model.base_model, batch)[mask]  # [distinct tokens, hidden]
            logits = model.get_output_embeddings()(hidden)
        logprobs, entropy = token_logprobs(logits, batch.targets.to(self.device), self.temperature)
        return logprobs[token_of], entropy[token_of]

    def _hidden(self, body: Any, batch: TrainBatch) -> Tensor:
        """[completions, completion width, hidden]: the state from which each completion token is predicted."""
        prompts, prompt_mask = batch.prompts.to(self.device), batch.prompt_mask.to(self.device)
        of = batch.prompt_of.to(self.device)
        inputs, mask = batch.completions.to(self.device)[:, :-1], batch.mask.to(self.device).long()[:, :-1]
        both = torch.cat([prompt_mask[of], mask], dim=1)  # [completions, both widths - 1]
        positions = (both.cumsum(-1) - 1).clamp(min=0)
        width = prompts.shape[1]
        if self.learner.gradient_checkpointing:  # which recomputes layers, and so cannot keep their keys and values
            ids = torch.cat([prompts[of], inputs], dim=1)
            out = body(input_ids=ids, attention_mask=both, position_ids=positions, use_cache=False)
            return out.last_hidden_state[:, width - 1 :]
        first = (prompt_mask.cumsum(-1) - 1).clamp(min=0)
        out = body(input_ids=prompts, attention_mask=prompt_mask, position_ids=first, use_cache=True)
        last = out.last_hidden_state[of, -1:]
        if not inputs.shape[1]:
            return last
        cache = out.past_key_values
        cache.batch_select_indices(of)
        out = body(
            input_ids=inputs,
            attention_mask=both,
            position_ids=positions[:, width:],
            past_key_values=cache,
            use_cache=True,
        )
        return torch.cat([last, out.last_hidden_state], dim=1)

    @torch.no_grad()
    def sequence_logprobs(self, rows: Sequence[TrainRow], indices: Sequence[int]) -> np.ndarray:
        """[rows] log-prob of each completion under the present weights; nan where the row is not in `indices`."""
        out = np.full(len(rows), np.nan)
        for batch in microbatches(rows, indices, self.learner.tokens_per_microbatch):
            out[list(batch.indices)] = row_sums(self.forward(self.model, batch)[0], batch)
        return out

    @torch.no_grad()
    def probe(self, sequences: Sequence[Sequence[int]]) -> ProbeSet:
        """Log-probs of tokens 1.. of each sequence at temperature 1, under the present weights."""
        found = []
        with self._autocast():  # around them all: the weights are cast once
            for ids in sequences:
                tensor = torch.tensor([list(ids)], device=self.device)
                logits = self.model(input_ids=tensor).logits[0, :-1]
                found.append(tuple(token_logprobs(logits, tensor[0, 1:], 1.0)[0].tolist()))
        return ProbeSet(sequences=tuple(tuple(s) for s in sequences), logprobs=tuple(found))

    def _autocast(self) -> AbstractContextManager[None]:
        if self.model_config.dtype is Dtype.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def optimizer_state(self) -> Iterator[tuple[str, Tensor]]:
        """Names like `exp_avg/model.norm.weight`; empty before the first step."""
        for name, p in self.model.named_parameters():
            for key, value in self.optimizer.state.get(p, {}).items():
                yield f"{key}/{name}", value

    def load_optimizer_state(self, tensors: dict[str, Tensor]) -> None:
        for name, p in self.model.named_parameters():
            state = {k: tensors[f"{k}/{name}"] for k in ("step", "exp_avg", "exp_avg_sq") if f"{k}/{name}" in tensors}
            if state:
                self.optimizer.state[p] = {k: v.to(self.device if k != "step" else "cpu") for k, v in state.items()}


def row_sums(values: Tensor, batch: TrainBatch) -> np.ndarray:
    """[rows of the batch], float64: sums of the token values [tokens] of each row."""
    sums = torch.zeros(len(batch.indices), dtype=torch.float64)
    sums.index_add_(0, batch.row_of, values.double().cpu())
    return sums.numpy()
