"""What `bench.py` measures, each in a process of its own: `python benchmarks/measure.py NAME '{"key": value}'`.

A measurement prints one line of JSON, its last: numbers by name.
"""

from __future__ import annotations

import itertools
import json
import os
import pickle
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from azero.config import load_config
from cluster.rundir import read_jsonl

WARM_UP = 3  # steps, or calls
LR = 1e-6  # the weights hardly move, so that every step is like the last
CACHE = Path(tempfile.gettempdir()) / "azero-bench"
GENERATED = 16  # tokens of a completion, at most
BATCH = 16, 16  # problems, solutions
COMMON = ["run.eval_every=0", "run.checkpoint_every=0", "eval.samples=0", "cluster.progress=plain", "run.sinks=[]"]
COMMON += ["learner.keep_every=0", "task.exclude_evaluation=false", "rollout.max_num_seqs=512", f"optim.lr={LR}"]


def small_model() -> str:
    """A folder with a model of 3.2M parameters, with the weights that it was initialised with."""
    folder = CACHE / "small"
    if not (folder / "config.json").exists():
        import torch
        from transformers import Qwen2Config, Qwen2ForCausalLM

        from azero.pretrain import build_tokenizer

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


def azero_run(folder: Path, overrides: Sequence[str], pinned: bool = False) -> list[dict[str, Any]]:
    """`azero train`'s lines of metrics. `pinned`: the actor has the first core, the learner the second."""
    command = [sys.executable, "-m", "cluster.cli", "train", "base", *COMMON, *overrides, f"run.dir={folder}"]
    with open(folder.with_suffix(".log"), "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        while pinned and process.poll() is None and not pin(process.pid):
            time.sleep(0.2)
        if process.wait():
            raise SystemExit(folder.with_suffix(".log").read_text()[-3000:])
    return [m for m in read_jsonl(folder / "metrics.jsonl") if m["step"] > 0]


def pin(root: int) -> bool:
    """Whether both processes were there, each with all of its threads now on a core of its own."""
    found = {}
    for child in psutil.Process(root).children(recursive=True):
        for core, name in enumerate(("ray::RolloutActor", "ray::Learner")):
            if name in " ".join(child.cmdline()):
                found[core] = child
    if len(found) < 2:
        return False
    for core, child in found.items():
        for thread in child.threads():
            os.sched_setaffinity(thread.id, {core})
    return True


def shape(model: str, dtype: str, *, steps: int, problems: int = BATCH[0], tokens: int = GENERATED) -> list[str]:
    return [
        f"model.path={model_path(model)}", f"model.dtype={dtype}", f"run.steps={steps}",
        f"rollout.problems_per_step={problems}", f"rollout.solutions_per_problem={BATCH[1]}",
        f"rollout.max_new_tokens={tokens}", "rollout.temperature=1.0",
    ]  # fmt: skip


GRPO = ["algorithm.name=grpo", "task.source=fixed", "task.fixed_size=256"]


def median(lines: Sequence[dict[str, Any]], key: str) -> float:
    return statistics.median(m[key] for m in lines[WARM_UP:])


def train(model: str, dtype: str, overrides: Sequence[str], pinned: bool = False, **sizes: int) -> dict[str, float]:
    """Medians over the steps of a run: what of a step's time went where, and solver samples a second."""
    with tempfile.TemporaryDirectory() as folder:
        lines = azero_run(Path(folder) / "run", [*shape(model, dtype, **sizes), *overrides], pinned)
    keys = ["time/step", "time/generate", "time/learn", "throughput/samples_per_s", "sync/seconds", "sync/bytes"]
    return {key: median(lines, key) for key in keys}


def growth_with_steps(steps: int) -> dict[str, float]:
    """Median seconds a step around step 10 and around the last one, of one run."""
    with tempfile.TemporaryDirectory() as folder:
        small = shape("small", "float32", steps=steps, problems=4, tokens=4)
        lines = azero_run(Path(folder) / "run", [*small, *GRPO, "rollout.engine=hf", "run.samples_text_share=0"])
    times = [m["time/step"] for m in lines]
    return {"early": statistics.median(times[5:25]), "late": statistics.median(times[-20:])}


def growth_with_buffer(problems: int) -> dict[str, float]:
    """Seconds that a step of 32 problems spends on a buffer of so many."""
    from azero.buffer import ProblemBuffer
    from azero.curriculum import SlotSource
    from azero.domains import get_domain
    from azero.types import TIERS

    config, rng = load_config("local"), random.Random(0)
    domain = get_domain("arithmetic")
    buffer = ProblemBuffer(problems, domain.seed_problems())
    while len(buffer) < problems:
        buffer.add(domain.generate(rng, TIERS[2]))
    source, times = SlotSource(domain, config.task, 32, 4, seed=0), []
    for batch in range(50):
        fresh = [domain.generate(rng, TIERS[2]) for _ in range(32)]
        began = time.perf_counter()
        source.slots(batch, buffer)
        for problem in fresh:
            buffer.add(problem)
        times.append(time.perf_counter() - began)
    return {"seconds": statistics.median(times)}


def configured(config: str, overrides: Sequence[str]) -> Any:
    """A shipped config with both cores for each side."""
    return load_config(config, ["rollout.threads=2", "learner.threads=2", "rollout.actors=1", *overrides])


def rollout_azero(config: str, overrides: Sequence[str], batches: int = 10) -> dict[str, float]:
    """Completion tokens a second of a rollout actor of its own process that plays batches of the start model, from the
    call to the answer. Leaves what it played to `rollout_bare` and the learner's measurements.
    """
    import ray

    from actors.rollout import RolloutActor
    from azero.buffer import ProblemBuffer
    from azero.curriculum import SlotSource
    from azero.domains import get_domain
    from azero.models import resolve_model_path
    from azero.types import Assignment, WeightSnapshot
    from cluster.runtime import ray_session
    from cluster.train import probe_texts
    from learner.core import LearnerCore

    c, domain = configured(config, overrides), get_domain("arithmetic")
    path, folder = resolve_model_path(c.model.path), CACHE / f"played-{config}"
    folder.mkdir(parents=True, exist_ok=True)
    learner = LearnerCore(c, path, None, probe_texts(domain))
    weights, manifest = learner.weights()
    probes = learner.policy.probe(learner.probes)
    buffer = ProblemBuffer(c.task.buffer_size, domain.seed_problems())
    source = SlotSource(domain, c.task, c.rollout.problems_per_step, c.rollout.max_tries, c.run.seed)
    rates, steps = [], []
    with ray_session(c.cluster):
        snapshot = WeightSnapshot(
            version=0, manifest=manifest, dtype=c.model.dtype.value, bytes=weights.nbytes, handle=ray.put(weights),
            probes=ray.put(probes),
        )  # fmt: skip
        del learner, weights
        actor = RolloutActor.remote(0, c, path, str(folder / "actor.log"))  # type: ignore[attr-defined]
        for batch in range(batches):
            assignment = Assignment(id=f"{batch}/0", batch=batch, slots=source.slots(batch, buffer))
            began = time.perf_counter()
            episodes = ray.get(actor.play.remote(assignment, snapshot)).episodes
            seconds = time.perf_counter() - began
            asked = [[e.proposal] for e in episodes if e.proposal] + [e.group.samples for e in episodes if e.group]
            completions = [[s.completion for s in samples] for samples in asked]
            steps.append([(cs[0].prompt_ids, [len(c.token_ids) for c in cs]) for cs in completions])
            rates.append(sum(sum(lengths) for _, lengths in steps[-1]) / seconds)
            for e in episodes:
                if e.group:
                    buffer.add(e.group.problem)
    (folder / "steps.json").write_text(json.dumps(steps[WARM_UP:]))
    (folder / "rows.pickle").write_bytes(pickle.dumps([s for e in episodes if e.group for s in e.group.samples]))
    return {"tokens_per_s": statistics.median(rates[WARM_UP:])}


def rollout_bare(config: str, overrides: Sequence[str]) -> dict[str, float]:
    """Completion tokens a second of `LLM.generate`, given a batch's prompts and lengths all at once."""
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    os.environ |= {"VLLM_LOGGING_LEVEL": "ERROR", "OMP_NUM_THREADS": "2"}
    from vllm import LLM, SamplingParams, TokensPrompt

    from azero.models import resolve_model_path

    c = configured(config, overrides)
    llm = LLM(
        model=resolve_model_path(c.model.path), dtype=c.model.dtype.value, enforce_eager=True,
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


def rows_of(config: str) -> list[Any]:
    """Rows of the last batch that `rollout_azero` played, with advantages of both signs."""
    from azero.batch import TrainRow

    rng, samples = random.Random(0), pickle.loads((CACHE / f"played-{config}" / "rows.pickle").read_bytes())
    return [TrainRow(sample=sample, advantage=rng.choice((-1.0, 1.0))) for sample in samples]


def learner_azero(config: str, overrides: Sequence[str], kl_beta: float) -> dict[str, float]:
    """Completion tokens a second of full updates."""
    import torch

    from azero.batch import completion_tokens
    from azero.models import resolve_model_path
    from azero.types import Role
    from learner.policy import PolicyOptimizer

    c = configured(config, overrides)
    c.algorithm.kl_beta, c.optim.lr = kl_beta, LR
    torch.set_num_threads(2)
    path = resolve_model_path(c.model.path)
    policy = PolicyOptimizer(
        model_config=c.model, path=path, reference_path=path,
        algorithm=c.algorithm, optim=c.optim, learner=c.learner, temperature=1.0,
    )  # fmt: skip
    rows = rows_of(config)
    return _rate(lambda: policy.update(rows), completion_tokens(rows, Role.SOLVER))


def learner_bare(config: str, overrides: Sequence[str]) -> dict[str, float]:
    """The same of forward, backward and optimizer step; rows of one length make a batch, so that nothing is padded."""
    import torch

    from azero.batch import completion_tokens
    from azero.config import Dtype
    from azero.models import load_model, resolve_model_path
    from azero.types import Role

    torch.set_num_threads(2)
    c = configured(config, overrides)
    net = load_model(resolve_model_path(c.model.path)).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=LR, fused=True)
    rows = rows_of(config)
    by_shape: dict[tuple[int, int], list[list[int]]] = {}
    for r in rows:
        prompt_ids, ids = r.sample.completion.prompt_ids, r.sample.completion.token_ids
        by_shape.setdefault((len(prompt_ids), len(ids)), []).append([*prompt_ids, *ids])
    batches = [(prompt, torch.tensor(ids)) for (prompt, _), ids in by_shape.items()]

    def step() -> None:
        for prompt, ids in batches:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=c.model.dtype is Dtype.bfloat16):
                logits = net(ids).logits[:, prompt - 1 : -1]
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, prompt:].flatten())
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    tokens = sum(ids.numel() for _, ids in batches)
    rate = _rate(step, completion_tokens(rows, Role.SOLVER))
    weights = sum(p.numel() for p in net.parameters())
    return rate | {"flop_per_s": 6 * weights * tokens / rate["seconds"]}


