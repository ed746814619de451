"""Who plays with which weights: the one place that knows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from azero.config import BASE, AdapterConfig, Config, OptimConfig, optim_of
from azero.models.loading import resolve_model_path
from azero.types import ROLES, SHARED, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One set of weights: a model of its own, or an adapter on a base that it shares with others."""

    name: str
    roles: tuple[Role, ...]
    model: str = ""  # folder or Hub id of the weights that it starts with; of the base, if there is an adapter
    adapter: AdapterConfig | None = None
    trains: bool = True  # false: it stays as it started
    optim: OptimConfig = field(default_factory=OptimConfig)

    @property
    def net(self) -> str:
        """Name of the model that is in memory for it, in the learner and in engines."""
        return BASE if self.adapter else self.name


@dataclass(frozen=True, slots=True)
class Policies:
    """The policies of a run. Each role is played with the weights of one of them."""

    all: tuple[Policy, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(policy.name for policy in self.all)

    def of(self, role: Role) -> str:
        """Name of the policy that plays a role."""
        return next(policy.name for policy in self.all if role in policy.roles)

    def train(self, role: Role) -> bool:
        """Whether the policy of a role trains."""
        return next(policy.trains for policy in self.all if role in policy.roles)

    def playing(self, roles: Collection[Role]) -> Policies:
        """Those that play any of these roles."""
        return Policies(tuple(policy for policy in self.all if not set(roles).isdisjoint(policy.roles)))

    @property
    def parts(self) -> set[str]:
        """Names under which their weights are published and loaded: each policy's, and the base of adapters."""
        return {part for policy in self.all for part in (policy.net, policy.name)}

    @property
    def nets(self) -> Mapping[str, tuple[Policy, ...]]:
        """By name of the model in memory, the policies that play with it: several where they are adapters."""
        found: dict[str, tuple[Policy, ...]] = {}
        for policy in self.all:
            found[policy.net] = (*found.get(policy.net, ()), policy)
        return found


def policies_of(config: Config, resolve: Callable[[str], str] = resolve_model_path) -> Policies:
    """Return the policies of a configuration, in the order of their roles.

    `resolve` makes of a `model.path` what is loaded, and raises UserError for one that is no model.
    """
    start = resolve(config.model.path)
    found = [
        Policy(
            name=name,
            roles=tuple(policy.roles),
            model=resolve(policy.model) if policy.model else start,
            adapter=policy.adapter if policy.adapter.rank else None,
            trains=policy.trains,
            optim=optim_of(policy, config.optim),
        )
        for name, policy in config.policies.items()
    ]
    return Policies(tuple(sorted(found, key=lambda policy: ROLES.index(policy.roles[0]))))


def one_policy(model: str = "", optim: OptimConfig | None = None) -> Policies:
    """One set of weights for both roles."""
    return Policies((Policy(name=SHARED, roles=ROLES, model=model, optim=optim or OptimConfig()),))


ONE_POLICY = one_policy()
