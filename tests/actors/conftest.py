"""A tiny random model, and both engines on it. vLLM takes seconds to start: one engine a session."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers import at

from azero.models.loading import load_model
from azero.models.weights import owned_state

END, PAD = "<|end|>", "<|pad|>"
MAX_MODEL_LEN = 320  # tokens: many blocks of vLLM's cache


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Layers this small only wait for each other's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two layers, tied embeddings, head size 32, sharp enough for greedy choices to be clear; byte level, one merge."""
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

    folder = tmp_path_factory.mktemp("tiny")
    symbols = ["\u010a", "\u0120", *map(chr, range(33, 127)), "ab"]
    vocab = {END: 0, PAD: 1} | {symbol: i + 2 for i, symbol in enumerate(symbols)}
    Qwen2Tokenizer(vocab=vocab, merges=[("a", "b")], unk_token=None, eos_token=END, pad_token=PAD).save_pretrained(
        folder
    )
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(vocab),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
    )
    model = Qwen2ForCausalLM(config)
    for name, tensor in owned_state(model).items():  # zero and one by default, which would hide much
        if name.endswith(("bias", "norm.weight")):
            tensor.add_(0.2 * torch.randn_like(tensor))
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def model(tiny_path: str) -> Any:
    """transformers' own, a fresh one each test: the reference."""
    return load_model(tiny_path).eval().requires_grad_(False)


@pytest.fixture(scope="session")
def vllm_session(tiny_path: str) -> Iterator[Any]:
    from actors.vllm_engine import VllmEngine

    engine = VllmEngine(
        tiny_path,
        "float32",
        max_model_len=MAX_MODEL_LEN,
        max_num_seqs=32,
        kv_cache_gib=0.05,
        gpu_memory_utilization=0.2,
    )
    engine.warm_up()
    yield engine
    engine.close()


@pytest.fixture
def vllm_engine(vllm_session: Any, model: Any) -> Any:
    vllm_session.load(at(0), owned_state(model))
    vllm_session.reseed(0)
    return vllm_session


@pytest.fixture
def hf_engine(tiny_path: str, model: Any) -> Any:
    from actors.hf_engine import HfEngine

    engine = HfEngine(tiny_path, "float32", max_num_seqs=32, device="cpu")
    engine.load(at(0), owned_state(model))
    return engine


@pytest.fixture(params=[pytest.param("vllm", marks=pytest.mark.slow), "hf"])
def engine(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(f"{request.param}_engine")
