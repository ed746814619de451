"""The update on a real (tiny, random) model: gradients, denominators, warm-up, checkpoints."""

import errno
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import metrics_of
from rows import WEIGHTS, random_rows

from azero.config import AlgorithmConfig, LearnerConfig, ModelConfig, OptimConfig
from azero.loss import pack
from azero.policies import one_policy
from azero.types import SHARED, TrainRow
from learner.checkpoint import Checkpoint
from learner.net import recompute_layers
from learner.policy import PolicyOptimizer
from learner.saving import ModelFiles, StateCopy, load_checkpoint, save_checkpoint
from learner.trainer import assemble


def policy(
    path: str, tokens: int = 10_000, beta: float = 0.1, folder: Path | None = None, **optim: float
) -> PolicyOptimizer:
    """`folder`: of a checkpoint, where the weights come from; the start model by default."""
    return assemble(
        one_policy(path, OptimConfig(**optim)),  # type: ignore[arg-type]
        model=ModelConfig(),
        algorithm=AlgorithmConfig(kl_beta=beta),
        learner=LearnerConfig(tokens_per_microbatch=tokens),
        folders={SHARED: str(folder)} if folder else {},
    )[SHARED]


def flat(gradients: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([g.reshape(-1).double() for g in gradients.values()])


def reference_gradient(p: PolicyOptimizer, rows: list[TrainRow]) -> torch.Tensor:
    """The loss written out sample by sample, from ALGORITHM's formula, through plain transformers."""
    total = torch.zeros(())
    for part, weight in WEIGHTS.items():
        mine = [r for r in rows if r.part == part]
        tokens = sum(len(r.token_ids) for r in mine)
        for row in mine:
            ids, t = torch.tensor([row.prompt_ids + row.token_ids]), row.temperature
            n = len(row.token_ids)
            logits = p.model(input_ids=ids).logits[0, -n - 1 : -1] / t
            logp = logits.log_softmax(-1)[torch.arange(n), torch.tensor(row.token_ids)]
            with torch.no_grad():
                ref = (p.reference.model(input_ids=ids).logits[0, -n - 1 : -1] / t).log_softmax(-1)
                ref = ref[torch.arange(n), torch.tensor(row.token_ids)]
            rho = (logp - torch.tensor(row.behaviour)).exp()
            a = row.advantage
            surrogate = -torch.minimum(rho * a, rho.clamp(0.8, 1.2) * a)
            if a < 0:
                surrogate = surrogate.clamp(max=-3.0 * a)
            d = ref - logp
            total = total + weight * (surrogate + 0.1 * (d.exp() - d - 1)).sum() / tokens
    total.backward()
    gradient = torch.cat([q.grad.reshape(-1).clone() for q in p.model.parameters()])
    p.optimizer.zero_grad(set_to_none=True)
    return gradient


def test_probes_of_unequal_length_are_scored_as_if_alone(tiny_model: str) -> None:
    p, sequences = policy(tiny_model), [(5, 6, 7, 8, 9, 10), (11, 12), (20, 21, 22)]
    probes = p.probe(sequences)
    assert probes.sequences == tuple(sequences)
    for ids, found in zip(sequences, probes.logprobs, strict=True):
        logits = p.model(input_ids=torch.tensor([ids])).logits[0, :-1].detach()
        expected = logits.log_softmax(-1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
        assert found == pytest.approx(expected.tolist(), abs=1e-5)


def test_the_gradient_is_that_of_the_formula(tiny_model: str) -> None:
    """Equal completions too: each goes through the model once, and counts with its own advantage and behaviour."""
    p, rows = policy(tiny_model), random_rows()
    for row, advantage in zip(rows[::3], (0.7, -1.1, 2.0, -0.3)):
        rows.append(replace(row, behaviour=tuple(x - 0.3 for x in row.behaviour), advantage=advantage))
    rows += [replace(row, temperature=1.3) for row in rows[:4]]  # of which the same completion is another row
    batch = pack(rows, [i for i, r in enumerate(rows) if r.part == "solver"])
    assert len(batch.completions) < len(batch.indices)
    expected, got = reference_gradient(p, rows), flat(p.gradients(rows, WEIGHTS))
    assert (got - expected).norm() <= 1e-5 * expected.norm()


def test_bf16_products_leave_the_master_weights_in_fp32(tiny_model: str) -> None:
    p, rows = policy(tiny_model, lr=5e-6), random_rows()
    exact = flat(p.gradients(rows, WEIGHTS))
    p.net.dtype = p.reference.dtype = "bfloat16"
    rounded = flat(p.gradients(rows, WEIGHTS))
    assert not torch.equal(exact, rounded) and (rounded - exact).norm() <= 0.05 * exact.norm()
    before = [q.detach().clone() for q in p.model.parameters()]
    p.update(rows, WEIGHTS)
    for old, new in zip(before, p.model.parameters(), strict=True):
        assert new.dtype == torch.float32 and not torch.equal(old, new)
    assert all(t.dtype == torch.float32 for t in p.optimizer_state().values())


def test_micro_batches_do_not_change_the_gradient(tiny_model: str) -> None:
    rows = random_rows(32)
    whole = flat(policy(tiny_model).gradients(rows, WEIGHTS))
    for tokens in (450, 200, 60, 1):
        split = flat(policy(tiny_model, tokens).gradients(rows, WEIGHTS))
        assert (split - whole).norm() <= 1e-5 * whole.norm()


def test_gradient_checkpointing_does_not_change_the_gradient(tiny_model: str) -> None:
    rows = random_rows()
    whole = flat(policy(tiny_model).gradients(rows, WEIGHTS))
    saving = policy(tiny_model)
    saving.net.shares_prompts = False
    recompute_layers(saving.model)
    assert (flat(saving.gradients(rows, WEIGHTS)) - whole).norm() <= 1e-5 * whole.norm()


def test_skipped_rows_stay_in_the_denominator(tiny_model: str) -> None:
    rows = random_rows()
    idle = [replace(r, advantage=0.0) for r in random_rows(seed=1)]
    with_idle = policy(tiny_model, beta=0.0).update([*rows, *idle], WEIGHTS)
    alone = policy(tiny_model, beta=0.0).update(rows, WEIGHTS)
    assert np.isnan(with_idle.logprobs).sum() == len(idle) and not np.isnan(alone.logprobs).any()
    tokens = {n: sum(len(r.token_ids) for r in part if r.part == "solver")
              for n, part in (("rows", rows), ("idle", idle))}  # fmt: skip
    share = tokens["rows"] / (tokens["rows"] + tokens["idle"])
    assert with_idle.norms["solver"] == pytest.approx(alone.norms["solver"] * share, rel=1e-5)
    assert metrics_of(with_idle)["grad_norm/solver"] == with_idle.norms["solver"]


def test_update_metrics_and_log_probs(tiny_model: str) -> None:
    p, rows = policy(tiny_model), random_rows()
    before = p.sequence_logprobs(rows, range(len(rows)))
    expected = flat(p.gradients(rows, WEIGHTS)).norm().item()
    result = p.update(rows, WEIGHTS)
    assert result.logprobs == pytest.approx(before, abs=1e-5)
    metrics = metrics_of(result)
    assert metrics["grad_norm"] == pytest.approx(expected, rel=1e-5)
    assert metrics["kl/reference"] == pytest.approx(0, abs=1e-7)  # nothing has moved yet
    assert not np.allclose(p.sequence_logprobs(rows, range(len(rows))), before)


def test_a_mean_over_no_tokens_is_left_out(tiny_model: str) -> None:
    means = {"loss/total", "loss/policy", "kl/reference", "entropy", "offpolicy/ratio_mean", "clip_rate"}
    assert not means & metrics_of(policy(tiny_model).update([], WEIGHTS)).keys()
    assert means <= metrics_of(policy(tiny_model).update(random_rows(), WEIGHTS)).keys()
    without_reference = policy(tiny_model, beta=0.0)
    assert means - metrics_of(without_reference.update(random_rows(), WEIGHTS)).keys() == {"kl/reference"}
    idle = [replace(r, advantage=0.0) for r in random_rows()]  # nothing is run: the loss is 0
    assert means & metrics_of(without_reference.update(idle, WEIGHTS)).keys() == {"loss/total", "loss/policy"}


def test_warm_up_is_linear_then_constant(tiny_model: str) -> None:
    p = policy(tiny_model, lr=8e-6, warmup_steps=4)
    rates = [metrics_of(p.update(random_rows(4), WEIGHTS))["lr"] for _ in range(6)]
    assert rates == pytest.approx([2e-6, 4e-6, 6e-6, 8e-6, 8e-6, 8e-6])


def test_the_decay_is_linear_to_zero_and_stays_there(tiny_model: str) -> None:
    p = policy(tiny_model, lr=8e-6, warmup_steps=2, decay_steps=4)
    rates = [metrics_of(p.update(random_rows(4), WEIGHTS))["lr"] for _ in range(6)]
    assert rates == pytest.approx([4e-6, 6e-6, 4e-6, 2e-6, 0, 0])


def test_no_reference_is_held_without_kl(tiny_model: str) -> None:
    assert policy(tiny_model, beta=0.0).reference is None


def saved(folder: Path, p: PolicyOptimizer, model: str, step: int, capacity: int) -> Checkpoint:
    from azero.models.loading import load_tokenizer

    state = StateCopy(
        weights={SHARED: {k: v.numpy() for k, v in p.weights().items()}},
        moments={SHARED: {k: v.numpy() for k, v in p.optimizer_state().items()}},
        trainer={"step": step},
        driver={},
    )
    files = ModelFiles(policy=p.policy, model=p.model, tokenizer=load_tokenizer(model))
    return save_checkpoint(folder, state, {SHARED: files}, capacity)


def test_a_checkpoint_resumes_to_the_last_bit(tiny_model: str, tmp_path: Path) -> None:
    p = policy(tiny_model, lr=1e-3)
    for seed in range(2):
        p.update(random_rows(8, seed), WEIGHTS)
    where = saved(tmp_path, p, tiny_model, step=2, capacity=1)
    again = policy(tiny_model, folder=where.model(SHARED), lr=1e-3)
    assert where.damage() == ""
    _, moments, trainer, _ = load_checkpoint(where)
    again.load_optimizer_state(moments[SHARED])
    again.steps_done = trainer["step"]
    one, two = p.update(random_rows(8, 5), WEIGHTS), again.update(random_rows(8, 5), WEIGHTS)
    assert metrics_of(one) == metrics_of(two)
    for (name, a), b in zip(p.model.named_parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_only_the_newest_checkpoints_are_kept(tiny_model: str, tmp_path: Path) -> None:
    p = policy(tiny_model)
    for step in (1, 2, 3):
        saved(tmp_path, p, tiny_model, step, capacity=2)
    assert sorted(f.name for f in tmp_path.glob("step_*")) == ["step_000002", "step_000003"]
    assert (tmp_path / "latest").read_text() == "step_000003"
    assert not list(tmp_path.glob(".*tmp*"))


def test_a_full_disk_leaves_the_checkpoints_that_were_there(
    tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = policy(tiny_model)
    first = saved(tmp_path, p, tiny_model, step=1, capacity=1)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("learner.saving.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        saved(tmp_path, p, tiny_model, step=2, capacity=1)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["latest", first.name] and first.damage() == ""


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_update_that_is_not_finite_changes_nothing(tiny_model: str, bad: float) -> None:
    p, rows = policy(tiny_model, lr=1e-3, warmup_steps=3), random_rows()
    p.update(rows, WEIGHTS)
    before = [q.detach().clone() for q in p.model.parameters()]
    moments = {k: v.clone() for k, v in p.optimizer_state().items()}
    poisoned = [replace(rows[0], advantage=bad), *rows[1:]]
    result = p.update(poisoned, WEIGHTS)
    assert not result.is_finite and metrics_of(result)["faults/skipped_updates"] == 1 and p.steps_done == 1
    assert all(torch.equal(a, b) for a, b in zip(before, p.model.parameters(), strict=True))
    assert all(torch.equal(v, moments[k]) for k, v in p.optimizer_state().items())
    assert p.update(rows, WEIGHTS).is_finite
