"""Playing an assignment: propose, validate, solve, verify.

    slot -> proposal -> validate -- valid --> solver group (G samples) -> verify -> Episode
               ^            |
               +-- retry ---+  (every try is an Episode of its own: invalid proposals train the proposer too)

All requests of an assignment share the engine's continuous batch: a group is submitted the moment its problem is valid.
With `barrier` the engine gets whole waves, each in the order of the slots: the first tries, the second tries of those
that failed, ..., then every group. What is asked of it is then a fixed sequence, and sampling is reproducible.
The domain reads proposals and judges solutions through an executor (domains/base.py: executor_of). If that has threads,
the engine goes on meanwhile; where it has nothing to do, the player waits for the first verdict.
With a pilot (`rollout.pilot`) a group is asked for in two portions: all right or all wrong in the first, it ends there.
What it leaves over, and what a slot without a problem does, starts slots of the assignment's reserve, in their order.
A player of the proposer alone leaves the groups without samples (rollout.roles): the driver has one of the solver play
them, each as a slot that has its problem.
Rewards that need the whole batch (novelty) or the next weights (improvement) are added by the driver, in
azero/credit/credit.py; here a solution gets its final reward, a proposal its verdict.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

from azero.config import Ladder
from azero.credit.rewards import solver_reward
from azero.domains.base import (
    IN_EVALUATION,
    ChatTemplate,
    Domain,
    EvaluationProblems,
    Inline,
    Judgement,
    Proposal,
    counts_of,
    explained,
    stops_of,
)
from azero.engine import Engine
from azero.errors import UserError
from azero.policies import ONE_POLICY, Policies
from azero.types import (
    ROLES,
    Assignment,
    Completion,
    Episode,
    Group,
    Problem,
    ProposalRequest,
    Role,
    Sample,
    Sampling,
    Slot,
    Verdict,
)

# Why a problem is rejected: it is not of the requested cell; the engine cannot hold its solution, or it as a reference.
OTHER_TIER, TOO_LONG = "other_tier", "too_long"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayRules:
    """Holds what a player needs to know of the configuration."""

    solutions: int  # G
    proposer: Sampling
    solver: Sampling
    list_mark: str
    chat: bool
    exclude_evaluation: bool
    other_tiers: bool
    ladder: Ladder
    barrier: bool
    pilot: int = 0  # of the G solutions; 0: all are asked for at once
    stopped_count: bool = True  # whether the solutions of a group that stopped are a part of the batch's size
    domain_stops: bool = False  # the domain says what ends a completion, in place of what `proposer` and `solver` say


@dataclass(frozen=True, slots=True, kw_only=True)
class _Proposing:
    slot: Slot
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Solving:
    slot: Slot
    attempt: int
    problem: Problem
    proposal: Sample | None
    pilot: tuple[Sample, ...] = ()  # of which some are right and some are not; then the rest is asked for


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Judging:
    """Completions that the domain is reading or judging."""

    tag: _Proposing | _Solving
    completions: tuple[Completion, ...]
    outcomes: list[Future[Any]]  # of _Proposing a Proposal, of _Solving a Judgement of each completion


class Player:
    """Plays one assignment on one engine, each role with its policy's weights."""

    def __init__(
        self,
        engine: Engine,
        domain: Domain,
        rules: PlayRules,
        evaluation: EvaluationProblems | None = None,
        policies: Policies = ONE_POLICY,
        judges: Executor | None = None,
        roles: Collection[Role] = ROLES,
    ) -> None:
        """`judges` runs the domain's `read` and `judge`; without it the player's own thread does. `roles`: its own."""
        self.engine, self.policies, self.roles = engine, policies, roles
        self.domain = domain
        self.rules = rules
        self.evaluation = evaluation or EvaluationProblems(domain)
        self.judges = judges or Inline()

    def play(self, assignment: Assignment) -> list[Episode]:
        """All episodes of the assignment, ordered by slot and try, so that the order of completion leaves no trace.

        Slots of the reserve that never started have none. `counts` is then what the domain counted meanwhile.
        """
        before = counts_of(self.domain)
        self._batch = assignment.batch
        self._shown: dict[ProposalRequest, ProposalRequest] = {}
        self._episodes: dict[tuple[int, int], Episode] = {}
        self._order = {slot.id: i for i, slot in enumerate(assignment.slots)}
        self._held: list[_Proposing | _Solving] = []
        self._judging: list[_Judging] = []
        try:
            self._waiting = deque(assignment.slots)
            self._left = self.rules.solutions * (len(assignment.slots) - assignment.reserve)
            self._start()
            while self._held or self._judging or self.engine.busy():
                self._advance()
        finally:  # after a failure nobody asks for the other verdicts
            for outcome in self._outcomes():
                outcome.cancel()
        self.counts = {name: count - before.get(name, 0) for name, count in counts_of(self.domain).items()}
        return [self._episodes[key] for key in sorted(self._episodes)]

    def _advance(self) -> None:
        """Step the engine. Where it has nothing to do, wait for a verdict, or else release the next wave."""
        if self.engine.busy():
            for tag, completions in self.engine.step():
                self._judge(cast(_Proposing | _Solving, tag), completions)
        elif self._judging:
            wait(self._outcomes(), return_when=FIRST_COMPLETED)
        else:
            self._release()
        self._settle()

    def _outcomes(self) -> list[Future[Any]]:
        """Return what the domain has not said yet."""
        return [outcome for job in self._judging for outcome in job.outcomes if not outcome.done()]

    def _judge(self, tag: _Proposing | _Solving, completions: tuple[Completion, ...]) -> None:
        """Have the domain read a proposal, or judge the solutions of a group."""
        submit, domain, rules = self.judges.submit, self.domain, self.rules
        outcomes: list[Future[Any]]
        if isinstance(tag, _Proposing):
            (made,), request = completions, self._request(tag)
            outcomes = [submit(domain.read, made.text, request, rules.exclude_evaluation, made.version)]
        else:
            outcomes = [submit(explained, domain, c, tag.problem, rules.chat) for c in completions]
        self._judging.append(_Judging(tag=tag, completions=completions, outcomes=outcomes))

    def _settle(self) -> None:
        """Go on with everything that has been read or judged, in the order in which the engine gave it."""
        done = [job for job in self._judging if all(outcome.done() for outcome in job.outcomes)]
        self._judging = [job for job in self._judging if job not in done]
        for job in done:
            outcomes = [outcome.result() for outcome in job.outcomes]
            if isinstance(job.tag, _Proposing):
                self._proposed(job.tag, job.completions[0], outcomes[0])
            else:
                self._solved(job.tag, job.completions, outcomes)

    def _chat(self, role: Role) -> ChatTemplate | None:
        return partial(self.engine.chat_template, policy=self.policies.of(role)) if self.rules.chat else None

    def require_room(self, problems: Sequence[Problem], as_references: bool) -> None:
        """Raises UserError where one of the domain's own problems cannot be solved, or shown alone."""
        for problem in problems:
            if not (self._can_be_solved(problem) and (not as_references or self._can_be_shown(problem))):
                raise UserError(
                    f"task.domain={self.domain.name}: its problem {problem.statement[:60]!r} and a completion (rollout."
                    f"max_new_tokens={self.rules.solver.max_new_tokens}, max_proposal_tokens="
                    f"{self.rules.proposer.max_new_tokens}) are more than the engine holds, "
                    f"{self.engine.max_tokens} tokens; raise rollout.max_model_len as far as the model "
                    "allows, or have the domain give shorter ones"
                )

    def _can_be_solved(self, problem: Problem) -> bool:
        return self._fits(Role.SOLVER, self._solver_prompt(problem), self.rules.solver)

    def _can_be_shown(self, problem: Problem) -> bool:
        alone = ProposalRequest(cell=problem.cell, references=(problem,))
        return self._fits(Role.PROPOSER, self._proposer_prompt(alone), self.rules.proposer)

    def _fits(self, role: Role, prompt: str, sampling: Sampling) -> bool:
        return len(self._encoded(role, prompt)) + sampling.max_new_tokens <= self.engine.max_tokens

    def _request(self, tag: _Proposing) -> ProposalRequest:
        """The request without its longest references, as many as do not fit into one prompt."""
        asked = tag.slot.tries[tag.attempt]
        if asked not in self._shown:
            shown = asked
            while shown.references and not self._fits(Role.PROPOSER, self._proposer_prompt(shown), self.rules.proposer):
                longest = max((r.statement for r in shown.references), key=len)
                shown = replace(shown, references=tuple(r for r in shown.references if r.statement != longest))
            self._shown[asked] = shown
        return self._shown[asked]

    def _start(self) -> None:
        """Start as many slots as there is room for in the assignment's share of the batch, which is in solutions."""
        while self._waiting and self._left >= self.rules.solutions:
            self._left -= self.rules.solutions
            self._attempt(self._waiting.popleft(), 0)

    def _attempt(self, slot: Slot, attempt: int) -> None:
        """The next try; after the last one the slot's own problem, where it has one that fits."""
        if attempt < len(slot.tries):
            self._ask(_Proposing(slot=slot, attempt=attempt))
        elif slot.problem is not None and self._can_be_solved(slot.problem):
            self._ask(_Solving(slot=slot, attempt=attempt, problem=slot.problem, proposal=None))
        else:
            self._left += self.rules.solutions

    def _ask(self, tag: _Proposing | _Solving) -> None:
        if isinstance(tag, _Solving) and Role.SOLVER not in self.roles:
            self._finish(tag.slot, tag.attempt, tag.proposal, Group(id=tag.slot.id, problem=tag.problem, samples=()))
        elif self.rules.barrier:
            self._held.append(tag)
        else:
            self._submit(tag)

    def _release(self) -> None:
        """The next wave: all proposals that wait, or where none does all groups."""
        held = sorted(self._held, key=lambda t: self._order[t.slot.id])
        wave = [t for t in held if isinstance(t, _Proposing)] or held
        self._held = [t for t in held if t not in wave]
        for tag in wave:
            self._submit(tag)

    def _submit(self, tag: _Proposing | _Solving) -> None:
        if isinstance(tag, _Proposing):
            request = self._request(tag)
            role, cell, prompt = Role.PROPOSER, request.cell, self._proposer_prompt(request)
            n, sampling = 1, self.rules.proposer
        else:
            role, cell, prompt = Role.SOLVER, tag.problem.cell, self._solver_prompt(tag.problem)
            n = self.rules.solutions - len(tag.pilot) if tag.pilot else self.rules.pilot or self.rules.solutions
            sampling = self.rules.solver
        if self.rules.domain_stops:
            sampling = replace(sampling, stop=stops_of(self.domain, role, cell))
        self.engine.submit(tag, self._encoded(role, prompt), n, sampling, self.policies.of(role))

    def _encoded(self, role: Role, prompt: str) -> tuple[int, ...]:
        return self.engine.encode(prompt, rendered=self.rules.chat, policy=self.policies.of(role))

    def _proposer_prompt(self, request: ProposalRequest) -> str:
        chat, mark = self._chat(Role.PROPOSER), self.rules.list_mark
        marked = tuple(replace(r, statement=mark + r.statement) for r in request.references)
        prompt = self.domain.ask(replace(request, references=marked), chat)
        return prompt if chat else prompt + mark.rstrip()

    def _proposed(self, tag: _Proposing, completion: Completion, read: Proposal) -> None:
        request = self._request(tag)
        outcome = self._validated(read, request)
        sample = Sample(
            role=Role.PROPOSER,
            cell=request.cell,
            completion=completion,
            verdict=outcome.verdict,
            reward=0.0,
            reason=outcome.reason,
        )
        if outcome.problem is not None:
            self._ask(_Solving(slot=tag.slot, attempt=tag.attempt, problem=outcome.problem, proposal=sample))
            return
        self._finish(tag.slot, tag.attempt, sample, None)
        self._attempt(tag.slot, tag.attempt + 1)
        self._start()

    def _validated(self, outcome: Proposal, request: ProposalRequest) -> Proposal:
        """Add to what the domain says what it cannot know: the run's evaluation set and what was asked for."""
        if outcome.problem is None:
            return outcome
        if self.rules.exclude_evaluation and outcome.problem in self.evaluation:
            return Proposal(verdict=Verdict.EXCLUDED, reason=IN_EVALUATION)
        if outcome.problem.cell != request.cell and not self.rules.other_tiers:
            return Proposal(verdict=Verdict.REJECTED, reason=OTHER_TIER)
        if not (self._can_be_solved(outcome.problem) and self._can_be_shown(outcome.problem)):
            return Proposal(verdict=Verdict.REJECTED, reason=TOO_LONG)
        return outcome

    def _solver_prompt(self, problem: Problem) -> str:
        return self.domain.pose(problem, self._chat(Role.SOLVER))

    def _solved(self, tag: _Solving, completions: Sequence[Completion], judgements: Sequence[Judgement]) -> None:
        samples = tuple(
            Sample(
                role=Role.SOLVER,
                cell=tag.problem.cell,
                completion=completion,
                verdict=judged.verdict,
                reward=solver_reward(judged.verdict, self.rules.ladder),
                reward_parts={"correct": float(judged.verdict is Verdict.RIGHT)},
                reason=judged.reason,
            )
            for completion, judged in zip(completions, judgements, strict=True)
        )
        group = Group(
            id=tag.slot.id,
            problem=tag.problem,
            prompt=self._solver_prompt(tag.problem),
            samples=(*tag.pilot, *samples),
            pilot=self.rules.pilot,
        )
        if self.rules.pilot and not tag.pilot and group.is_mixed:
            self._ask(replace(tag, pilot=samples))
            return
        self._finish(tag.slot, tag.attempt, tag.proposal, group)
        if group.is_stopped:
            self._left += self.rules.solutions - self.rules.pilot * self.rules.stopped_count
            self._start()

    def _finish(self, slot: Slot, attempt: int, proposal: Sample | None, group: Group | None) -> None:
        request = self._request(_Proposing(slot=slot, attempt=attempt)) if attempt < len(slot.tries) else None
        cell = request.cell if request else cast(Group, group).problem.cell  # a slot without tries has its problem
        self._episodes[self._order[slot.id], attempt] = Episode(
            id=f"{slot.id}.{attempt}",
            batch=self._batch,
            requested_cell=cell,
            references=tuple(r.statement for r in request.references) if request else (),
            prompt=self._proposer_prompt(request) if request else "",
            proposal=proposal,
            group=group,
        )
