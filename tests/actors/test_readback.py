"""The proof by tensors: what each engine computes with against what was published, in both types."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from helpers import at, publication
from torch import Tensor

from actors.proof import SyncProof
from actors.vllm_readback import Placement, Reading, held_weights, unprovable
from azero.errors import SyncError
from azero.models.weights import digest, digests, flatten, owned_state, unflatten, value_sum
from azero.types import SHARED, ProbeSet, SyncReport

ANY = 1e9  # nats: so that the tensors decide alone
SEQUENCE = (5, 6, 7, 8)


@pytest.fixture(scope="module")
def engines(tiny_path: str) -> Iterator[dict[str, Any]]:
    from actors.hf_engine import HfEngine

    yield {dtype: HfEngine(tiny_path, dtype, max_num_seqs=8, device="cpu") for dtype in ("float32", "bfloat16")}


@pytest.fixture(scope="module")
def vllm_bfloat16(tiny_path: str) -> Iterator[Any]:
    from actors.vllm_engine import VllmEngine

    engine = VllmEngine(
        tiny_path, "bfloat16", max_model_len=64, max_num_seqs=8, kv_cache_gib=0.01, gpu_memory_utilization=0.2
    )
    yield engine  # not closed: that would take vLLM's process groups from the session's engine


@pytest.fixture(
    params=[
        *(pytest.param(("vllm", dtype), marks=pytest.mark.slow) for dtype in ("float32", "bfloat16")),
        *(("hf", dtype) for dtype in ("float32", "bfloat16")),
    ],
    ids="-".join,
)
def engine(request: pytest.FixtureRequest) -> Any:
    name, dtype = request.param
    if name == "hf":
        return request.getfixturevalue("engines")[dtype]
    return request.getfixturevalue("vllm_session" if dtype == "float32" else "vllm_bfloat16")


def kind(engine: Any) -> str:
    return str(engine.dtype).removeprefix("torch.")


def versions(model: Any, dtype: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Two sets of weights, the second a small step after the first. No tensor stays the same."""
    old, _ = published(owned_state(model), dtype)
    generator = torch.Generator().manual_seed(3)
    stepped = {n: t + 2e-3 * torch.randn(t.shape, generator=generator).sign() for n, t in owned_state(model).items()}
    new, _ = published(stepped, dtype)
    assert all(not torch.equal(old[name], new[name]) for name in new)
    return old, new


def published(state: Any, dtype: str) -> tuple[dict[str, Tensor], dict[str, int]]:
    buffer, manifest = flatten(state, getattr(torch, dtype))
    return unflatten(buffer, manifest, dtype), digests(buffer, manifest, dtype)


def prove(engine: Any, weights: Any, loaded: Any, tolerance: float = ANY) -> SyncReport:
    """Of a sync that publishes `weights`, where the engine gets `loaded`."""
    probes = ProbeSet(sequences=(SEQUENCE,), logprobs=((-1.0,) * 3,), digests=published(weights, kind(engine))[1])
    published_as = publication(7, kind(engine))
    load = loaded if callable(loaded) else partial(engine.load, at(7), loaded)
    return SyncProof(tolerance).load_and_prove(engine, published_as, load, lambda: {SHARED: probes})


def test_each_single_stale_tensor_is_caught_and_named(engine: Any, model: Any) -> None:
    old, new = versions(model, kind(engine))
    assert len(new) == 26
    for name in new:
        with pytest.raises(SyncError, match=rf"version 7: 1 of 26 tensors in the engine are not .*: {name}$"):
            prove(engine, new, new | {name: old[name]})
        assert engine.version is None
    report = prove(engine, new, new)
    assert (engine.version, report.tensors, report.tensors_in_order) == (at(7), 26, 26)
    assert 0 < report.proof_seconds < report.seconds


def test_one_changed_bit_is_enough(engine: Any, model: Any) -> None:
    _, new = versions(model, kind(engine))
    for name in ("model.layers.1.mlp.gate_proj.weight", "model.norm.weight"):
        wrong = new[name].clone()
        wrong.view(torch.int16).view(-1)[-2] ^= 1
        with pytest.raises(SyncError, match=name):
            prove(engine, new, new | {name: wrong})
        with pytest.raises(SyncError, match=name):  # the same elements in another order
            prove(engine, new, new | {name: new[name].flip(0)})


def test_the_right_engine_is_never_accused(engine: Any, model: Any) -> None:
    for weights in versions(model, kind(engine)) * 10:
        prove(engine, weights, weights)


def test_a_weight_that_changes_after_the_load_is_caught(engine: Any, model: Any) -> None:
    old, new = versions(model, kind(engine))
    name = "model.layers.0.self_attn.k_proj.weight"

    def load(part: str) -> None:
        engine.load(at(7), new, part)
        engine.load(at(7), new | {name: old[name]}, part)

    with pytest.raises(SyncError, match=name):
        prove(engine, new, load)


def test_without_digests_nothing_is_proven(engine: Any, model: Any) -> None:
    _, new = versions(model, kind(engine))
    with pytest.raises(SyncError, match="no digests of its tensors, so nothing is proven"):
        probes = ProbeSet(sequences=(SEQUENCE,), logprobs=((-1.0,) * 3,))
        published_as = publication(7, kind(engine))
        SyncProof(ANY).load_and_prove(engine, published_as, partial(engine.load, at(7), new), lambda: {SHARED: probes})


