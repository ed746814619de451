"""Playing an assignment: propose, validate, solve, verify.

    slot -> proposal -> validate -- valid --> solver group (G samples) -> verify -> Episode
               ^            |
               +-- retry ---+  (every try is an Episode of its own: invalid proposals train the proposer too)

All requests of an assignment share the engine's continuous batch: a group is submitted the moment its problem is valid.
With `barrier` the engine gets whole waves, each in the order of the slots: the first tries, the second tries of those
that failed, ..., then every group. What is asked of it is then a fixed sequence, and sampling is reproducible.
Rewards that need the whole batch (novelty) or the next weights (improvement) are added by the learner's side, in
azero/credit/credit.py; here a solution gets its final reward, a proposal its verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from azero.config import Ladder
from azero.credit.rewards import solver_reward
from azero.domains.base import ChatTemplate, Domain, Proposal, judge
from azero.engine import Engine
from azero.errors import UserError
from azero.policies import ONE_POLICY, Policies
from azero.problems.exclusion import IN_EVALUATION, EvaluationProblems
from azero.types import (
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
    Tier,
    Verdict,
)

# Why a problem is rejected: it is not of the requested tier; the engine cannot hold its solution, or it as a reference.
OTHER_TIER, TOO_LONG = "other_tier", "too_long"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayRules:
    """What a player needs to know of the configuration."""

    solutions: int  # G
    proposer: Sampling
    solver: Sampling
    list_mark: str
    chat: bool
    exclude_evaluation: bool
    other_tiers: bool
    ladder: Ladder
    barrier: bool


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


class Player:
    """Plays one assignment on one engine, each role with its policy's weights."""

    def __init__(
        self,
        engine: Engine,
        domain: Domain,
        rules: PlayRules,
        evaluation: EvaluationProblems | None = None,
        policies: Policies = ONE_POLICY,
    ) -> None:
        self.engine, self.policies = engine, policies
        self.domain = domain
        self.rules = rules
        self.evaluation = evaluation or EvaluationProblems(domain)

    def play(self, assignment: Assignment) -> list[Episode]:
        """All episodes of the assignment, ordered by slot and try, so that the order of completion leaves no trace."""
        self._batch = assignment.batch
        self._shown: dict[ProposalRequest, ProposalRequest] = {}
        self._episodes: dict[tuple[int, int], Episode] = {}
        self._order = {slot.id: i for i, slot in enumerate(assignment.slots)}
        self._held: list[_Proposing | _Solving] = []
        for slot in assignment.slots:
            self._attempt(slot, 0)
        while True:
            if not self.engine.busy():
                if not self._held:
                    break
                self._release()
            for tag, completions in self.engine.step() if self.engine.busy() else ():
                if isinstance(tag, _Proposing):
                    self._proposed(tag, completions[0])
                elif isinstance(tag, _Solving):
                    self._solved(tag, completions)
        return [self._episodes[key] for key in sorted(self._episodes)]

    @property
    def _chat(self) -> ChatTemplate | None:
        return self.engine.chat_template if self.rules.chat else None

    def require_room(self, problems: Sequence[Problem], as_references: bool) -> None:
        """Raises UserError where one of the domain's own problems cannot be solved, or shown alone."""
        for problem in problems:
            if not (self._can_be_solved(problem) and (not as_references or self._can_be_shown(problem))):
                raise UserError(
                    f"task.domain={self.domain.name}: its problem {problem.text[:60]!r} and a completion (rollout."
                    f"max_new_tokens={self.rules.solver.max_new_tokens}, max_proposal_tokens="
                    f"{self.rules.proposer.max_new_tokens}) are more than the engine holds, "
                    f"{self.engine.max_tokens} tokens; raise rollout.max_model_len as far as the model "
                    "allows, or have the domain give shorter ones"
                )

    def _can_be_solved(self, problem: Problem) -> bool:
        return self._fits(self._solver_prompt(problem), self.rules.solver)

    def _can_be_shown(self, problem: Problem) -> bool:
        alone = ProposalRequest(tier=problem.tier, references=(problem.text,))
        return self._fits(self._proposer_prompt(alone), self.rules.proposer)

    def _fits(self, prompt: str, sampling: Sampling) -> bool:
        return len(self._encoded(prompt)) + sampling.max_new_tokens <= self.engine.max_tokens

    def _request(self, tag: _Proposing) -> ProposalRequest:
        """The request without its longest references, as many as do not fit into one prompt."""
        asked = tag.slot.tries[tag.attempt]
        if asked not in self._shown:
            shown = asked
            while shown.references and not self._fits(self._proposer_prompt(shown), self.rules.proposer):
                longest = max(shown.references, key=len)
                shown = replace(shown, references=tuple(r for r in shown.references if r != longest))
            self._shown[asked] = shown
        return self._shown[asked]

    def _attempt(self, slot: Slot, attempt: int) -> None:
        """The next try; after the last one the slot's own problem, where it has one that fits."""
        if attempt < len(slot.tries):
            self._ask(_Proposing(slot=slot, attempt=attempt))
        elif slot.problem is not None and self._can_be_solved(slot.problem):
            self._ask(_Solving(slot=slot, attempt=attempt, problem=slot.problem, proposal=None))

    def _ask(self, tag: _Proposing | _Solving) -> None:
        if self.rules.barrier:
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
            self._submit_proposal(tag)
        else:
            self._submit_group(tag)

    def _submit_proposal(self, tag: _Proposing) -> None:
        prompt = self._proposer_prompt(self._request(tag))
        policy = self.policies.of(Role.PROPOSER)
        self.engine.submit(tag, self._encoded(prompt), 1, self.rules.proposer, policy)

    def _encoded(self, prompt: str) -> tuple[int, ...]:
        return self.engine.encode(prompt, rendered=self.rules.chat)

    def _proposer_prompt(self, request: ProposalRequest) -> str:
        chat, mark = self._chat, self.rules.list_mark
        prompt = self.domain.proposer_prompt(request.tier, [mark + r for r in request.references], chat)
        return prompt if chat else prompt + mark.rstrip()

    def _proposed(self, tag: _Proposing, completion: Completion) -> None:
        request = self._request(tag)
        outcome = self._validated(completion, request)
        sample = Sample(
            role=Role.PROPOSER,
            tier=request.tier,
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

    def _validated(self, completion: Completion, request: ProposalRequest) -> Proposal:
        """What the domain says, and what it cannot know: the run's evaluation set and what was asked for."""
        exclude = self.rules.exclude_evaluation
        outcome = self.domain.parse_proposal(completion.text, request.references, exclude, completion.version)
        if outcome.problem is None:
            return outcome
        if exclude and outcome.problem in self.evaluation:
            return Proposal(verdict=Verdict.EXCLUDED, reason=IN_EVALUATION)
        if outcome.problem.tier is not request.tier and not self.rules.other_tiers:
            return Proposal(verdict=Verdict.REJECTED, reason=OTHER_TIER)
        if not (self._can_be_solved(outcome.problem) and self._can_be_shown(outcome.problem)):
            return Proposal(verdict=Verdict.REJECTED, reason=TOO_LONG)
        return outcome

    def _submit_group(self, tag: _Solving) -> None:
        prompt = self._encoded(self._solver_prompt(tag.problem))
        self.engine.submit(tag, prompt, self.rules.solutions, self.rules.solver, self.policies.of(Role.SOLVER))

    def _solver_prompt(self, problem: Problem) -> str:
        return self.domain.solver_prompt(problem.text, self._chat)

    def _solved(self, tag: _Solving, completions: tuple[Completion, ...]) -> None:
        samples = []
        for completion in completions:
            verdict = judge(self.domain, completion, tag.problem.answer, self.rules.chat)
            reward = solver_reward(verdict, self.rules.ladder)
            samples.append(
                Sample(
                    role=Role.SOLVER,
                    tier=tag.problem.tier,
                    completion=completion,
                    verdict=verdict,
                    reward=reward,
                    reward_parts={"correct": float(verdict is Verdict.RIGHT)},
                )
            )
        group = Group(
            id=tag.slot.id, problem=tag.problem, prompt=self._solver_prompt(tag.problem), samples=tuple(samples)
        )
        self._finish(tag.slot, tag.attempt, tag.proposal, group)

    def _finish(self, slot: Slot, attempt: int, proposal: Sample | None, group: Group | None) -> None:
        request = self._request(_Proposing(slot=slot, attempt=attempt)) if attempt < len(slot.tries) else None
        self._episodes[self._order[slot.id], attempt] = Episode(
            id=f"{slot.id}.{attempt}",
            batch=self._batch,
            requested_tier=_requested(request, group),
            references=request.references if request else (),
            prompt=self._proposer_prompt(request) if request else "",
            proposal=proposal,
            group=group,
        )


def _requested(request: ProposalRequest | None, group: Group | None) -> Tier:
    if request is not None:
        return request.tier
    assert group is not None  # a slot without tries has its problem
    return group.problem.tier