def _rate(step: Callable[[], Any], tokens: int, repeats: int = 7) -> dict[str, float]:
    times = []
    for i in range(WARM_UP + repeats):
        began = time.perf_counter()
        step()
        if i >= WARM_UP:
            times.append(time.perf_counter() - began)
    seconds = statistics.median(times)
    return {"tokens_per_s": tokens / seconds, "seconds": seconds}


def matrix_products(dtype: str) -> dict[str, float]:
    """The machine's peak as torch reaches it: FLOP a second of a large product."""
    import torch

    torch.set_num_threads(2)
    a, b = (torch.randn(2048, 2048).to(getattr(torch, dtype)) for _ in range(2))
    rate = _rate(lambda: a @ b, 1, repeats=15)
    return {"flop_per_s": 2 * 2048**3 / rate["seconds"]}


def sync(model: str, dtype: str) -> dict[str, float]:
    """Seconds from the end of an update to the first play on its weights, those of the engine's load, and of a copy."""
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        overrides = ["rollout.max_staleness=0", "run.trace=true", "rollout.threads=2", "learner.threads=2", *GRPO]
        lines = azero_run(run, [*shape(model, dtype, steps=10, problems=6, tokens=4), *overrides])
        events = json.loads((run / "trace.json").read_text().rstrip().rstrip(",") + "]")
    spans = [e for e in events if e["ph"] == "X"]
    learned = [e["ts"] + e["dur"] for e in spans if e["name"].startswith("learn")]
    began = [e["ts"] for e in spans if e["name"].startswith("assignment")]
    gaps = [next((b for b in began if b > t), t) - t for t in learned][WARM_UP:-1]
    weights = np.ones(int(median(lines, "sync/bytes")), dtype=np.uint8)
    target = weights.copy()
    copies = []
    for _ in range(15):
        start = time.perf_counter()
        target[:] = weights
        copies.append(time.perf_counter() - start)
    return {
        "seconds": statistics.median(gaps) / 1e6,
        "load": median(lines, "sync/seconds"),
        "copy": statistics.median(copies),
        "bytes": float(weights.nbytes),
    }


