"""Policies of their own in the learner: whose weights move, what the reference is, what is published and kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rows import random_rows

from azero.config import BASE, AdapterConfig, AlgorithmConfig, Config, LearnerConfig, load_config
from azero.models.adapters import WEIGHTS, adapter_state, merged, read_adapter, scaled
from azero.models.weights import owned_state, unflatten
from azero.policies import Policies, policies_of
from azero.types import TrainBatch
from learner.checkpoint import Checkpoint
from learner.trainer import Trainer

SHAPES = ("shared", "adapters", "separate")


def policies(path: str, shape: str, *overrides: str) -> Policies:
    given = [f"policies={shape}", f"model.path={path}", "optim.lr=1e-2", "optim.warmup_steps=0", *overrides]
    return policies_of(load_config("base", given))


def trainer(path: str, shape: str, *overrides: str, beta: float = 0.1, **options: Any) -> Trainer:
    return Trainer(
        model=Config().model,
        algorithm=AlgorithmConfig(kl_beta=beta),
        learner=LearnerConfig(tokens_per_microbatch=200),
        policies=policies(path, shape, *overrides),
        probe_texts=["1 + 2"],
        **options,
    )


def batch(t: Trainer, seed: int = 0, roles: Sequence[str] = ("proposer", "solver")) -> TrainBatch:
    rows = [row for row in random_rows(32, seed) if row.part in roles]
    of_policy = {name: p.policy.roles for name, p in t.policies.items()}
    return TrainBatch(
        step=t.step_number,
        rows={name: [r for r in rows if r.part in played] for name, played in of_policy.items()},
        weights={name: dict.fromkeys(played, 1.0) for name, played in of_policy.items()},
        measured="solver",
    )


def weights(t: Trainer) -> dict[str, torch.Tensor]:
    """Every tensor of every policy and of what they share, copied."""
    found = {f"{n}/{k}": v.clone() for n, p in t.policies.items() for k, v in p.weights().items()}
    base = next(iter(t.policies.values())).model
    return found | {f"{BASE}/{k}": v.clone() for k, v in owned_state(base).items()}


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("shape", ["adapters", "separate"])
@pytest.mark.parametrize("role, other", [("proposer", "solver"), ("solver", "proposer")])
def test_rows_of_a_role_move_its_policy_and_no_tensor_of_another(
    tiny_model: str, shape: str, role: str, other: str
) -> None:
    t = trainer(tiny_model, shape, beta=0.0)
    t.step(batch(t))  # both: of A there is no gradient while B is 0, and moments would move what has none
    before = weights(t)
    result = t.step(batch(t, 1, roles=[role]))
    now = moved(before, weights(t))
    own = {name for name in before if name.startswith(f"{role}/")}
    theirs = {name for name in before if name.startswith(f"{other}/")}
    assert result.is_finite and own <= now
    assert not now & theirs
    assert shape == "separate" or not any(name.startswith(f"{BASE}/") for name in now)


def test_the_solver_does_not_move_at_all_while_the_proposer_trains(tiny_model: str) -> None:
    """In its log-probs, not only in its weights."""
    t = trainer(tiny_model, "adapters", "policies.solver.trains=false", "reward.learnability=variance")
    sequences = [(5, 6, 7, 8, 9), (20, 21, 22)]
    before = {name: p.probe(sequences).logprobs for name, p in t.policies.items()}
    for seed in range(3):
        t.step(batch(t, seed))
    after = {name: p.probe(sequences).logprobs for name, p in t.policies.items()}
    assert after["solver"] == before["solver"] and after["proposer"] != before["proposer"]


def test_the_base_is_the_reference_and_no_second_model_is_held(tiny_model: str) -> None:
    t = trainer(tiny_model, "adapters")
    proposer, solver = t.policies.values()
    assert proposer.net is solver.net is proposer.reference is solver.reference
    first = t.step(batch(t)).metrics
    assert first["kl/reference"] == first["kl/reference/proposer"] == first["kl/reference/solver"] == 0.0
    second = t.step(batch(t, 1)).metrics
    assert second["kl/reference/proposer"] > 0 and second["kl/reference/solver"] > 0


def test_the_kl_is_to_the_base_of_the_same_tokens(tiny_model: str) -> None:
    """Against plain transformers with and without peft's own forward pass."""
    t = trainer(tiny_model, "adapters")
    t.step(batch(t))
    made = batch(t, 1)
    solver, rows = t.policies["solver"], made.rows["solver"]
    expected = []
    with torch.no_grad():
        for row in rows:
            ids, n = torch.tensor([row.prompt_ids + row.token_ids]), len(row.token_ids)
            targets = torch.tensor(row.token_ids)
            both = []
            for worn in ("solver", None):
                with solver.net.wearing(worn):
                    logits = solver.model(input_ids=ids).logits[0, -n - 1 : -1] / row.temperature
                both.append(logits.log_softmax(-1)[torch.arange(n), targets])
            d = both[1] - both[0]
            expected.append(d.exp() - d - 1)
    assert t.step(made).metrics["kl/reference/solver"] == pytest.approx(float(torch.cat(expected).mean()), rel=1e-3)


