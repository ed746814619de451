"""What supervisors call in other processes, and the pieces of work that rollout actors share.

Every call goes through Ray: `handle.method.remote(...)`. The methods are listed here once. Real actors and learners,
those that only simulate, and the fakes of tests all follow these lists (tests/cluster/test_remote.py), and a supervisor
calls nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from azero.types import Assignment, EvalItem, Evaluated, Played, ProbeSet, Publication, Role, StepResult, TrainBatch


class RemoteActor(Protocol):
    """A process that plays. It holds no state that a new one could not get back."""

    def hello(self) -> Any:
        """Answers as soon as the process is there, whatever it says."""

    def ready(self) -> Any:
        """Returns when the engine is warm. Raises UserError if it cannot be built, or if a known prompt is too long."""

    def play(self, assignment: Assignment, publication: Publication) -> Played:
        """Load the publication if the engine holds another version, then play.

        Raises SyncError, VersionGone and VersionLate.
        """

    def evaluate(self, items: Sequence[EvalItem], publication: Publication) -> Evaluated:
        """Load the publication if the engine holds another version, then evaluate. Raises as `play` does."""


class RemoteLearner(Protocol):
    """A worker of the learner. All of them are called with the same, and the first one's answers count.

    Where a method returns a pair (num_returns=2), the second is what Ray keeps for the driver: it outlives the process.
    """

    def listen(self) -> str:
        """Return where the other workers find this first one; called only where there are several."""

    def start(self, address: str) -> tuple[tuple[Publication, dict[str, Any]], Any]:
        """((the present version, the driver's own state in what the learner goes on from), weights)."""

    def ping(self) -> None: ...

    def step(self, batch: TrainBatch) -> tuple[tuple[StepResult, Publication] | None, Any]:
        """((what was done, the new version), weights); None at the other workers."""

    def probe(self) -> dict[str, ProbeSet] | None:
        """Return the probes of the present version, by part."""

    def save(self, folder: str, driver: dict[str, Any]) -> tuple[str, str]:
        """(what kept the checkpoint from being written, what kept it from being copied); empty where nothing did."""

    def copy_state(self, driver: dict[str, Any]) -> tuple[int, Any]:
        """(the present step, the whole state)."""


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
