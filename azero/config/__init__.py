"""The typed configuration: one model a part, each part sees only its own.

Every key has a default in sections.py or rollout.py; configs/*.yaml and the command line override. Unknown keys, wrong
types and values outside a key's range are refused with one line.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import model_validator

from azero.config.kinds import Count, Dtype, File, Ladder, Layout, NotNegative, Positive, Seed, Source, Whole
from azero.config.overrides import Section, Words, merged, to_yaml, yaml_layers
from azero.config.policies import BASE, SHAPES, AdapterConfig, PolicyConfig, optim_of, require_sound, trains
from azero.config.rollout import RolesConfig, RolloutConfig, stops, sync_tolerance
from azero.config.sections import (
    AlgorithmConfig,
    BaselineConfig,
    ClusterConfig,
    EvalConfig,
    GuardConfig,
    LearnerConfig,
    ModelConfig,
    OptimConfig,
    RewardConfig,
    RunConfig,
    TaskConfig,
)
from azero.errors import UserError
from azero.types import Role


class Config(Section):
    run: RunConfig = RunConfig()
    model: ModelConfig = ModelConfig()
    policies: Annotated[dict[str, PolicyConfig], Words(SHAPES)] = {
        name: PolicyConfig.model_validate(policy) for name, policy in SHAPES["shared"].items()
    }
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
        require_sound(self.policies)
        _require_use_of_policies(self)
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


def _require_use_of_policies(c: Config) -> None:
    """Raises UserError if these policies leave nothing to learn from, or cannot be served or sent as configured."""
    adapted = [name for name, policy in c.policies.items() if policy.adapter.rank]
    nets = len(c.policies) - len(adapted) + bool(adapted)  # adapters share one
    solver_trains = trains(c.policies, Role.SOLVER)
    if not solver_trains and c.task.source != "selfplay":
        raise UserError(
            f"task.source={c.task.source} with a solver that does not train: nothing would be learned; set its trains "
            "to true, or use task.source=selfplay"
        )
    alone = c.rollout.roles.proposer > 0
    if nets > 1 and not alone and c.rollout.sleep and c.rollout.engine == "vllm":
        raise UserError(
            "rollout.sleep=true: vLLM lets one engine a process sleep, and these policies need two; use "
            "policies=shared or adapters, actors of one role each (rollout.roles), or rollout.sleep=false"
        )
    if nets == 1 and alone:
        raise UserError(
            f"rollout.roles.proposer={c.rollout.roles.proposer}: is for policies of their own models, and here one "
            "model serves both roles, so each actor would hold all of it; use policies=separate, or leave "
            "rollout.roles at 0"
        )
    if c.task.source in ("random", "fixed") and alone:
        raise UserError(
            f"rollout.roles.proposer={c.rollout.roles.proposer} with task.source={c.task.source}: nobody would be "
            "proposing; use task.source=selfplay or solver_only, or leave rollout.roles at 0"
        )
    if c.reward.learnability == "improvement" and c.task.source == "selfplay" and not solver_trains:
        raise UserError(
            "reward.learnability=improvement with a solver that does not train: it measures the solver's step; choose "
            "another, such as variance"
        )
    if c.reward.learnability == "improvement" and c.task.source in ("selfplay", "solver_only") and c.rollout.pilot:
        raise UserError(
            f"reward.learnability=improvement with rollout.pilot={c.rollout.pilot}: it weighs a group's samples alike, "
            "and a pilot decides which groups have more; choose another, such as variance, or set rollout.pilot=0"
        )
    if c.rollout.transfer == "nccl" and (len(c.policies) > 1 or adapted):
        raise UserError(
            "rollout.transfer=nccl: sends the weights of one policy without an adapter; use rollout.transfer=store"
        )


def _require_gpus_apart(rollout: RolloutConfig, learner: LearnerConfig, layout: Layout) -> None:
    """Raises UserError where two processes would share a GPU that may not."""
    both = rollout.gpus_per_actor + learner.gpus_per_worker
    if rollout.transfer == "nccl" and (
        rollout.engine == "hf"
        or not (rollout.gpus_per_actor and learner.gpus_per_worker)
        or both <= 1  # they may share one, which NCCL refuses
    ):
        raise UserError(
            "rollout.transfer=nccl: needs rollout.engine=vllm, and GPUs of their own for actors and learner "
            "(rollout.gpus_per_actor=1 and learner.gpus_per_worker=1); or use rollout.transfer=store"
        )
    colocated = layout == "colocated"
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


def unlikely(c: Config) -> list[str]:
    """A line for each setting that is allowed and seldom meant."""
    parts = (("rollout", "task", c.rollout.stop, c.task.protocol), ("eval", "eval", c.eval.stop, c.eval.protocol))
    return [
        f"{part}.stop holds a line break with {other}.protocol=chat: a completion ends before the last line, where its "
        f"prompt asks for the answer; {part}.stop=null has no stop in chat"
        for part, other, stop, protocol in parts
        if protocol == "chat" and any("\n" in s for s in stop or ())
    ]