def reload(model: str, dtype: str) -> dict[str, float]:
    """Seconds of what a sync is made of inside an engine: vLLM's reload, and the scoring of the probes."""
    import torch

    from actors.engines import build_engine
    from azero.domains import get_domain
    from azero.models import load_model, load_tokenizer
    from azero.weights import flatten, owned_state, unflatten
    from cluster.train import probe_texts

    torch.set_num_threads(2)
    c, path = load_config("base", shape(model, dtype, steps=1)), model_path(model)
    buffer, manifest = flatten(owned_state(load_model(path)), getattr(torch, dtype))
    tokenizer, engine = load_tokenizer(path), build_engine(c.model, c.rollout, seed=0, path=path)
    probes = [tokenizer(text)["input_ids"] for text in probe_texts(get_domain("arithmetic"))]
    times: dict[str, list[float]] = {"load": [], "score": []}
    for version in range(WARM_UP + 7):
        weights = unflatten(buffer, manifest, dtype)
        began = time.perf_counter()
        engine.load(version, weights)
        loaded = time.perf_counter()
        engine.score(probes)
        times["load"].append(loaded - began)
        times["score"].append(time.perf_counter() - loaded)
    return {key: statistics.median(found[WARM_UP:]) for key, found in times.items()}


def start() -> dict[str, float]:
    """Seconds from `azero train local` to the first line of a learner step, and of `azero --help`."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "cluster.cli", "train", "local", *COMMON, "run.steps=1", f"run.dir={run}"]
        began = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not any(m["step"] == 1 for m in read_jsonl(run / "metrics.jsonl")):
            time.sleep(0.05)
        first = time.monotonic() - began
        if process.wait():
            raise SystemExit("azero train local failed")
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "cluster.cli", "--help"], stdout=subprocess.DEVNULL, check=True)
    return {"first_step": first, "help": time.monotonic() - began}


def trl(model: str, dtype: str, steps: int, micro_batch: int) -> dict[str, float]:
    """TRL's GRPOTrainer on the same problems: solver samples a second, and of a step's seconds those of generation.

    No dropout, no gradient checkpointing, all cores, the fused optimizer: what makes it fastest on a CPU. The reward is
    a comparison of strings, which takes no time.
    """
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from azero.curriculum import SlotSource
    from azero.domains import get_domain
    from azero.models import load_tokenizer

    torch.set_num_threads(2)
    config, domain = load_config("base", GRPO), get_domain("arithmetic")
    config.task.exclude_evaluation = False
    problems = SlotSource(domain, config.task, BATCH[0], 1, seed=0).fixed
    rows = {"prompt": [domain.solver_prompt(p.text, None) for p in problems], "answer": [p.answer for p in problems]}
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


MEASUREMENTS: dict[str, Callable[..., dict[str, float]]] = {
    f.__name__: f
    for f in (
        train, growth_with_steps, growth_with_buffer, rollout_azero, rollout_bare, learner_azero, learner_bare,
        matrix_products, sync, reload, start, trl,
    )
}  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(MEASUREMENTS[sys.argv[1]](**json.loads(sys.argv[2]))))
