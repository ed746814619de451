"""What an engine cannot run, it says in one line before the first sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from actors.hf_engine import HfEngine
from actors.vllm_engine import VllmEngine
from actors.vllm_start import REASON, reason
from azero.errors import UserError
from benchmarks.architectures import write


@pytest.mark.parametrize("name", ["Mamba", "RWKV", "MiniMax"])
def test_a_cache_that_serves_no_batch_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rollout\.engine=hf cannot sample from a batch .*rollout\.engine=vllm") as e:
        HfEngine(write(name, tmp_path), "float32", max_num_seqs=4, device="cpu")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", ["Gemma-2", "LFM-2", "Bloom", "GPT-OSS"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_that_serves_is_not(name: str, dtype: Any, tmp_path: Path) -> None:
    HfEngine(write(name, tmp_path), dtype, max_num_seqs=4, device="cpu")


def test_a_batch_that_samples_from_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = HfEngine._left_padded

    def unmasked(self: HfEngine, prompts: Any) -> Any:
        ids, mask = inside(self, prompts)
        return ids, mask * 0 + 1

    monkeypatch.setattr(HfEngine, "_left_padded", unmasked)
    with pytest.raises(UserError, match=r"they are off by [\d.]+ nats in the mean \(allowed: 0\.001\)"):
        HfEngine(write("Qwen2", tmp_path), "float32", max_num_seqs=4, device="cpu")


class Listing(ValueError):
    """As pydantic's: a reason, and all of a config."""

    def errors(self) -> list[dict[str, str]]:
        return [{"msg": "Value error, head size 20\nis not supported"}]


def chained(outer: Exception, cause: Exception) -> Exception:
    outer.__cause__ = cause
    return outer


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("no  room\n for a cache"), "no room for a cache"),
        (Listing("\n".join("config" for _ in range(140))), "Value error, head size 20 is not supported"),
        (chained(RuntimeError("Engine core initialization failed"), ValueError("head size 20")), "head size 20"),
        (NotImplementedError(), "NotImplementedError: NotImplementedError"),
        (RuntimeError("x" * 5000), "RuntimeError: " + "x" * (REASON - 14) + "..."),
    ],
)
def test_why_vllm_does_not_start_is_one_line(
    error: Exception, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    assert reason(error) == said
    monkeypatch.setattr("actors.vllm_engine.start", fail)
    with pytest.raises(
        UserError, match=r"rollout\.engine=vllm: vLLM refuses .*; change these, or use rollout\.eng"
    ) as e:
        VllmEngine(
            write("Qwen2", tmp_path),
            "float32",
            max_model_len=64,
            max_num_seqs=2,
            kv_cache_gib=0.1,
            gpu_memory_utilization=0.1,
        )
    assert said in str(e.value) and "\n" not in str(e.value)
