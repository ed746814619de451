"""Who plays with which weights: the one place that knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from azero.types import SHARED, Role


@dataclass(frozen=True, slots=True)
class Policies:
    """The policies of a run. Each role is played with the weights of one of them."""

    of_role: Mapping[Role, str]

    @property
    def names(self) -> tuple[str, ...]:
        """Each policy once, in the order of the roles."""
        return tuple(dict.fromkeys(self.of_role.values()))

    def of(self, role: Role) -> str:
        return self.of_role[role]


ONE_POLICY = Policies({role: SHARED for role in Role})
