"""What both sides of a pair are given: models, sizes, configurations, rows of training, and how a rate is taken."""

from __future__ import annotations

import pickle
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from azero.config import load_config

WARM_UP = 2  # steps, or calls
LR = 1e-6  # the weights hardly move, so that every step is like the last
CACHE = Path(tempfile.gettempdir()) / "azero-bench"
GENERATED = 16  # tokens of a completion, at most
BATCH = 16, 16  # problems, solutions
COMMON = ["run.eval_every=0", "run.checkpoint_every=0", "eval.samples=0", "cluster.progress=plain", "run.sinks=[]"]
COMMON += ["learner.keep_every=0", "task.exclude_evaluation=false", "rollout.max_num_seqs=512", f"optim.lr={LR}"]
GRPO = ["baseline.by=problem", "task.source=fixed", "task.fixed_size=256"]


def small_model() -> str:
    """A folder with a model of 3.2M parameters, with the weights that it was initialised with."""
    folder = CACHE / "small"
    if not (folder / "config.json").exists():
        import torch
        from transformers import Qwen2Config, Qwen2ForCausalLM

        from benchmarks.pretraining import build_tokenizer

        torch.manual_seed(0)
        tokenizer = build_tokenizer()
        shape = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 8}
        ids = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1}
        config = Qwen2Config(
            vocab_size=len(tokenizer), num_key_value_heads=8, max_position_embeddings=512, tie_word_embeddings=True,
            **shape, **ids,
        )  # fmt: skip
        Qwen2ForCausalLM(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return str(folder)


def model_path(model: str) -> str:
    return small_model() if model == "small" else model


def shape(model: str, dtype: str, *, steps: int, problems: int = BATCH[0], tokens: int = GENERATED) -> list[str]:
    return [
        f"model.path={model_path(model)}", f"model.dtype={dtype}", f"run.steps={steps}",
        f"rollout.problems_per_step={problems}", f"rollout.solutions_per_problem={BATCH[1]}",
        f"rollout.max_new_tokens={tokens}", "rollout.temperature=1.0",
    ]  # fmt: skip


def configured(config: str, overrides: Sequence[str]) -> Any:
    """A shipped config with both cores for each side."""
    return load_config(config, ["rollout.threads=2", "learner.threads=2", "rollout.actors=1", *overrides])


def rows_of(config: str) -> list[Any]:
    """Rows of the last batch that `rollout_azero` played, with advantages of both signs."""
    from azero.types import TrainRow

    rng, samples = random.Random(0), pickle.loads((CACHE / f"played-{config}" / "rows.pickle").read_bytes())
    return [
        TrainRow(
            prompt_ids=s.completion.prompt_ids, token_ids=s.completion.token_ids, behaviour=s.completion.logprobs,
            temperature=1.0, advantage=rng.choice((-1.0, 1.0)), part=s.role,
        )
        for s in samples
    ]  # fmt: skip


def flop_of_update(net: Any, tokens: int, predicting: int) -> float:
    """FLOP of forward and backward over so many tokens, of which some predict: 6 a weight, without attention's."""
    head = net.get_output_embeddings().weight.numel()
    body = sum(p.numel() for p in net.base_model.parameters()) - net.get_input_embeddings().weight.numel()
    return float(6 * (body * tokens + head * predicting))


def rate(step: Callable[[], Any], tokens: int) -> dict[str, float]:
    """After a warm-up, at least three steps, and as many as ten seconds have room for."""
    step()
    times: list[float] = []
    while len(times) < 3 or sum(times) < 10:
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    seconds = statistics.median(times)
    return {"tokens_per_s": tokens / seconds, "seconds": seconds}
