"""The parts of a configuration but `rollout`. Comments give the unit of a key and the reason of its default."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from azero.config.kinds import (
    BelowOne,
    Count,
    Dtype,
    EstimatorName,
    File,
    GroupingName,
    ImportPath,
    Ladder,
    Layout,
    LearnabilityName,
    NotNegative,
    Positive,
    ProtocolName,
    Resource,
    Seed,
    Share,
    SinkName,
    SourceName,
    Whole,
)
from azero.config.overrides import Section, typed
from azero.errors import UserError


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
    sinks: list[SinkName] = ["tensorboard"]  # where metrics go too
    metrics: list[ImportPath] = []  # functions of a step's episodes, each giving {name: number}


class ModelConfig(Section):
    path: File = "embedded"  # embedded, embedded_code (programs), a folder, a .gguf file, or a Hugging Face Hub id
    dtype: Dtype = "float32"  # of the engines and of the learner's autocast; master weights are fp32 always


class RewardConfig(Section):
    learnability: LearnabilityName = "improvement"  # or package.module:function of the success rate
    ladder: Ladder = "paper"
    diversity: NotNegative = 0.5  # weight of the novelty bonus
    novelty_window: Count = 512  # valid proposals
    novelty_of_all: bool = True  # false: no bonus where all or no solutions are right, however new the problem


class TaskConfig(Section):
    domain: str = "arithmetic"  # or sorting, or package.module:Class of your own (docs/your-own-domain.md)
    options: Annotated[dict[str, Any], BeforeValidator(typed)] = {}  # of the domain, such as those of docs/code.md
    source: SourceName = "selfplay"  # solver_only: as selfplay, and solutions alone are trained
    fixed_size: Count = 256
    protocol: ProtocolName = "raw"
    references: Whole = 6  # K
    distinct_references: bool = False  # prefer references of different structures: what is shown is what is imitated
    other_tiers: bool = True  # accept a problem of another tier than requested; else it is rejected and asked for again
    fill_from_buffer: bool = False  # a place without a valid proposal takes an earlier problem of its tier
    list_mark: str = ""  # before each reference and, in the raw protocol, the proposal: "- " makes a Markdown list
    proposals_per_prompt: Count = 1  # proposals that share one draw of references; more make proposing cheaper
    exclude_evaluation: bool = True
    buffer_size: Count = 10000  # problems


class BaselineConfig(Section):
    # What a sample is compared with. cell: its role's samples of the same task and tier; task: of the same task (the
    # paper's); role: all of its role; batch: all; problem: a solution with its own group (as GRPO), a proposal with its
    # cell; or package.module:function of a Scored sample that names its cell
    by: GroupingName = "cell"
    estimator: EstimatorName = "trr"  # or package.module:Class of your own
    min_groups: Count = 2  # a cell with fewer groups (or proposals) falls back to its moving average
    ema_decay: BelowOne = 0.9
    epsilon: Positive = 1e-6


class AlgorithmConfig(Section):
    kl_beta: NotNegative = 0.1
    clip_low: BelowOne = 0.2
    clip_high: NotNegative = 0.2
    ratio_cap: Positive = 3.0  # dual clip: bound of -ratio*A where A < 0
    advantage_clip: Positive = 5.0  # largest |A|
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
    protocol: ProtocolName = "raw"
    samples: Whole = 4  # k of mean_at_k; 0: greedy only
    max_new_tokens: Count = 16
    stop: list[str] | None = None  # as rollout.stop


class ClusterConfig(Section):
    address: str = ""  # empty: RAY_ADDRESS, else the job's cluster, else a local Ray of this process
    start_timeout_s: Positive = 300.0  # actors and learner ready
    stall_timeout_s: Positive = 1800.0  # nothing played and nothing learned
    layout: Layout = "disaggregated"  # colocated: worker i of the learner and actor i share a GPU
    progress: Literal["auto", "live", "plain"] = "auto"
