"""The data that flows between domain, rollout actors and learner.

Free of torch, ray and vllm, so that a light process (the driver, a simulated actor, a report) stays light.
Token ids are the currency: text is tokenised once, and nothing is tokenised again between rollout and learner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from azero.pilot import unbiased_rate


class Role(StrEnum):
    PROPOSER = "proposer"
    SOLVER = "solver"


SHARED = "shared"  # the policy of both roles where one set of weights plays them
ROLES: tuple[Role, ...] = tuple(Role)


class Verdict(StrEnum):
    """Says what became of one completion, or of one proposal."""

    RIGHT = "right"
    WRONG = "wrong"  # well formed, but not the answer
    MALFORMED = "malformed"  # a completion without an answer
    VALID = "valid"  # a proposal that became a problem
    REJECTED = "rejected"  # a proposal that parsed, but broke a rule
    UNPARSEABLE = "unparseable"  # a proposal that is no problem at all
    EXCLUDED = "excluded"  # a proposal that is in the evaluation set: neither valid nor invalid


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A kind of problem and its difficulty.

    Rewards are compared within a cell, the curriculum asks for each cell in turn, and the buffer has a shelf a cell.
    str(cell) is "task/tier", or "task" where the domain has no tiers: the name in metrics and records.
    """

    task: str
    tier: str = ""

    def __str__(self) -> str:
        return f"{self.task}/{self.tier}" if self.tier else self.task


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One exactly answerable problem."""

    id: str
    cell: Cell
    statement: str  # as the domain writes it, e.g. "3 + 5"; what people and proposers are shown
    answer: str  # exact, computed by the domain
    canonical: str  # equal for problems that are the same up to the domain's symmetries
    structure: str  # signature of the shape: operators, digit counts, depth
    payload: Mapping[str, Any] = field(default_factory=dict, hash=False)  # JSON that the domain alone reads
    author_version: int  # weight version of the proposer; -1 for seeds and generated problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How completions are drawn. top_p is 1 and top_k off everywhere: behaviour log-probs are of the full softmax."""

    temperature: float  # 0 is greedy; log-probs are then at temperature 1
    max_new_tokens: int
    stop: tuple[str, ...] = ()  # a completion ends with (and includes the ids of) the first of these


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """Holds what an engine returns for one sample of one prompt."""

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]  # [tokens], the stop token or string included
    logprobs: tuple[float, ...]  # [tokens], under the sampling temperature
    text: str  # decoded completion, without the stop string
    policy: str = SHARED  # whose weights sampled it
    version: int  # step of the weights that sampled it
    finish_reason: str  # "stop" or "length"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One completion as the learner sees it."""

    role: Role
    cell: Cell  # the requested one of a proposal, the problem's own of a solution
    completion: Completion
    verdict: Verdict
    reward: float
    reward_parts: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""  # why a proposal was turned down, or a solution is not right

    @property
    def correct(self) -> bool:
        return self.verdict is Verdict.RIGHT


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The solver samples that share one prompt."""

    id: str  # unique in a run; the learner trains each id once
    problem: Problem
    prompt: str = ""  # the solver's, as a person reads it; its ids are in the samples
    samples: tuple[Sample, ...]  # none as long as only a proposer's actor had it, and a solver's is to come
    pilot: int = 0  # so many of the samples came first, and decided whether there were more (rollout.pilot)

    @property
    def success_rate(self) -> float:
        """p without bias, in [0, 1]: the share of right answers, or with a pilot what azero/pilot.py makes of them."""
        return unbiased_rate(sum(s.correct for s in self.samples), len(self.samples), self.pilot)

    @property
    def is_mixed(self) -> bool:
        """Whether some answers are right and some are not, from which a group's own baseline learns."""
        return 0 < sum(s.correct for s in self.samples) < len(self.samples)

    @property
    def is_stopped(self) -> bool:
        """Whether its pilot was all that was drawn, as all of it was right or none."""
        return bool(self.pilot) and len(self.samples) == self.pilot


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """One proposal with its outcome, and the solver group it led to.

    `proposal` is None where problems do not come from a proposer (task.source random or fixed);
    `group` is None where the proposal did not become a problem.
    """

    id: str
    batch: int
    requested_cell: Cell
    references: tuple[str, ...]  # statements of the problems that the proposer was shown
    prompt: str = ""  # the proposer's
    proposal: Sample | None
    group: Group | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A place in a batch that one valid problem will fill.

    `tries` lists the requests that may be made of the proposer, in order, until one gives a valid problem. Where none
    does, `problem` fills the place, if it is given; sources random and fixed give it and no tries.
    """

    id: str
    tries: tuple[ProposalRequest, ...] = ()
    problem: Problem | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposalRequest:
    """Holds what a proposer is asked for: one new problem of `cell`."""

    cell: Cell
    references: tuple[Problem, ...]  # examples, which it must not repeat
    given: Problem | None = None  # the existing problem that the new one is about, where the domain asks for that


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """The unit of work of a rollout actor: some slots of one batch."""

    id: str
    batch: int
    slots: tuple[Slot, ...]
    reserve: int = 0  # the last so many of the slots are played only for what others leave over (rollout.pilot)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRow:
    """One completion as the loss needs it: tokens and numbers, and nothing of what they mean."""

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]  # [tokens]
    behaviour: tuple[float, ...]  # [tokens] log-probs under the sampling temperature, as the engine logged them
    temperature: float
    advantage: float
    part: str  # the term of the loss whose mean over tokens it belongs to


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainBatch:
    """Holds what one step trains on."""

    step: int  # it is for the weights of this step, and makes those of the next
    rows: Mapping[str, Sequence[TrainRow]]  # by policy
    # By policy and part: a policy's loss is the sum over its parts of weight * mean over the part's tokens.
    weights: Mapping[str, Mapping[str, float]]
    measured: str = ""  # the part whose completions' log-probs are wanted before and after the step; "": none


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """Outcome of one step of the trainer."""

    step: int  # of the weights now
    metrics: Mapping[str, float]
    is_finite: bool  # whether loss and gradient were; else nothing has changed but the step's number
    # By policy, [rows] log-probs of whole completions under the weights before and after, nan where not measured.
    before: Mapping[str, Sequence[float]] = field(default_factory=dict)
    after: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class WeightVersion:
    """One step makes one version of all policies."""

    lineage: int  # deaths of the learner so far: after each, versions of the same step may differ
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSet:
    """Lists what an engine must hold and reproduce of one part of a publication."""

    sequences: tuple[tuple[int, ...], ...]
    logprobs: tuple[tuple[float, ...], ...]  # the learner's, of tokens 1.. of each sequence, temperature 1
    digests: Mapping[str, int] = field(default_factory=dict)  # of each published tensor (models/weights.py: digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldWeights:
    """Lists the weights that an engine holds of one part now, whatever form it has given them."""

    digests: Mapping[str, int]  # of each tensor, by its published name; -1 where it is not what was given
    in_order: int  # tensors of which every byte was read in its place; of the others, the elements as a set
    seconds: float  # that reading took since the last load began


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """Says where one tensor lies in a published buffer."""

    name: str  # as transformers names it; tied tensors appear once
    shape: tuple[int, ...]
    offset: int  # elements


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedWeights:
    """One part of a publication: a policy's weights, its adapter, or the base that adapters share.

    `ref` resolves to the new parts of version `since`: {name: flat byte buffer}. `layout` says what lies where.
    """

    layout: tuple[TensorSpec, ...]
    dtype: str  # float32 or bfloat16
    bytes: int
    since: WeightVersion | None = None  # the first version with these bytes
    ref: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """One published weight version: all that an actor needs to load and to prove it.

    `probes` resolves to the ProbeSet of each part, which the learner makes while engines load. `sender`, if there is
    one, is the learner's process that also sends the weights to actors that ask.
    """

    version: WeightVersion
    parts: Mapping[str, PublishedWeights]  # all, by name; what did not change keeps its `since` and `ref`
    probes: Any = None
    sender: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncReport:
    """Outcome of loading one publication into one engine."""

    version: WeightVersion
    seconds: float  # of loading and proving
    load_seconds: float  # of the engine's own load
    proof_seconds: float  # of reading the tensors back, also where that is a part of the load
    bytes: Mapping[str, int]  # that were loaded, by part
    tensors: int  # that were proven
    tensors_in_order: int  # of them, those of which every byte was read in its place
    gaps: Mapping[str, float]  # nats, by part: the largest of its probe tokens
    gap_mean: float

    @property
    def gap_max(self) -> float:
        return max(self.gaps.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalItem:
    """One row of an evaluation set. Its problem is posed and judged as any other."""

    problem: Problem
    label: str  # the data set's own difficulty label
    operation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """One assignment's episodes; `sync` where weights were loaded for it."""

    assignment: Assignment
    episodes: list[Episode]
    sync: SyncReport | None
    seconds: float  # of play, without the sync
    memory_gib: float  # peak of the actor's process
    counts: Mapping[str, float] = field(default_factory=dict)  # that the domain made meanwhile, by name


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """One evaluation as evals.jsonl holds it; `sync` where weights were loaded for it."""

    result: dict[str, Any]
    sync: SyncReport | None
