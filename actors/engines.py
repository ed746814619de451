"""Which engine a configuration means, and the shortest way to use one."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from azero.config import ModelConfig, RolloutConfig
from azero.engine import Engine
from azero.errors import UserError
from azero.models.loading import resolve_model_path
from azero.types import Completion, Sampling


def build_engine(model: ModelConfig, rollout: RolloutConfig, seed: int, path: str | None = None) -> Engine:
    """A warm engine with the weights of `path` (None: what `model.path` means), seeded. Raises UserError."""
    path = resolve_model_path(model.path) if path is None else path
    engine = _build(model, rollout, seed, path)
    engine.reseed(seed)
    return engine


def _build(model: ModelConfig, rollout: RolloutConfig, seed: int, path: str) -> Engine:
    if rollout.engine == "hf":
        from actors.hf_engine import HfEngine

        device = "cuda" if rollout.gpus_per_actor else "cpu"
        return HfEngine(
            path,
            model.dtype,
            max_num_seqs=rollout.max_num_seqs,
            max_model_len=rollout.max_model_len,
            seed=seed,
            device=device,
        )
    if importlib.util.find_spec("vllm") is None:
        raise UserError(
            "rollout.engine=vllm: the package vllm is not installed; install azero[cpu] or azero[gpu], "
            "or use rollout.engine=hf"
        )
    from actors.vllm_engine import VllmEngine

    engine = VllmEngine(
        path,
        model.dtype,
        max_model_len=rollout.max_model_len,
        max_num_seqs=rollout.max_num_seqs,
        kv_cache_gib=rollout.kv_cache_gib,
        gpu_memory_utilization=rollout.gpu_memory_utilization,
        tensor_parallel=rollout.tensor_parallel,
        sleep=rollout.sleep,
        transfer="" if rollout.transfer == "store" else rollout.transfer,
        seed=seed,
    )
    engine.warm_up()
    return engine


def generate(
    engine: Engine, prompts: Sequence[Sequence[int]], n: int, sampling: Sampling
) -> list[tuple[Completion, ...]]:
    """n completions of each prompt, in the order of the prompts. Nothing else may be in flight."""
    for i, prompt in enumerate(prompts):
        engine.submit(i, prompt, n, sampling)
    found: dict[object, tuple[Completion, ...]] = {}
    while engine.busy():
        found.update(engine.step())
    return [found[i] for i in range(len(prompts))]