def test_a_frozen_policy_is_published_once_and_has_no_moments(tiny_model: str) -> None:
    t = trainer(tiny_model, "separate", "policies.proposer.trains=false")
    assert set(t.publish()) == {"proposer", "solver"}
    t.step(batch(t, roles=["solver"]))
    assert set(t.publish()) == {"solver"}
    assert t.copy_state({}).moments["proposer"] == {} and t.policies["proposer"].reference is None


def test_the_base_travels_once_and_adapters_each_step(tiny_model: str) -> None:
    t = trainer(tiny_model, "adapters", "policies.solver.adapter.rank=4", "policies.solver.adapter.alpha=6")
    first = {name: (buffer.copy(), part) for name, (buffer, part) in t.publish().items()}
    probes = t.probe()
    assert set(first) == set(probes) == {BASE, "proposer", "solver"}
    model = t.policies["solver"].model
    base = unflatten(first[BASE][0], first[BASE][1].layout, "float32")
    assert base.keys() == owned_state(model).keys() and not any("lora" in n or "base_layer" in n for n in base)
    t.step(batch(t))
    second = t.publish()
    assert set(second) == {"proposer", "solver"}
    sent = unflatten(second["solver"][0], second["solver"][1].layout, "float32")
    for name, tensor in adapter_state(model, "solver").items():
        assert torch.equal(sent[name], tensor.detach() * (1.5 if ".lora_B." in name else 1.0))
    assert t.probe()[BASE] is probes[BASE]  # asked for once
    assert t.probe()["solver"].digests != probes["solver"].digests


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("from_disk", [True, False])
def test_a_resumed_trainer_goes_on_to_the_last_bit(
    tiny_model: str, tmp_path: Path, shape: str, from_disk: bool
) -> None:
    t = trainer(tiny_model, shape)
    t.step(batch(t))
    saved = t.save(tmp_path, {"driver": 1}, capacity=1)
    copied = t.copy_state({"driver": 1})
    assert saved is not None and saved.policies == sorted(t.policies)
    again = trainer(tiny_model, shape, state=saved if from_disk else copied)
    assert again.step_number == 1 and again.driver_state == {"driver": 1}
    for one in (t, again):
        one.step(batch(one, 1))
    assert not moved(weights(t), weights(again))


def test_an_adapter_of_a_checkpoint_is_one_for_peft(tiny_model: str, tmp_path: Path) -> None:
    """And merged into its base it is the same model."""
    from peft import PeftModel

    from azero.models.loading import load_model

    t = trainer(tiny_model, "adapters")
    for seed in range(2):
        t.step(batch(t, seed))
    saved = t.save(tmp_path / "checkpoints", {}, capacity=1)
    assert saved is not None
    folder, ids = saved.adapter("solver"), torch.tensor([[5, 6, 7, 8]])
    together = merged(folder)
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == tiny_model
    with torch.no_grad():
        solver = t.policies["solver"]
        with solver.net.wearing("solver"):
            expected = solver.model(input_ids=ids).logits
        assert not torch.allclose(expected, load_model(tiny_model)(input_ids=ids).logits, atol=1e-4)
        peft = PeftModel.from_pretrained(load_model(tiny_model), str(folder)).eval()
        assert torch.allclose(peft(input_ids=ids).logits, expected, atol=1e-5)
        assert torch.allclose(together(input_ids=ids).logits, expected, atol=1e-5)


