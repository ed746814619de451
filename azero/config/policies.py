"""Who plays with which weights: `policies`, a mapping of names, or one word for a shape that ships."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from azero.config.kinds import BelowOne, File, NotNegative, Positive, Whole
from azero.config.overrides import Section
from azero.config.sections import OptimConfig
from azero.errors import UserError
from azero.types import ROLES, Role

BASE = "base"  # the part of a publication that adapters share
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class AdapterConfig(Section):
    """Low-rank adapters (LoRA, arXiv 2106.09685) on frozen base weights."""

    rank: Annotated[Whole, Field(le=512)] = 0  # 0: no adapter, and all weights of the policy train
    alpha: Positive = 32.0  # the adapter's product is multiplied by alpha / rank
    targets: list[str] = []  # ends of the names of layers; empty: every linear layer but the output head


class PolicyOptimConfig(Section):
    """Holds a policy's own settings of `optim`; null takes the run's."""

    lr: NotNegative | None = None
    warmup_steps: Whole | None = None
    decay_steps: Whole | None = None
    grad_clip: Positive | None = None
    beta1: BelowOne | None = None
    beta2: BelowOne | None = None
    weight_decay: NotNegative | None = None


class PolicyConfig(Section):
    roles: list[Role] = []
    model: File | None = None  # the start weights; null: model.path
    adapter: AdapterConfig = AdapterConfig()
    trains: bool = True  # false: it stays as it started
    optim: PolicyOptimConfig = PolicyOptimConfig()


def _apart(**options: Any) -> dict[str, dict[str, Any]]:
    """Return a policy for each role, of its name."""
    return {role.value: {"roles": [role.value], **options} for role in ROLES}


SHAPES: Mapping[str, Mapping[str, Any]] = {
    "shared": {"shared": {"roles": [role.value for role in ROLES]}},
    "adapters": _apart(adapter={"rank": 16}),
    "separate": _apart(),
}


def optim_of(policy: PolicyConfig, optim: OptimConfig) -> OptimConfig:
    """The policy's own settings, and the run's where it has none."""
    return optim.model_copy(update=policy.optim.model_dump(exclude_none=True))


def require_sound(policies: Mapping[str, PolicyConfig]) -> None:
    """Raises UserError unless each role is played by one policy, at least one trains, and adapters share one base."""
    shapes = f"policies={', '.join(SHAPES)} are the shapes that ship"
    players: dict[Role, list[str]] = {role: [] for role in ROLES}
    for name, policy in policies.items():
        if not NAME.fullmatch(name) or name == BASE:
            raise UserError(f"policies.{name}: give a name of letters, digits, - and _, other than {BASE}")
        if not policy.roles:
            raise UserError(f"policies.{name}: plays no role; policies here are {', '.join(policies)}; {shapes}")
        for played in policy.roles:
            players[played].append(name)
    for role, names in players.items():
        if len(names) != 1:
            raise UserError(
                f"policies: {' and '.join(names) or 'nobody'} play{'' if len(names) > 1 else 's'} the {role}; "
                f"give each role to one policy; {shapes}"
            )
    if not any(policy.trains for policy in policies.values()):
        raise UserError("policies: trains is false in all of them, so nothing would be learned; set one to true")
    bases = {policy.model for policy in policies.values() if policy.adapter.rank}
    if len(bases) > 1:
        raise UserError(
            f"policies: adapters on {' and '.join(str(b or 'model.path') for b in bases)}; adapters share one base: "
            "give them the same model, or adapter.rank=0"
        )


def trains(policies: Mapping[str, PolicyConfig], role: Role) -> bool:
    """Whether the policy of a role trains."""
    return any(policy.trains for policy in policies.values() if role in policy.roles)
