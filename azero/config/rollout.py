"""How problems are played: engines, actors, sampling, and the weights that they load."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, model_validator

from azero.config.kinds import (
    BatchOf,
    Count,
    Dtype,
    EngineName,
    Positive,
    ProtocolName,
    Resource,
    Share,
    Transfer,
    Whole,
)
from azero.config.overrides import Section
from azero.errors import UserError
from azero.types import ROLES, Role


class RolesConfig(Section):
    """How many actors play a role alone; 0 of both: each plays both."""

    proposer: Whole = 0
    solver: Whole = 0


class RolloutConfig(Section):
    engine: EngineName = "vllm"
    actors: Count = 1
    roles: RolesConfig = RolesConfig()  # with policies of their own models: actors that hold one role's model alone
    gpus_per_actor: Resource = 0.0
    cpus_per_actor: Resource = 1.0
    threads: Whole = 0  # torch threads an actor; 0: the machine's cores shared out
    tensor_parallel: Count = 1
    problems_per_step: Count = 16
    solutions_per_problem: Annotated[Count, Field(ge=2)] = 16
    pilot: Whole = 0  # solutions that are drawn first; the rest of G if some are right and some are not; 0: off
    # With a pilot, what fills a batch. samples: all solutions that are drawn, and what stopped groups leave over goes
    # to more problems; signal: groups that are right and wrong, and the solutions of others are not trained on
    batch_of: BatchOf = "samples"
    max_tries: Count = 4  # proposals for one place in the batch
    temperature: Positive = 0.7
    max_new_tokens: Count = 16  # of a solution; in chat, where the answer comes last, some hundreds
    max_proposal_tokens: Count = 24
    stop: list[str] | None = None  # ends of a completion; null: a line break in the raw protocol, none in chat
    max_staleness: Whole = 1  # versions; 0 is exactly synchronous
    transfer: Transfer = "store"  # of weights: by Ray's object store, or from GPU to GPU by vLLM's NCCL transfer
    sync_tolerance: Positive | None = None  # nats; null: 1e-4 for float32, 0.15 (of the mean) for bfloat16
    kv_cache_gib: Positive = 0.25  # vLLM on CPU
    gpu_memory_utilization: Annotated[Share, Field(gt=0)] = 0.85  # vLLM on GPU
    sleep: bool = False  # vLLM on GPU: give its memory back between assignments, for a learner on the same GPU
    max_model_len: Count = 256  # tokens, prompt and completion; a longer problem is rejected
    max_num_seqs: Count = 256
    timeout_s: Positive = 600.0  # one assignment or evaluation

    @model_validator(mode="after")
    def _combinations(self) -> RolloutConfig:
        proposer, solver = self.roles.proposer, self.roles.solver
        if (proposer or solver) and not (proposer and solver and proposer + solver == self.actors):
            raise UserError(
                f"rollout.roles.proposer={proposer} and rollout.roles.solver={solver} with rollout.actors="
                f"{self.actors}: both must be positive and rollout.actors their sum; or leave both at 0, and each "
                "actor plays both roles"
            )
        if self.parts > self.problems_per_step:
            raise UserError(
                f"rollout.actors={self.actors}: more than rollout.problems_per_step={self.problems_per_step}, so some "
                "would never work; lower the first or raise the second"
            )
        self._require_sound_pilot()
        if self.tensor_parallel > 1 and self.engine == "hf":
            raise UserError(f"rollout.tensor_parallel={self.tensor_parallel} with rollout.engine=hf: only vllm has it")
        if self.tensor_parallel > 1 and self.gpus_per_actor != self.tensor_parallel:
            raise UserError(
                f"rollout.tensor_parallel={self.tensor_parallel} with rollout.gpus_per_actor={self.gpus_per_actor:g}: "
                "the two must be equal"
            )
        if self.sleep and (self.engine == "hf" or self.max_staleness or not self.gpus_per_actor):
            raise UserError(
                "rollout.sleep=true: needs rollout.engine=vllm, rollout.gpus_per_actor above 0, and "
                "rollout.max_staleness=0, where both sides take turns"
            )
        if self.max_model_len <= (longest := max(self.max_new_tokens, self.max_proposal_tokens)):
            raise UserError(
                f"rollout.max_model_len={self.max_model_len}: must exceed the longest completion ({longest} tokens)"
            )
        return self

    def _require_sound_pilot(self) -> None:
        """Raises UserError for a pilot of one solution, of all of them, or of actors that could not refill a batch."""
        if self.pilot and not 2 <= self.pilot < self.solutions_per_problem:
            raise UserError(
                f"rollout.pilot={self.pilot}: must be at least 2, as one is never right and wrong, and less than "
                f"rollout.solutions_per_problem={self.solutions_per_problem}; 0 turns it off"
            )
        if self.pilot and self.roles.proposer:
            raise UserError(
                f"rollout.pilot={self.pilot} with rollout.roles.proposer={self.roles.proposer}: one actor must propose "
                "and solve, to propose again where a group stops; leave rollout.roles at 0, or set rollout.pilot=0"
            )
        if self.batch_of == "signal" and not self.pilot:
            raise UserError("rollout.batch_of=signal: is for pilots; set rollout.pilot, such as 4")

    @property
    def reserve(self) -> int:
        """Problems that a batch may have beyond `problems_per_step`, where others stop.

        All together, their pilots are as many solutions as a batch has without pilots.
        """
        if not self.pilot:
            return 0
        return self.problems_per_step * self.solutions_per_problem // self.pilot - self.problems_per_step

    @property
    def parts(self) -> int:
        """Into how many assignments a batch is cut: one for each actor that plays at the same time."""
        return max(self.roles.proposer, self.roles.solver) or self.actors

    def played_by(self, actor: int) -> tuple[Role, ...]:
        """The roles that an actor plays. The first two are of both roles, so that a run can start with them."""
        if not self.roles.proposer:
            return ROLES
        return (Role.SOLVER,) if 1 <= actor <= self.roles.solver else (Role.PROPOSER,)

    @property
    def casts(self) -> list[tuple[Role, ...]]:
        """The kinds of actors, each as the roles that it plays."""
        return [self.played_by(actor) for actor in range(2 if self.roles.proposer else 1)]


def stops(stop: Sequence[str] | None, protocol: ProtocolName) -> tuple[str, ...]:
    """Return the texts that end a completion. A raw one is a line; in chat the answer stands on the last of several."""
    if stop is not None:
        return tuple(stop)
    return ("\n",) if protocol == "raw" else ()


def sync_tolerance(rollout: RolloutConfig, dtype: Dtype) -> float:
    """Largest allowed |engine - learner| log-prob, in nats: of any probe token in fp32, of their mean in bf16."""
    if rollout.sync_tolerance is not None:
        return rollout.sync_tolerance
    return 1e-4 if dtype == "float32" else 0.15