def test_a_checkpoint_without_an_adapter_s_weights_is_damaged(tiny_model: str, tmp_path: Path) -> None:
    t = trainer(tiny_model, "adapters")
    saved = t.save(tmp_path, {}, capacity=1)
    assert saved is not None and not saved.damage()
    (saved.adapter("solver") / WEIGHTS).unlink()
    assert "is missing" in Checkpoint(saved.path).damage()


def test_every_process_begins_with_the_same_adapter_and_each_policy_with_its_own(tiny_model: str) -> None:
    torch.manual_seed(1)
    one = trainer(tiny_model, "adapters")
    torch.manual_seed(2)
    drawn = torch.rand(1)
    torch.manual_seed(2)
    other = trainer(tiny_model, "adapters")
    assert torch.equal(torch.rand(1), drawn)  # the generator of the process is left as it was
    assert not moved(weights(one), weights(other))
    found = weights(one)
    a = [n.removeprefix("solver/") for n in found if n.startswith("solver/") and ".lora_A." in n]
    assert a and not any(torch.equal(found[f"solver/{n}"], found[f"proposer/{n}"]) for n in a)


def test_targets_choose_the_layers(tiny_model: str, tmp_path: Path) -> None:
    t = trainer(tiny_model, "adapters", "policies.solver.adapter.targets=[q_proj,v_proj]")
    layers = {n.split(".")[-3] for n in t.policies["solver"].weights()}
    assert layers == {"q_proj", "v_proj"}
    assert {n.split(".")[-3] for n in t.policies["proposer"].weights()} > layers
    saved = t.save(tmp_path, {}, capacity=1)
    assert saved is not None
    state = read_adapter(saved.adapter("solver"))
    adapter = t.policies["solver"].policy.adapter
    assert adapter is not None and scaled(state, adapter).keys() == state.keys()


@pytest.mark.parametrize("target", ["no_such_layer", "embed_tokens", "lm_head"])
def test_a_target_that_cannot_be_adapted_is_refused(tiny_model: str, target: str) -> None:
    from azero.errors import UserError

    with pytest.raises(UserError, match=r"policies.solver.adapter: no adapter fits"):
        trainer(tiny_model, "adapters", f"policies.solver.adapter.targets=[{target}]")


def test_a_policy_that_did_not_move_is_not_published_again(tiny_model: str) -> None:
    t = trainer(tiny_model, "separate")
    assert set(t.publish()) == {"proposer", "solver"}
    t.step(batch(t, roles=["solver"]))
    assert set(t.publish()) == {"solver"}
    t.step(batch(t, 1))
    assert set(t.publish()) == {"proposer", "solver"}


def test_a_name_that_torch_has_for_itself_is_refused_for_an_adapter(tiny_model: str) -> None:
    from azero.errors import UserError
    from azero.models.adapters import add_adapters
    from azero.models.loading import load_model

    with pytest.raises(UserError, match=r"policies.train.adapter"):
        add_adapters(load_model(tiny_model), {"train": AdapterConfig(rank=4)})


def test_metrics_of_several_policies_are_of_each_and_of_all(tiny_model: str) -> None:
    t = trainer(tiny_model, "separate", "policies.solver.optim.lr=1e-3")
    metrics = t.step(batch(t)).metrics
    norms = [metrics[f"grad_norm/{name}"] for name in t.policies]
    assert metrics["grad_norm"] == pytest.approx(float(np.hypot(*norms)))
    assert (metrics["lr/proposer"], metrics["lr/solver"]) == (1e-2, 1e-3)
    for key in ("loss/total", "loss/policy"):
        assert metrics[key] == pytest.approx(sum(metrics[f"{key}/{name}"] for name in t.policies))
    low, high = sorted(metrics[f"entropy/{name}"] for name in t.policies)
    assert low <= metrics["entropy"] <= high
