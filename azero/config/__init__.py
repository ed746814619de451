"""The typed configuration: one model a part, each part sees only its own.

Every key has a default here; configs/*.yaml and the command line override. Unknown keys, wrong types and values outside
a key's range are refused with one line. Field comments give units and the reason of a default.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from azero.config.overrides import Section, as_yaml, merged, yaml_layers
from azero.errors import UserError

SinkName = Literal["tensorboard", "prometheus", "wandb", "mlflow"]
SINKS: tuple[str, ...] = get_args(SinkName)  # what run.sinks may name; cluster/run/sinks.py opens them

Count = Annotated[int, Field(gt=0, lt=2**31)]
Whole = Annotated[int, Field(ge=0, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[float, Field(gt=0, lt=1e9, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, lt=1e9, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]


def _file(path: str) -> str:
    """The path with a leading ~ as the home folder."""
    if "\0" in path:
        raise ValueError("must not hold a null character")
    try:
        return str(Path(path).expanduser()) if path.startswith("~") else path
    except RuntimeError as e:  # ~name of nobody
        raise ValueError(f"{e}; give the folder itself") from None


def _resource(amount: float) -> float:
    if amount > 1 and amount != int(amount):
        raise ValueError("must be a whole number where it is above 1, which Ray asks for")
    return amount


File = Annotated[str, AfterValidator(_file)]  # a path, or a name that is none
Resource = Annotated[NotNegative, AfterValidator(_resource)]  # CPUs or GPUs


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


class RunConfig(Section):
    name: Annotated[str, Field(min_length=1)] = "run"
    dir: Annotated[File, Field(min_length=1)] = "runs/${run.name}"
    seed: Seed = 0
    steps: Count = 100
    eval_every: Whole = 20  # steps; 0: only before and after
    checkpoint_every: Whole = 50  # steps; 0: only at the end
    keep_checkpoints: Count = 3
    samples_text_share: Share = 1.0  # share of episodes whose prompts and completions samples.jsonl holds
    trace: bool = False  # also write trace.json: who generated, waited, synced and learned, for Perfetto
    mirror: File = ""  # where each checkpoint is copied to: a folder or an fsspec address such as s3://bucket/runs/name
    sinks: list[SinkName] = ["tensorboard"]  # where metrics go too: see SINKS


class ModelConfig(Section):
    path: File = "embedded"  # embedded, a folder, a .gguf file, or a Hugging Face Hub id
    dtype: Dtype = Dtype.float32  # of the engines and of the learner's autocast; master weights are fp32 always


class RolloutConfig(Section):
    engine: EngineName = EngineName.vllm
    actors: Count = 1
    gpus_per_actor: Resource = 0.0
    cpus_per_actor: Resource = 1.0
    threads: Whole = 0  # torch threads an actor; 0: the machine's cores shared out
    tensor_parallel: Count = 1
    problems_per_step: Count = 16
    solutions_per_problem: Annotated[Count, Field(ge=2)] = 16
    max_tries: Count = 4  # proposals for one place in the batch
    temperature: Positive = 0.7
    max_new_tokens: Count = 16  # of a solution; in chat, where the answer comes last, some hundreds
    max_proposal_tokens: Count = 24
    stop: list[str] | None = None  # ends of a completion; null: a line break in the raw protocol, none in chat
    max_staleness: Whole = 1  # versions; 0 is exactly synchronous
    transfer: Transfer = Transfer.store  # of weights: by Ray's object store, or from GPU to GPU by vLLM's NCCL transfer
    sync_tolerance: Positive | None = None  # nats; null: 1e-4 for float32, 0.15 (of the mean) for bfloat16
    kv_cache_gib: Positive = 0.25  # vLLM on CPU
    gpu_memory_utilization: Annotated[Share, Field(gt=0)] = 0.85  # vLLM on GPU
    sleep: bool = False  # vLLM on GPU: give its memory back between assignments, for a learner on the same GPU
    max_model_len: Count = 256  # tokens, prompt and completion; a longer problem is rejected
    max_num_seqs: Count = 256
    timeout_s: Positive = 600.0  # one assignment or evaluation

    @model_validator(mode="after")
    def _combinations(self) -> RolloutConfig:
        if self.actors > self.problems_per_step:
            raise UserError(
                f"rollout.actors={self.actors}: more than rollout.problems_per_step={self.problems_per_step}, so some "
                "would never work; lower the first or raise the second"
            )
        if self.tensor_parallel > 1 and self.engine is EngineName.hf:
            raise UserError(f"rollout.tensor_parallel={self.tensor_parallel} with rollout.engine=hf: only vllm has it")
        if self.tensor_parallel > 1 and self.gpus_per_actor != self.tensor_parallel:
            raise UserError(
                f"rollout.tensor_parallel={self.tensor_parallel} with rollout.gpus_per_actor={self.gpus_per_actor:g}: "
                "the two must be equal"
            )
        if self.sleep and (self.engine is EngineName.hf or self.max_staleness or not self.gpus_per_actor):
            raise UserError(
                "rollout.sleep=true: needs rollout.engine=vllm, rollout.gpus_per_actor above 0, and "
                "rollout.max_staleness=0, where both sides take turns"
            )
        if self.max_model_len <= (longest := max(self.max_new_tokens, self.max_proposal_tokens)):
            raise UserError(
                f"rollout.max_model_len={self.max_model_len}: must exceed the longest completion ({longest} tokens)"
            )
        return self


class RewardConfig(Section):
    learnability: Learnability = Learnability.improvement
    ladder: Ladder = Ladder.paper
    diversity: NotNegative = 0.5  # weight of the novelty bonus
    novelty_window: Count = 512  # valid proposals
    novelty_of_all: bool = True  # false: no bonus where all or no solutions are right, however new the problem


class TaskConfig(Section):
    domain: str = "arithmetic"  # or sorting, or package.module:Class of your own (docs/your-own-domain.md)
    source: Source = Source.selfplay
    fixed_size: Count = 256
    protocol: Protocol = Protocol.raw
    references: Whole = 6  # K
    distinct_references: bool = False  # prefer references of different structures: what is shown is what is imitated
    other_tiers: bool = True  # accept a problem of another tier than requested; else it is rejected and asked for again
    fill_from_buffer: bool = False  # a place without a valid proposal takes an earlier problem of its tier
    list_mark: str = ""  # before each reference and, in the raw protocol, the proposal: "- " makes a Markdown list
    proposals_per_prompt: Count = 1  # proposals that share one draw of references; more make proposing cheaper
    exclude_evaluation: bool = True
    buffer_size: Count = 10000  # problems


class BaselineConfig(Section):
    # difficulty: six cells; role: two; global: one; task: the paper's, two a task; problem: a solution's own group (as
    # GRPO) and a proposal's cell by difficulty
    by: Baseline = Baseline.difficulty
    min_groups: Count = 2  # a cell with fewer groups (or proposals) falls back to its moving average
    ema_decay: BelowOne = 0.9
    epsilon: Positive = 1e-6


class AlgorithmConfig(Section):
    name: Algorithm = Algorithm.trr
    kl_beta: NotNegative = 0.1
    clip_low: BelowOne = 0.2
    clip_high: NotNegative = 0.2
    ratio_cap: Positive = 3.0  # dual clip: bound of -ratio*A where A < 0
    advantage_clip: Positive = 5.0
    proposer_weight: NotNegative = 1.0

    @model_validator(mode="after")
    def _combinations(self) -> AlgorithmConfig:
        if not self.ratio_cap > 1 + self.clip_high:
            raise UserError(
                f"algorithm.ratio_cap={self.ratio_cap}: must exceed 1 + algorithm.clip_high = {1 + self.clip_high}"
            )
        return self


class OptimConfig(Section):
    lr: NotNegative = 5e-6
    warmup_steps: Whole = 10
    decay_steps: Whole = 0  # lr falls linearly to 0 at this step, of which ${run.steps} is the last; 0: it stays
    grad_clip: Positive = 1.0
    beta1: BelowOne = 0.9
    beta2: BelowOne = 0.999
    weight_decay: NotNegative = 0.0


class LearnerConfig(Section):
    workers: Count = 1
    gpus_per_worker: Resource = 0.0
    cpus_per_worker: Resource = 1.0
    threads: Whole = 0  # torch threads a worker; 0: the machine's cores shared out
    tokens_per_microbatch: Count = 16384  # padded tokens
    gradient_checkpointing: bool = False
    keep_every: Whole = 10  # steps between copies of its state in Ray's object store, for after its death; 0: none
    timeout_s: Positive = 600.0  # one update, checkpoint or copy of the state


class GuardConfig(Section):
    steps: Count = 5  # in a row, before a broken limit is told
    min_unique_rate: Share = 0.2  # of a step's problems
    min_entropy: NotNegative = 0.0  # nats a token; 0: off
    max_kl: NotNegative = 0.0  # of the policy from the start model, nats a token; 0: off
    stops: bool = False  # end the run, with a checkpoint, where a limit is told
    max_skipped: Count = 3  # updates in a row without a finite loss and gradient, which end the run


class EvalConfig(Section):
    data: File = "test"  # test or dev (generated), a Hub id, or a file
    protocol: Protocol = Protocol.raw
    samples: Whole = 4  # k of mean_at_k; 0: greedy only
    max_new_tokens: Count = 16
    stop: list[str] | None = None  # as rollout.stop


class ClusterConfig(Section):
    address: str = ""  # empty: RAY_ADDRESS, else the job's cluster, else a local Ray of this process
    start_timeout_s: Positive = 300.0  # actors and learner ready
    stall_timeout_s: Positive = 1800.0  # nothing played and nothing learned
    layout: Layout = Layout.disaggregated  # colocated: worker i of the learner and actor i share a GPU
    progress: Literal["auto", "live", "plain"] = "auto"


class Config(Section):
    run: RunConfig = RunConfig()
    model: ModelConfig = ModelConfig()
    rollout: RolloutConfig = RolloutConfig()
    reward: RewardConfig = RewardConfig()
    task: TaskConfig = TaskConfig()
    baseline: BaselineConfig = BaselineConfig()
    algorithm: AlgorithmConfig = AlgorithmConfig()
    optim: OptimConfig = OptimConfig()
    learner: LearnerConfig = LearnerConfig()
    guard: GuardConfig = GuardConfig()
    eval: EvalConfig = EvalConfig()
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="after")
    def _combinations(self) -> Config:
        rollout, learner = self.rollout, self.learner
        if self.algorithm.name is Algorithm.grpo and self.task.source is Source.selfplay:
            raise UserError(
                "algorithm.name=grpo with task.source=selfplay: grpo trains the solver only; "
                "use task.source=frozen, random or fixed, or algorithm.name=trr"
            )
        if rollout.max_model_len <= self.eval.max_new_tokens:
            raise UserError(
                f"rollout.max_model_len={rollout.max_model_len}: must exceed eval.max_new_tokens="
                f"{self.eval.max_new_tokens}"
            )
        patience = 2 * max(rollout.timeout_s, learner.timeout_s)
        if self.cluster.stall_timeout_s < patience:
            raise UserError(
                f"cluster.stall_timeout_s={self.cluster.stall_timeout_s:g}: must be at least twice rollout.timeout_s "
                f"and learner.timeout_s, {patience:g}, or it ends a run that their deadlines would save"
            )
        _require_gpus_apart(rollout, learner, self.cluster.layout)
        return self


def _require_gpus_apart(rollout: RolloutConfig, learner: LearnerConfig, layout: Layout) -> None:
    """Raises UserError where two processes would share a GPU that may not."""
    both = rollout.gpus_per_actor + learner.gpus_per_worker
    if rollout.transfer is Transfer.nccl and (
        rollout.engine is EngineName.hf
        or not (rollout.gpus_per_actor and learner.gpus_per_worker)
        or both <= 1  # they may share one, which NCCL refuses
    ):
        raise UserError(
            "rollout.transfer=nccl: needs rollout.engine=vllm, and GPUs of their own for actors and learner "
            "(rollout.gpus_per_actor=1 and learner.gpus_per_worker=1); or use rollout.transfer=store"
        )
    colocated = layout is Layout.colocated
    if colocated and rollout.actors != learner.workers:
        raise UserError(
            f"cluster.layout=colocated: rollout.actors={rollout.actors} and learner.workers={learner.workers} "
            "must be equal, since they share a GPU in pairs"
        )
    if colocated and both > 1:
        raise UserError(
            f"cluster.layout=colocated: rollout.gpus_per_actor={rollout.gpus_per_actor:g} and "
            f"learner.gpus_per_worker={learner.gpus_per_worker:g} share one GPU; give 0.5 and 0.5"
        )
    share = both if colocated else learner.gpus_per_worker
    if learner.workers > 1 and learner.gpus_per_worker and share <= 0.5:
        raise UserError(
            f"learner.workers={learner.workers} with learner.gpus_per_worker={learner.gpus_per_worker:g}: two may "
            "share one GPU, which NCCL refuses; give 1, or with cluster.layout=colocated 0.5 and the actors 0.5"
        )


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The resolved and checked configuration of a YAML file plus key=value overrides.

    A file may name parents by `defaults: [base]`, looked up beside it. Raises UserError.
    """
    return merged(Config, yaml_layers(Path(path)), overrides)


def to_yaml(config: Config) -> str:
    return as_yaml(config)


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
