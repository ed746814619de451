"""Two adapters on one base in an engine, and two engines in one process: each policy is served with its own weights."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import at
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from actors.engines import EngineGroup, build_engine
from actors.proof import SyncProof
from azero.config import BASE, AdapterConfig, RolloutConfig, load_config
from azero.errors import SyncError
from azero.models.adapters import adapter_state, add_adapters, scaled, wear
from azero.models.loading import load_configs, load_model
from azero.models.weights import digest, owned_state
from azero.policies import Policies, policies_of
from azero.types import HeldWeights, ProbeSet, Publication, PublishedWeights, Role, Sampling

ENGINES = [pytest.param("vllm", marks=pytest.mark.slow), "hf"]
SEQUENCES = ((5, 6, 7, 8, 9, 10, 11), (40, 41, 42))
NAMES = ("proposer", "solver")


def policies(path: str, *overrides: str) -> Policies:
    return policies_of(load_config("base", [f"model.path={path}", *overrides]))


def built(path: str, kind: str, *overrides: str) -> Any:
    rollout = RolloutConfig(engine=kind, max_model_len=64, max_num_seqs=32, kv_cache_gib=0.05)  # type: ignore[arg-type]
    return build_engine(load_config("base").model, rollout, 0, policies(path, *overrides))


class Reference:
    """peft's own forward pass of the same weights."""

    def __init__(self, path: str, alpha: float = 6.0, rank: int = 4) -> None:
        self.adapters = {name: AdapterConfig(rank=rank, alpha=alpha) for name in NAMES}
        self.model = load_model(path).eval()
        add_adapters(self.model, self.adapters)
        self.draw = torch.Generator().manual_seed(0)
        self.move()

    @torch.no_grad()
    def move(self, by: float = 0.2) -> None:
        for name in NAMES:
            for tensor in adapter_state(self.model, name).values():
                tensor += by * torch.randn(tensor.shape, generator=self.draw)

    def sent(self, part: str) -> dict[str, Tensor]:
        """The tensors as they travel, copied."""
        state = owned_state(self.model)
        if part != BASE:
            state = scaled(adapter_state(self.model, part), self.adapters[part])
        return {name: tensor.detach().clone() for name, tensor in state.items()}

    @torch.no_grad()
    def logprobs(self, policy: str, ids: tuple[int, ...]) -> list[float]:
        wear(self.model, None if policy == BASE else policy)
        logits = self.model(input_ids=torch.tensor([ids])).logits[0, :-1]
        return logits.log_softmax(-1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].tolist()

    def probes(self) -> dict[str, ProbeSet]:
        return {
            part: ProbeSet(
                sequences=SEQUENCES,
                logprobs=tuple(tuple(self.logprobs(part, s)) for s in SEQUENCES),
                digests={name: digest(tensor) for name, tensor in self.sent(part).items()},
            )
            for part in (BASE, *NAMES)
        }


def publication(step: int, since: Mapping[str, int]) -> Publication:
    parts = {p: PublishedWeights(layout=(), dtype="float32", bytes=1, since=at(n)) for p, n in since.items()}
    return Publication(version=at(step), parts=parts)


@pytest.fixture(scope="module", params=ENGINES)
def session(request: pytest.FixtureRequest, tiny_path: str) -> Iterator[Any]:
    shape = ["policies=adapters", *(f"policies.{name}.adapter.rank=4" for name in NAMES)]
    engine = built(tiny_path, request.param, *shape)
    yield engine
    engine.close()


@pytest.fixture
def reference(tiny_path: str) -> Reference:
    return Reference(tiny_path)


@pytest.fixture
def engine(session: Any, reference: Reference) -> Any:
    for part in (BASE, *NAMES):
        session.load(at(0), reference.sent(part), part)
    session.reseed(0)
    return session


