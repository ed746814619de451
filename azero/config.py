"""The typed configuration: one dataclass a part, each part sees only its own.

Every key has a default here; configs/*.yaml and the command line override. Unknown keys and wrong types are refused
with one line. Field comments give units and the reason of a default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from omegaconf import OmegaConf

from azero.errors import UserError
from azero.overrides import merged, yaml_layers

SINKS = ("tensorboard", "prometheus", "wandb", "mlflow")  # what run.sinks may name; cluster/sinks.py opens them


class EngineName(Enum):
    vllm = "vllm"
    hf = "hf"


class Learnability(Enum):
    improvement = "improvement"
    one_minus_rate = "one_minus_rate"
    uncertainty = "uncertainty"
    variance = "variance"
    none = "none"


class Ladder(Enum):
    paper = "paper"
    binary = "binary"


class Source(Enum):
    selfplay = "selfplay"
    frozen = "frozen"
    random = "random"
    fixed = "fixed"


class Protocol(Enum):
    raw = "raw"
    chat = "chat"


class Baseline(Enum):
    problem = "problem"
    difficulty = "difficulty"
    task = "task"
    role = "role"
    # "global" is a keyword, so this member is written Baseline["global"]
    locals()["global"] = "global"


class Algorithm(Enum):
    trr = "trr"
    grpo = "grpo"


class Dtype(Enum):
    float32 = "float32"
    bfloat16 = "bfloat16"


class Layout(Enum):
    disaggregated = "disaggregated"
    colocated = "colocated"


class Transfer(Enum):
    store = "store"
    nccl = "nccl"


@dataclass
class RunConfig:
    name: str = "run"
    dir: str = "runs/${run.name}"
    seed: int = 0
    steps: int = 100
    eval_every: int = 20  # steps; 0: only before and after
    checkpoint_every: int = 50  # steps; 0: only at the end
    keep_checkpoints: int = 3
    samples_text_share: float = 1.0  # share of episodes whose prompts and completions samples.jsonl holds
    trace: bool = False  # also write trace.json: who generated, waited, synced and learned, for Perfetto
    mirror: str = ""  # where each checkpoint is copied to: a folder or an fsspec address such as s3://bucket/runs/name
    sinks: list[str] = field(default_factory=lambda: ["tensorboard"])  # where metrics go too: see SINKS


@dataclass
class ModelConfig:
    path: str = "embedded"  # embedded, a folder, a .gguf file, or a Hugging Face Hub id
    dtype: Dtype = Dtype.float32  # of the engines and of the learner's autocast; master weights are fp32 always


@dataclass
class RolloutConfig:
    engine: EngineName = EngineName.vllm
    actors: int = 1
    gpus_per_actor: float = 0.0
    cpus_per_actor: float = 1.0
    threads: int = 0  # torch threads an actor; 0: the machine's cores shared out
    tensor_parallel: int = 1
    problems_per_step: int = 16
    solutions_per_problem: int = 16
    max_tries: int = 4  # proposals for one place in the batch
    temperature: float = 0.7
    max_new_tokens: int = 16  # of a solution; in chat, where the answer comes last, some hundreds
    max_proposal_tokens: int = 24
    stop: list[str] | None = None  # ends of a completion; null: a line break in the raw protocol, none in chat
    max_staleness: int = 1  # versions; 0 is exactly synchronous
    transfer: Transfer = Transfer.store  # of weights: by Ray's object store, or from GPU to GPU by vLLM's NCCL transfer
    sync_tolerance: float | None = None  # nats; null: 1e-4 for float32, 0.15 (of the mean) for bfloat16
    kv_cache_gib: float = 0.25  # vLLM on CPU
    gpu_memory_utilization: float = 0.85  # vLLM on GPU
    sleep: bool = False  # vLLM on GPU: give its memory back between assignments, for a learner on the same GPU
    max_model_len: int = 256  # tokens, prompt and completion
    max_num_seqs: int = 256
    timeout_s: float = 600.0  # one assignment or evaluation


@dataclass
class RewardConfig:
    learnability: Learnability = Learnability.improvement
    ladder: Ladder = Ladder.paper
    diversity: float = 0.5  # weight of the novelty bonus
    novelty_window: int = 512  # valid proposals
    novelty_of_all: bool = True  # false: no bonus where all or no solutions are right, however new the problem


@dataclass
class TaskConfig:
    domain: str = "arithmetic"  # or sorting, or package.module:Class of your own (docs/your-own-domain.md)
    source: Source = Source.selfplay
    fixed_size: int = 256
    protocol: Protocol = Protocol.raw
    references: int = 6  # K
    distinct_references: bool = False  # prefer references of different structures: what is shown is what is imitated
    other_tiers: bool = True  # accept a problem of another tier than requested; else it is rejected and asked for again
    fill_from_buffer: bool = False  # a place without a valid proposal takes an earlier problem of its tier
    list_mark: str = ""  # before each reference and, in the raw protocol, the proposal: "- " makes a Markdown list
    proposals_per_prompt: int = 1  # proposals that share one draw of references; more make proposing cheaper
    exclude_evaluation: bool = True
    buffer_size: int = 10000  # problems


@dataclass
class BaselineConfig:
    # difficulty: six cells; role: two; global: one; task: the paper's, two a task; problem: a solution's own group (as
    # GRPO) and a proposal's cell by difficulty
    by: Baseline = Baseline.difficulty
    min_groups: int = 2  # a cell with fewer groups (or proposals) falls back to its moving average
    ema_decay: float = 0.9
    epsilon: float = 1e-6


@dataclass
class AlgorithmConfig:
    name: Algorithm = Algorithm.trr
    kl_beta: float = 0.1
    clip_low: float = 0.2
    clip_high: float = 0.2
    ratio_cap: float = 3.0  # dual clip: bound of -ratio*A where A < 0
    advantage_clip: float = 5.0
    proposer_weight: float = 1.0


@dataclass
class OptimConfig:
    lr: float = 5e-6
    warmup_steps: int = 10
    decay_steps: int = 0  # lr falls linearly to 0 at this step, of which ${run.steps} is the last; 0: it stays
    grad_clip: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.0


@dataclass
class LearnerConfig:
    workers: int = 1
    gpus_per_worker: float = 0.0
    cpus_per_worker: float = 1.0
    threads: int = 0  # torch threads a worker; 0: the machine's cores shared out
    tokens_per_microbatch: int = 16384  # padded tokens
    gradient_checkpointing: bool = False
    keep_every: int = 10  # steps between copies of its state in Ray's object store, for after its death; 0: none
    timeout_s: float = 600.0  # one update, checkpoint or copy of the state


@dataclass
class GuardConfig:
    steps: int = 5  # in a row, before a broken limit is told
    min_unique_rate: float = 0.2  # of a step's problems
    min_entropy: float = 0.0  # nats a token; 0: off
    max_kl: float = 0.0  # of the policy from the start model, nats a token; 0: off
    stops: bool = False  # end the run, with a checkpoint, where a limit is told
    max_skipped: int = 3  # updates in a row without a finite loss and gradient, which end the run


@dataclass
class EvalConfig:
    data: str = "test"  # test or dev (generated), a Hub id, or a file
    protocol: Protocol = Protocol.raw
    samples: int = 4  # k of mean_at_k; 0: greedy only
    max_new_tokens: int = 16
    stop: list[str] | None = None  # as rollout.stop


@dataclass
class ClusterConfig:
    address: str = ""  # empty: RAY_ADDRESS, else the job's cluster, else a local Ray of this process
    start_timeout_s: float = 300.0  # actors and learner ready
    stall_timeout_s: float = 1800.0  # nothing played and nothing learned
    layout: Layout = Layout.disaggregated  # colocated: worker i of the learner and actor i share a GPU
    progress: str = "auto"  # auto, live or plain


@dataclass
class Config:
    run: RunConfig = field(default_factory=RunConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    baseline: BaselineConfig = field(default_factory=BaselineConfig)
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The resolved and checked configuration of a YAML file plus key=value overrides.

    A file may name parents by `defaults: [base]`, looked up beside it. Raises UserError.
    """
    config = merged(Config, yaml_layers(Path(path)), overrides)
    check(config)
    return config