@pytest.mark.slow
def test_a_matrix_that_is_packed_from_old_weights_is_caught(vllm_engine: Any, model: Any) -> None:
    """Only what vLLM multiplies by is old: the tied head, and a linear layer."""
    old, new = versions(model, "float32")
    vllm = vllm_engine._llm.collective_rpc("get_model")[0]
    head, layer = vllm.lm_head, vllm.model.layers[1].mlp.down_proj
    for module, name in ((head, "model.embed_tokens.weight"), (layer, "model.layers.1.mlp.down_proj.weight")):
        vllm_engine.load(at(6), old)
        packed = module.cpu_linear

        def load(part: str, module: Any = module, packed: Any = packed) -> None:
            vllm_engine.load(at(7), new, part)
            module.cpu_linear = packed

        with pytest.raises(SyncError, match=rf": 1 of 26 tensors .*: {name}$"):
            prove(vllm_engine, new, load)
    prove(vllm_engine, new, new)


@pytest.mark.slow
def test_a_layer_that_gets_no_weights_is_caught(vllm_engine: Any, model: Any) -> None:
    _, new = versions(model, "float32")
    for name in ("model.layers.1.input_layernorm.weight", "model.layers.0.mlp.down_proj.weight"):
        vllm_engine.load(at(6), owned_state(model))
        given = [(n, t) for n, t in new.items() if n != name]

        def load(_: str, given: Any = given) -> None:
            vllm_engine._llm.collective_rpc("replace_weights", args=(given,))

        with pytest.raises(SyncError, match=name):
            prove(vllm_engine, new, load)


def test_digests_see_bytes_and_order_and_sums_see_elements() -> None:
    assert digest(torch.tensor([1, 0], dtype=torch.int64)) == -6696874842932477345
    for dtype in (torch.float32, torch.bfloat16):
        for size in (1, 3, 4096, 100_003):
            tensor = torch.randn(size + 1, generator=torch.Generator().manual_seed(size)).to(dtype)[1:]
            assert digest(tensor) == digest(tensor.clone()) and value_sum(tensor) == value_sum(tensor.flip(0))
            assert value_sum(torch.cat([tensor, torch.zeros(9, dtype=dtype)])) == value_sum(tensor)
            if size > 1:
                assert digest(tensor) != digest(tensor.flip(0))
            for i in {0, size // 2, size - 1}:
                changed = tensor.clone()
                changed.view(torch.int16)[-1 - i] ^= 1
                assert digest(changed) != digest(tensor) and value_sum(changed) != value_sum(tensor)


def test_shares_of_several_workers_add_up() -> None:
    """The matrix is split by columns, the bias by halves, the norm is on both."""
    shapes = {"w": (4, 6), "b": (4,), "n": (6,)}
    state = {name: torch.arange(1.0, 1 + np.prod(shape)).view(shape) for name, shape in shapes.items()}
    share = {"w": Placement(spans=((0, 12),), members={"w": 12}), "b": Placement(spans=((0, 2),), members={"b": 2})}
    placements = [share | {"n": Placement(pieces=(("n", 0, 6),))}] * 2
    assert unprovable(placements, shapes) == []
    assert unprovable(placements[:1], shapes) == ["w", "b"]
    given = {n: (digest(state[n]), value_sum(state[n])) for n in ("w", "b")}

    def readings(held: dict[str, Tensor]) -> list[Reading]:
        parts = [{"w": held["w"][:, :3], "b": held["b"][:2]}, {"w": held["w"][:, 3:], "b": held["b"][2:]}]
        sums = [{key: value_sum(part) for key, part in worker.items()} for worker in parts]
        return [Reading((("n", digest(held["n"])),), s, given, 0.5) for s in sums]

    right = held_weights(placements, readings(state), shapes)
    assert right.digests == {name: digest(tensor) for name, tensor in state.items()} and right.in_order == 1
    for name, tensor in state.items():
        wrong = tensor.clone()
        wrong[-1] += 1
        found = held_weights(placements, readings(state | {name: wrong}), shapes).digests
        assert {n for n in shapes if found[n] != right.digests[n]} == {name}


def families() -> dict[str, Any]:
    """Transposed, interleaved, biased, and with a head of its own."""
    from transformers import BloomConfig, GPT2Config, Phi3Config, Qwen3MoeConfig

    size: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    return {
        "gpt2": GPT2Config(vocab_size=99, n_embd=64, n_layer=2, n_head=2, n_positions=128, **ids),
        "bloom": BloomConfig(vocab_size=99, hidden_size=64, n_layer=2, n_head=2, **ids),
        "phi3": Phi3Config(
            vocab_size=99, intermediate_size=128, num_key_value_heads=1, max_position_embeddings=128, **size, **ids
        ),
        "qwen3_moe": Qwen3MoeConfig(
            vocab_size=99, intermediate_size=128, moe_intermediate_size=64, num_experts=4, num_experts_per_tok=2,
            num_key_value_heads=1, head_dim=32, max_position_embeddings=128, **size, **ids,
        ),
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "bloom", "phi3", "qwen3_moe"])
def test_layouts_of_other_families(family: str, tiny_path: str, tmp_path: Any) -> None:
    import shutil

    from transformers import AutoModelForCausalLM

    from actors.vllm_engine import VllmEngine

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(families()[family])
    shutil.copytree(tiny_path, tmp_path / "m", ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    model.save_pretrained(tmp_path / "m")
    engine = VllmEngine(
        str(tmp_path / "m"), "float32", max_model_len=64, max_num_seqs=8, kv_cache_gib=0.01, gpu_memory_utilization=0.2
    )
    old, new = versions(model, "float32")
    report = prove(engine, new, new)
    others = {"gpt2": 8, "bloom": 4}  # matrices that are transposed, or have query, key and value interleaved
    assert report.tensors_in_order == len(new) - others.get(family, 0)
    for name in new:
        with pytest.raises(SyncError, match="tensors in the engine are not those"):
            prove(engine, new, new | {name: old[name]})
    assert prove(engine, new, new).tensors == len(new)