def gap(one: list[float], other: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def test_each_policy_scores_as_peft_does(engine: Any, reference: Reference) -> None:
    scores = {part: engine.score(SEQUENCES, part) for part in (BASE, *NAMES)}
    for part, found in scores.items():
        for sequence, ours in zip(SEQUENCES, found, strict=True):
            assert gap(ours, reference.logprobs(part, sequence)) <= 1e-4, part
    assert len({str(found) for found in scores.values()}) == 3  # three different functions


def test_a_mixed_batch_logs_the_log_probs_of_each_policy(engine: Any, reference: Reference) -> None:
    for name in NAMES:
        for i, prompt in enumerate(((5, 6, 7), (5, 6, 7, 8, 9))):
            engine.submit((name, i), prompt, 4, Sampling(temperature=1.0, max_new_tokens=6), name)
    found = {}
    while engine.busy():
        found.update(engine.step())
    assert len(found) == 4
    for (name, _), completions in found.items():
        for c in completions:
            assert (c.policy, c.version) == (name, 0)
            ids = c.prompt_ids + c.token_ids
            assert gap(list(c.logprobs), reference.logprobs(name, ids)[-len(c.token_ids) :]) <= 1e-4


def test_no_prefix_of_a_former_adapter_is_read_again(engine: Any, reference: Reference) -> None:
    prompt = tuple(range(5, 45))  # longer than a block of vLLM's cache
    sampling = Sampling(temperature=1.0, max_new_tokens=4)
    for step in (1, 2):
        reference.move()
        for name in NAMES:
            engine.load(at(step), reference.sent(name), name)
        for name in NAMES:
            engine.submit(name, prompt, 2, sampling, name)
        while engine.busy():
            for name, completions in engine.step():
                for c in completions:
                    expected = reference.logprobs(name, prompt + c.token_ids)[-len(c.token_ids) :]
                    assert gap(list(c.logprobs), expected) <= 1e-4


def test_each_tensor_of_an_adapter_moves_the_engine_as_it_moves_the_learner(engine: Any, reference: Reference) -> None:
    state = adapter_state(reference.model, "solver")
    others = engine.score(SEQUENCES, "proposer")
    for name, tensor in state.items():
        with torch.no_grad():
            tensor += 0.3 * torch.randn(tensor.shape, generator=reference.draw)
        before = engine.score(SEQUENCES[:1], "solver")[0]
        engine.load(at(1), reference.sent("solver"), "solver")
        now, expected = engine.score(SEQUENCES[:1], "solver")[0], reference.logprobs("solver", SEQUENCES[0])
        assert gap(now, expected) <= 1e-4 and gap(now, before) > 1e-5, name
    assert engine.score(SEQUENCES, "proposer") == others


def test_only_what_is_new_is_loaded_and_proven(engine: Any, reference: Reference) -> None:
    proof, loaded = SyncProof(1e-4), list[str]()
    probes = reference.probes()

    def load(part: str) -> None:
        loaded.append(part)
        engine.load(at(1), reference.sent(part), part)

    report = proof.load_and_prove(engine, publication(1, {BASE: 0, "proposer": 0, "solver": 0}), load, lambda: probes)
    assert loaded == [BASE, *NAMES] and set(report.gaps) == set(loaded)
    reference.move()
    loaded.clear()
    probes = reference.probes()
    report = proof.load_and_prove(engine, publication(2, {BASE: 0, "proposer": 2, "solver": 2}), load, lambda: probes)
    assert loaded == list(NAMES) and set(report.bytes) == set(NAMES)
    assert report.tensors == report.tensors_in_order == sum(len(probes[name].digests) for name in NAMES)
    engine.keep(at(2), "proposer")
    engine.keep(at(2), "solver")
    assert engine.version == at(2)


@pytest.mark.parametrize("policy", NAMES)
def test_every_stale_tensor_of_an_adapter_stops_the_run(engine: Any, reference: Reference, policy: str) -> None:
    old = {part: reference.sent(part) for part in (BASE, *NAMES)}
    reference.move(0.001)  # too little for the log-probs to show
    probes = reference.probes()
    for stale in list(old[policy])[:: 5 if type(engine).__name__ == "VllmEngine" else 1]:
        proof = SyncProof(1e9)

        def load(part: str, stale: str = stale) -> None:
            weights = reference.sent(part)
            if part == policy:
                weights[stale] = old[policy][stale]
            engine.load(at(1), weights, part)

        with pytest.raises(SyncError, match=rf"of {policy}: 1 of \d+ tensors .*{stale}"):
            proof.load_and_prove(engine, publication(1, dict.fromkeys((BASE, *NAMES), 1)), load, lambda: probes)
        assert engine.version is None


def test_an_adapter_that_is_another_s_is_caught(engine: Any, reference: Reference) -> None:
    probes = reference.probes()

    def swapped(part: str) -> None:
        other = {"proposer": "solver", "solver": "proposer"}.get(part, part)
        engine.load(at(1), reference.sent(other), part)

    with pytest.raises(SyncError, match="tensors in the engine are not those"):
        SyncProof(1e9).load_and_prove(engine, publication(1, dict.fromkeys((BASE, *NAMES), 1)), swapped, lambda: probes)


def test_an_engine_refuses_what_is_no_part_of_it(engine: Any, reference: Reference) -> None:
    with pytest.raises(KeyError):
        engine.submit("x", (5, 6), 1, Sampling(temperature=1.0, max_new_tokens=2), "shared")
    wrong = reference.sent("solver")
    wrong.pop(next(iter(wrong)))
    with pytest.raises(SyncError, match="1 missing"):
        engine.load(at(1), wrong, "solver")


@pytest.mark.parametrize("kind", ENGINES)
def test_two_models_are_served_by_two_engines_as_one(tiny_path: str, kind: str) -> None:
    engine = built(tiny_path, kind, "policies=separate")
    try:
        assert isinstance(engine, EngineGroup) and len(engine.engines) == 2
        models = {name: load_model(tiny_path).eval() for name in NAMES}
        with torch.no_grad():
            for i, (name, model) in enumerate(models.items()):
                for parameter in model.parameters():
                    parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
                engine.load(at(3), owned_state(model), name)
        assert engine.version == at(3)
        for name in NAMES:
            engine.submit(name, (5, 6, 7), 3, Sampling(temperature=1.0, max_new_tokens=4), name)
        found = {}
        while engine.busy():
            found.update(engine.step())
        for name, completions in found.items():
            for c in completions:
                ids = torch.tensor([c.prompt_ids + c.token_ids])
                with torch.no_grad():
                    logprobs = models[name](input_ids=ids).logits[0, :-1].log_softmax(-1)
                expected = logprobs[torch.arange(ids.shape[1] - 1), ids[0, 1:]][-len(c.token_ids) :]
                assert gap(list(c.logprobs), expected.tolist()) <= 1e-4
        again = []
        for _ in range(2):
            engine.reseed(7)
            for name in NAMES:
                engine.submit(name, (5, 6, 7), 3, Sampling(temperature=1.0, max_new_tokens=4), name)
            drawn: list[Any] = []
            while engine.busy():
                drawn += engine.step()
            again.append(drawn)
        assert again[0] == again[1]
        engine.load(at(4), owned_state(models["solver"]), "solver")
        assert engine.version is None  # of which one is older
    finally:
        engine.close()


def test_a_group_asks_the_engine_that_serves_a_policy() -> None:
    class One:
        max_tokens = 10

        def __init__(self, name: str) -> None:
            self.name, self.kept = name, []  # type: ignore[var-annotated]

        def held(self, policy: str) -> HeldWeights:
            return HeldWeights(digests={self.name: 1}, in_order=1, seconds=0.0)

        def keep(self, version: Any, policy: str) -> None:
            self.kept.append((version, policy))

    a, b = One("a"), One("b")
    group = EngineGroup({"proposer": a, "solver": b, "base": b})  # type: ignore[dict-item]
    assert group.engines == [a, b] and group.max_tokens == 10
    assert group.held("base").digests == {"b": 1} and group.held("proposer").digests == {"a": 1}
    group.keep(at(1), "base")
    assert b.kept == [(at(1), "base")] and not a.kept


def test_an_actor_of_one_role_has_one_engine_and_measures_for_both(tiny_path: str) -> None:
    given = ["policies=separate", "policies.proposer.model=embedded", "rollout.engine=hf", "rollout.max_model_len=400"]
    config = load_config("local", [*given, f"model.path={tiny_path}"])
    engine, whole = (
        build_engine(config.model, config.rollout, 0, policies_of(config), roles) for roles in ((Role.SOLVER,), Role)
    )
    assert isinstance(engine, EngineGroup) and len(engine.engines) == 1
    ids = [engine.encode("12 + ab", policy=name) for name in NAMES]
    assert ids[0] != ids[1] and ids == [whole.encode("12 + ab", policy=name) for name in NAMES]
    assert engine.max_tokens == whole.max_tokens
    with pytest.raises(KeyError):
        engine.submit("x", (5, 6), 1, Sampling(temperature=1.0, max_new_tokens=2), "proposer")
    engine.load(at(3), owned_state(load_model(tiny_path)), "solver")
    assert engine.version == at(3)


@pytest.mark.slow
def test_a_family_whose_embeddings_vllm_would_adapt_too(tiny_path: str, tmp_path: Path) -> None:
    """Llama: vLLM has room for adapters of its embeddings and head, which no adapter of ours has."""
    shutil.copytree(tiny_path, tmp_path, dirs_exist_ok=True)
    tiny = load_configs(tiny_path)[0].to_dict()
    keys = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "eos_token_id",
    )
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**{key: tiny[key] for key in keys}, tie_word_embeddings=True)).save_pretrained(
        tmp_path
    )
    reference = Reference(str(tmp_path))
    rank = [f"policies.{name}.adapter.rank=4" for name in NAMES]
    engine = built(str(tmp_path), "vllm", "policies=adapters", *rank)
    for part in (BASE, *NAMES):
        engine.load(at(0), reference.sent(part), part)
    for part in (BASE, *NAMES):
        assert engine.held(part).digests == {n: digest(t) for n, t in reference.sent(part).items()}
        for sequence, ours in zip(SEQUENCES, engine.score(SEQUENCES, part), strict=True):
            assert gap(ours, reference.logprobs(part, sequence)) < 1e-4
    engine.close()


