"""The pieces of work that a fleet of rollout actors shares, and which actors can do each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from azero.types import Assignment, EvalItem, Publication, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayWork:
    assignment: Assignment

    @property
    def id(self) -> str:
        return f"assignment {self.assignment.id}"

    @property
    def role(self) -> Role:
        """The role that it begins with: an actor has to play that one."""
        return Role.PROPOSER if any(slot.tries for slot in self.assignment.slots) else Role.SOLVER


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalWork:
    items: Sequence[EvalItem]
    publication: Publication
    role = Role.SOLVER

    @property
    def id(self) -> str:
        return f"evaluation of version {self.publication.version.step}"


Work = PlayWork | EvalWork