def to_yaml(config: Config) -> str:
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def check(c: Config) -> None:
    """Ranges and combinations. Raises UserError that names the key, what was given and what is allowed."""
    positive = {
        "run.steps": c.run.steps,
        "rollout.actors": c.rollout.actors,
        "rollout.tensor_parallel": c.rollout.tensor_parallel,
        "rollout.problems_per_step": c.rollout.problems_per_step,
        "rollout.solutions_per_problem": c.rollout.solutions_per_problem,
        "rollout.max_tries": c.rollout.max_tries,
        "rollout.max_new_tokens": c.rollout.max_new_tokens,
        "rollout.max_proposal_tokens": c.rollout.max_proposal_tokens,
        "rollout.max_model_len": c.rollout.max_model_len,
        "rollout.max_num_seqs": c.rollout.max_num_seqs,
        "rollout.temperature": c.rollout.temperature,
        "rollout.kv_cache_gib": c.rollout.kv_cache_gib,
        "rollout.timeout_s": c.rollout.timeout_s,
        "reward.novelty_window": c.reward.novelty_window,
        "task.fixed_size": c.task.fixed_size,
        "task.proposals_per_prompt": c.task.proposals_per_prompt,
        "task.buffer_size": c.task.buffer_size,
        "algorithm.advantage_clip": c.algorithm.advantage_clip,
        "optim.grad_clip": c.optim.grad_clip,
        "learner.workers": c.learner.workers,
        "learner.tokens_per_microbatch": c.learner.tokens_per_microbatch,
        "learner.timeout_s": c.learner.timeout_s,
        "cluster.start_timeout_s": c.cluster.start_timeout_s,
        "cluster.stall_timeout_s": c.cluster.stall_timeout_s,
        "guard.steps": c.guard.steps,
        "guard.max_skipped": c.guard.max_skipped,
        "eval.max_new_tokens": c.eval.max_new_tokens,
        "run.keep_checkpoints": c.run.keep_checkpoints,
    }
    for key, value in positive.items():
        if not value > 0:
            raise UserError(f"{key}={value}: must be greater than 0")
    not_negative = {
        "run.seed": c.run.seed,
        "run.eval_every": c.run.eval_every,
        "run.checkpoint_every": c.run.checkpoint_every,
        "rollout.max_staleness": c.rollout.max_staleness,
        "rollout.gpus_per_actor": c.rollout.gpus_per_actor,
        "rollout.threads": c.rollout.threads,
        "learner.threads": c.learner.threads,
        "learner.keep_every": c.learner.keep_every,
        "learner.gpus_per_worker": c.learner.gpus_per_worker,
        "reward.diversity": c.reward.diversity,
        "task.references": c.task.references,
        "algorithm.kl_beta": c.algorithm.kl_beta,
        "algorithm.clip_high": c.algorithm.clip_high,
        "algorithm.proposer_weight": c.algorithm.proposer_weight,
        "optim.lr": c.optim.lr,
        "optim.warmup_steps": c.optim.warmup_steps,
        "guard.min_entropy": c.guard.min_entropy,
        "guard.max_kl": c.guard.max_kl,
        "optim.decay_steps": c.optim.decay_steps,
        "eval.samples": c.eval.samples,
    }
    for key, value in not_negative.items():
        if not value >= 0:
            raise UserError(f"{key}={value}: must be 0 or more")
    if c.rollout.sync_tolerance is not None and not c.rollout.sync_tolerance > 0:
        raise UserError(f"rollout.sync_tolerance={c.rollout.sync_tolerance}: must be greater than 0, or null")
    if not 0 <= c.algorithm.clip_low < 1:
        raise UserError(f"algorithm.clip_low={c.algorithm.clip_low}: must be in [0, 1)")
    if not c.algorithm.ratio_cap > 1 + c.algorithm.clip_high:
        raise UserError(
            f"algorithm.ratio_cap={c.algorithm.ratio_cap}: must exceed 1 + clip_high = {1 + c.algorithm.clip_high}"
        )
    if not 0 <= c.run.samples_text_share <= 1:
        raise UserError(f"run.samples_text_share={c.run.samples_text_share}: must be in [0, 1]")
    if unknown := [s for s in c.run.sinks if s not in SINKS]:
        raise UserError(f"run.sinks={unknown[0]}: allowed are {', '.join(SINKS)}, several as run.sinks=[a,b]")
    if c.cluster.progress not in ("auto", "live", "plain"):
        raise UserError(f"cluster.progress={c.cluster.progress}: allowed are auto, live and plain")
    if not 0 < c.rollout.gpu_memory_utilization <= 1:
        raise UserError(f"rollout.gpu_memory_utilization={c.rollout.gpu_memory_utilization}: must be in (0, 1]")
    if not 0 <= c.baseline.ema_decay < 1:
        raise UserError(f"baseline.ema_decay={c.baseline.ema_decay}: must be in [0, 1)")
    if c.rollout.actors > c.rollout.problems_per_step:
        raise UserError(
            f"rollout.actors={c.rollout.actors}: more than rollout.problems_per_step="
            f"{c.rollout.problems_per_step}, so some would never work; lower the first or raise the second"
        )
    if c.rollout.solutions_per_problem < 2:
        raise UserError("rollout.solutions_per_problem=1: a success rate needs 2 or more")
    if c.algorithm.name is Algorithm.grpo and c.task.source is Source.selfplay:
        raise UserError(
            "algorithm.name=grpo with task.source=selfplay: grpo trains the solver only; "
            "use task.source=frozen, random or fixed, or algorithm.name=trr"
        )
    if c.rollout.tensor_parallel > 1 and c.rollout.engine is EngineName.hf:
        raise UserError(f"rollout.tensor_parallel={c.rollout.tensor_parallel} with rollout.engine=hf: only vllm has it")
    if c.rollout.tensor_parallel > 1 and c.rollout.gpus_per_actor != c.rollout.tensor_parallel:
        raise UserError(
            f"rollout.tensor_parallel={c.rollout.tensor_parallel} with rollout.gpus_per_actor="
            f"{c.rollout.gpus_per_actor:g}: the two must be equal"
        )
    if c.rollout.sleep and (
        c.rollout.engine is EngineName.hf or c.rollout.max_staleness or not c.rollout.gpus_per_actor
    ):
        raise UserError(
            "rollout.sleep=true: needs rollout.engine=vllm, rollout.gpus_per_actor above 0, and "
            "rollout.max_staleness=0, where both sides take turns"
        )
    if c.rollout.transfer is Transfer.nccl and (
        c.rollout.engine is EngineName.hf
        or not (c.rollout.gpus_per_actor and c.learner.gpus_per_worker)
        or c.rollout.gpus_per_actor + c.learner.gpus_per_worker <= 1  # they may share one, which NCCL refuses
    ):
        raise UserError(
            "rollout.transfer=nccl: needs rollout.engine=vllm, and GPUs of their own for actors and learner "
            "(rollout.gpus_per_actor=1 and learner.gpus_per_worker=1); or use rollout.transfer=store"
        )
    if c.cluster.layout is Layout.colocated:
        if c.rollout.actors != c.learner.workers:
            raise UserError(
                f"cluster.layout=colocated: rollout.actors={c.rollout.actors} and learner.workers={c.learner.workers} "
                "must be equal, since they share a GPU in pairs"
            )
        if c.rollout.gpus_per_actor + c.learner.gpus_per_worker > 1:
            raise UserError(
                f"cluster.layout=colocated: rollout.gpus_per_actor={c.rollout.gpus_per_actor:g} and "
                f"learner.gpus_per_worker={c.learner.gpus_per_worker:g} share one GPU; give 0.5 and 0.5"
            )
    share = c.learner.gpus_per_worker + (c.rollout.gpus_per_actor if c.cluster.layout is Layout.colocated else 0)
    if c.learner.workers > 1 and c.learner.gpus_per_worker and share <= 0.5:
        raise UserError(
            f"learner.workers={c.learner.workers} with learner.gpus_per_worker={c.learner.gpus_per_worker:g}: two may "
            "share one GPU, which NCCL refuses; give 1, or with cluster.layout=colocated 0.5 and the actors 0.5"
        )
    patience = 2 * max(c.rollout.timeout_s, c.learner.timeout_s)
    if c.cluster.stall_timeout_s < patience:
        raise UserError(
            f"cluster.stall_timeout_s={c.cluster.stall_timeout_s:g}: must be at least twice rollout.timeout_s and "
            f"learner.timeout_s, {patience:g}, or it ends a run that their deadlines would save"
        )
    longest = max(c.rollout.max_new_tokens, c.rollout.max_proposal_tokens, c.eval.max_new_tokens)
    if c.rollout.max_model_len <= longest:
        raise UserError(
            f"rollout.max_model_len={c.rollout.max_model_len}: must exceed the longest completion ({longest} tokens)"
        )


def stops(stop: Sequence[str] | None, protocol: Protocol) -> tuple[str, ...]:
    """What ends a completion. A raw one is a line; in chat the answer stands on the last of several."""
    if stop is not None:
        return tuple(stop)
    return ("\n",) if protocol is Protocol.raw else ()


def unlikely(c: Config) -> list[str]:
    """A line for each setting that is allowed and seldom meant."""
    parts = (("rollout", "task", c.rollout.stop, c.task.protocol), ("eval", "eval", c.eval.stop, c.eval.protocol))
    return [
        f"{part}.stop holds a line break with {other}.protocol=chat: a completion ends before the last line, where its "
        f"prompt asks for the answer; {part}.stop=null has no stop in chat"
        for part, other, stop, protocol in parts
        if protocol is Protocol.chat and any("\n" in s for s in stop or ())
    ]


def sync_tolerance(rollout: RolloutConfig, dtype: Dtype) -> float:
    """Largest allowed |engine - learner| log-prob, in nats: of any probe token in fp32, of their mean in bf16."""
    if rollout.sync_tolerance is not None:
        return rollout.sync_tolerance
    return 1e-4 if dtype is Dtype.float32 else 0.15