@pytest.mark.slow
@pytest.mark.parametrize("slots", [[0, 0, 1, 1, 1, -1], [1, 1], [-1, -1], [0, 1, -1, 0, 1, 0, -1, 1, 0], [1]])
def test_products_with_adapters_are_those_of_each_token(slots: list[int]) -> None:
    """In rows of tokens of one adapter, and mixed."""
    from vllm.lora.layers import LoRAMapping

    from actors.vllm_products import JointProducts, joined

    draw = torch.Generator().manual_seed(0)
    a, b = (tuple(torch.randn(2, 1, *shape, generator=draw) for _ in range(2)) for shape in ((4, 8), (6, 4)))
    x, y = torch.randn(len(slots), 8, generator=draw), torch.randn(len(slots), 12, generator=draw)
    expected = y.clone()
    for i, slot in enumerate(slots):
        if slot >= 0:
            expected[i] += torch.cat([b[s][slot, 0] @ (a[s][slot, 0] @ x[i]) for s in range(2)])
    layer = SimpleNamespace(lora_a_stacked=a, lora_b_stacked=b)
    joined(layer)
    for given, held in ((a, layer.lora_a_stacked), (b, layer.lora_b_stacked)):
        assert all(torch.equal(one, other) for one, other in zip(given, held, strict=True))
    products = JointProducts(64, max_batches=16, device="cpu")
    numbers = tuple(slot + 1 for slot in slots)  # vLLM's, of which 0 is no adapter
    products.update_metadata(LoRAMapping(numbers, numbers, is_prefill=True), [1, 2], 3, 100)
    products.add_lora_linear(y, x, layer.lora_a_stacked, layer.lora_b_stacked, 1.0, (6, 6))
    assert torch.allclose(y, expected, atol=1e-5)


def test_ranks_that_vllm_has_no_room_of_its_own_for() -> None:
    from actors.vllm_start import room_for

    assert [room_for([r]) for r in (1, 4, 8, 12, 100, 512)] == [1, 8, 8, 16, 128, 512]
    assert room_for([4, 33]) == 64


def test_the_reference_differs_from_its_base(tiny_path: str) -> None:
    """Or the tests above would compare nothing."""
    reference = Reference(tiny_path)
    found = [reference.logprobs(part, SEQUENCES[0]) for part in (BASE, *NAMES)]
    assert gap(found[0], found[1]) > 1e-3 and gap(found[1], found[2]) > 1e-3
