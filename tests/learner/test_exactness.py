"""Ratio, KL, probes and improvement compare values of one deterministic function, precise enough to be subtracted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import credit_of, episode, metrics_of, trainer_of
from rows import WEIGHTS, random_rows

from azero.config import AlgorithmConfig, Dtype, LearnerConfig, ModelConfig, OptimConfig, load_config
from azero.credit.credit import Credit
from azero.loss import pack
from azero.policies import one_policy
from azero.types import SHARED, TrainRow, Verdict
from benchmarks.architectures import write
from learner.policy import PolicyOptimizer
from learner.trainer import assemble

LR = 5e-6  # the paper's


def policy(path: str, dtype: Dtype, beta: float = 0.1, recompute: bool = False) -> PolicyOptimizer:
    return assemble(
        one_policy(path, OptimConfig(lr=LR, warmup_steps=0)),
        model=ModelConfig(dtype=dtype),
        algorithm=AlgorithmConfig(kl_beta=beta),
        learner=LearnerConfig(tokens_per_microbatch=200, gradient_checkpointing=recompute),
    )[SHARED]


def plainly(p: PolicyOptimizer, rows: list[TrainRow]) -> np.ndarray:
    """[rows]: log-prob of each completion by a plain forward pass of its own in fp32."""
    found = []
    for row in rows:
        with torch.no_grad():
            ids = torch.tensor([row.prompt_ids + row.token_ids])
            logits = p.model(input_ids=ids).logits[0, -len(row.token_ids) - 1 : -1]
        scores = (logits / row.temperature).log_softmax(-1).double()
        found.append(float(scores.gather(-1, torch.tensor(row.token_ids)[:, None]).sum()))
    return np.array(found)


@pytest.mark.parametrize("beta", [0.1, 0.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_an_update_changed_is_the_same_in_bf16_and_in_fp32(tiny_model: str, seed: int, beta: float) -> None:
    """Of the same weights before and after: a bf16 weight does not tell them apart."""
    p, rows = policy(tiny_model, "bfloat16", beta), random_rows(32, seed)
    before = plainly(p, rows)
    result = p.update(rows, WEIGHTS, run_all=True)
    expected = plainly(p, rows) - before
    changed = p.sequence_logprobs(rows, range(len(rows))) - result.logprobs
    assert np.corrcoef(changed, expected)[0, 1] > 0.999
    assert (np.sign(changed) == np.sign(expected)).mean() > 0.95


def test_the_kl_of_a_small_step_is_the_same_in_bf16_and_in_fp32(tiny_model: str) -> None:
    exact, rounded = policy(tiny_model, "float32"), policy(tiny_model, "bfloat16")
    rows = random_rows(32)
    assert (
        metrics_of(exact.update(rows, WEIGHTS))["kl/reference"]
        == metrics_of(rounded.update(rows, WEIGHTS))["kl/reference"]
        == 0
    )
    rounded.load_weights(exact.weights())
    ours, theirs = (metrics_of(p.update(rows, WEIGHTS))["kl/reference"] for p in (rounded, exact))
    assert ours == pytest.approx(theirs, rel=1e-4) and theirs > 0


def test_improvement_pays_the_same_proposals_in_bf16_as_in_fp32(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way, each run with its own gradient: 12 groups, three seeds."""
    mixed = [Verdict.RIGHT, Verdict.WRONG, Verdict.RIGHT, Verdict.WRONG]
    raw: dict[Dtype, list[float]] = {"float32": [], "bfloat16": []}
    inside = Credit.reward_proposals

    def spied(self: Credit, episodes, novelties, logprobs=None):  # type: ignore[no-untyped-def]
        raw[dtype].extend((lp.after - lp.before).mean() for lp in logprobs.values())
        return inside(self, episodes, novelties, logprobs)

    monkeypatch.setattr(Credit, "reward_proposals", spied)
    for dtype in raw:
        for seed in range(3):
            config = load_config("local", [f"model.dtype={dtype}", f"optim.lr={LR}", "optim.warmup_steps=0"])
            trainer, credit = trainer_of(config, tiny_model), credit_of(config)
            tokens = random_rows(64, seed)
            episodes = [episode(f"0.{i}", mixed, text=f"{i} + {seed}") for i in range(12)]
            assigned = credit.assign([_with_tokens(e, tokens[4 * i :]) for i, e in enumerate(episodes)], step=0)
            credit.settle(assigned, trainer.step(assigned.batch))
    assert len(raw["float32"]) == 36
    assert np.corrcoef(raw["float32"], raw["bfloat16"])[0, 1] > 0.99


def _with_tokens(e, rows):  # type: ignore[no-untyped-def]
    """The episode with the completions of random rows, all after the first one's prompt."""
    from dataclasses import replace

    prompt = rows[0].prompt_ids
    samples = tuple(
        replace(
            s,
            completion=replace(s.completion, prompt_ids=prompt, token_ids=r.token_ids, logprobs=r.behaviour),
        )
        for s, r in zip(e.group.samples, rows, strict=False)
    )
    return replace(e, group=replace(e.group, samples=samples))


@pytest.mark.parametrize("name", ["GPT-2", "OPT", "Mixtral"])  # dropout, dropped layers, a router's jitter
@pytest.mark.parametrize("recompute", [False, True])
def test_noise_is_off_in_training_too(name: str, recompute: bool, tmp_path: Path) -> None:
    p, rows = policy(write(name, tmp_path), "float32", recompute=recompute), random_rows(16)
    batch = pack(rows, range(len(rows)))
    torch.manual_seed(0)
    first = p.net(batch)[0]
    assert torch.equal(first, p.net(batch)[0])
    assert torch.equal(first, p.net.exact(batch)) and torch.equal(first, p.reference.exact(batch))
    assert p.probe([(5, 6, 7)]) == p.probe([(5, 6, 7)])
    assert metrics_of(p.update(rows, WEIGHTS))["kl/reference"] == 0


def test_recomputing_layers_saves_what_they_kept(tiny_model: str) -> None:
    """It is on in eval mode as well: a layer's inner tensors are not held for the backward pass."""
    rows = random_rows(16)
    held = {}
    for recompute in (False, True):
        p = policy(tiny_model, "float32", beta=0.0, recompute=recompute)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):  # noqa: B023
            p.net(pack(rows, range(len(rows))))
        held[recompute] = sum(sizes)
    assert held[True] < held[False] / 2
