"""What a domain is. Nothing outside azero/domains/ knows more about a domain than this protocol says."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import ParamSpec, Protocol, TypeVar, cast

from azero.errors import UserError
from azero.types import Cell, Completion, EvalItem, Problem, ProposalRequest, Role, Verdict

P = ParamSpec("P")
T = TypeVar("T")

UNPARSEABLE, IN_EVALUATION = "unparseable", "in_evaluation"  # why a proposal is no problem, and why one is dropped


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """Holds what a proposer's completion amounts to: a problem, or a named reason why not."""

    verdict: Verdict  # VALID, REJECTED, UNPARSEABLE or EXCLUDED
    problem: Problem | None = None  # where VALID
    reason: str = ""  # where not VALID, from the domain's documented list


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Holds a verdict on a solution, with a named reason where the domain tells wrong ones apart."""

    verdict: Verdict  # RIGHT, WRONG or MALFORMED
    reason: str = ""


class Rejected(ValueError):
    """A text that is no problem of a domain."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


# Turns one user message into a prompt by the model's own chat template; None stands for the raw protocol.
ChatTemplate = Callable[[str], str]


class Domain(Protocol):
    """A family of problems with exact answers.

    Every method is a function of its arguments, and total: any string gives a result in bounded time and memory.
    These parts more are optional. `generate(rng, cell)` gives one problem of `cell` from the documented distribution of
    task.source random and fixed. `judges` is a number of threads, see `executor_of`. `given(cell)` names the shelves
    of the buffer from which a request for `cell` is given a problem, which the new one is about; none where it is
    empty. `stops` is {(role, task): what ends a raw completion}, a line break where it is silent. With `whole_answers`
    a raw answer that was cut by its length says nothing, rather than all but its last word. `counts()` is {name: number
    so far in this process}, with equal names at every call: the metrics `throughput/<name>_per_s`.
    """

    name: str
    cells: tuple[Cell, ...]  # asked for in turn; the cells of one task from easy to hard

    def seeds(self) -> Sequence[Problem]:
        """A few problems of every cell; they fill the buffer at the start of a run."""

    def ask(self, request: ProposalRequest, chat: ChatTemplate | None) -> str:
        """The proposer's prompt: it asks for one new problem of the request's cell, beside its references."""

    def read(self, completion: str, request: ProposalRequest, exclude: bool, version: int) -> Proposal:
        """Validate what the proposer wrote for the request. `exclude`: drop problems that `is_evaluation` knows.

        `version` is the author's. `EvaluationProblems` leaves out the evaluation set that a run loaded.
        """

    def pose(self, problem: Problem, chat: ChatTemplate | None) -> str:
        """The solver's prompt: it asks for the answer to the problem."""

    def judge(self, completion: str, problem: Problem, chat: bool) -> Verdict | Judgement:
        """RIGHT, WRONG or MALFORMED, of what the solver wrote without the prompt; perhaps with a reason."""

    def evaluation(self, source: str) -> list[EvalItem]:
        """`source`: test or dev (generated offline from fixed seeds), a file, or a Hugging Face Hub id.

        Raises UserError for a missing file, a wrong format or wrong columns.
        """

    def is_evaluation(self, canonical: str) -> bool:
        """Whether the canonical form belongs to an evaluation problem that is known without loading any."""


Generator = Callable[[random.Random, Cell], Problem]


def generator(domain: Domain) -> Generator:
    """The domain's `generate`. Raises UserError where it has none."""
    if not callable(found := getattr(domain, "generate", None)):
        raise UserError(
            f"task.domain={domain.name}: has no generate(rng, cell), which task.source=random and fixed draw from; "
            "write one, or use task.source=selfplay"
        )
    return cast(Generator, found)


def given(domain: Domain, cell: Cell) -> tuple[Cell, ...]:
    """Return the shelves from which a request for a problem of `cell` is given one."""
    found = getattr(domain, "given", None)
    return tuple(found(cell)) if found else ()


def counts_of(domain: Domain) -> Mapping[str, float]:
    """Return what the domain has counted so far in this process; nothing where it does not count."""
    found = getattr(domain, "counts", None)
    return found() if found else {}


def stops_of(domain: Domain, role: Role, cell: Cell) -> tuple[str, ...]:
    """Return what ends a raw completion where the configuration does not say it."""
    return tuple(getattr(domain, "stops", {}).get((role, cell.task), ("\n",)))


def judged(domain: Domain, completion: Completion, problem: Problem, chat: bool) -> Verdict:
    """The domain's verdict on a completion, as `explained` has it."""
    return explained(domain, completion, problem, chat).verdict


def explained(domain: Domain, completion: Completion, problem: Problem, chat: bool) -> Judgement:
    """The domain's verdict on what a completion says; of one that was cut by its length, on what it surely says.

    That is nothing in the chat protocol, where the answer comes last. In the raw one it is all but the last word: "12"
    may be the beginning of "123". Where the domain has `whole_answers` it is nothing, too: "a + b" may be that of
    "a + b * c".
    """
    text = completion.text
    if completion.finish_reason == "length":
        text = "" if chat or getattr(domain, "whole_answers", False) else re.sub(r"\S+\Z", "", text)
    found = domain.judge(text, problem, chat)
    return found if isinstance(found, Judgement) else Judgement(verdict=found)


def proposed(domain: Domain, exclude: bool, make: Callable[[], Problem]) -> Proposal:
    """Return the proposal of the problem that `make` gives, or refuses by raising Rejected. `exclude`: as in `read`."""
    try:
        problem = make()
    except Rejected as rejected:
        verdict = Verdict.UNPARSEABLE if rejected.reason == UNPARSEABLE else Verdict.REJECTED
        return Proposal(verdict=verdict, reason=rejected.reason)
    if exclude and domain.is_evaluation(problem.canonical):
        return Proposal(verdict=Verdict.EXCLUDED, reason=IN_EVALUATION)
    return Proposal(verdict=Verdict.VALID, problem=problem)


def levels(cells: Sequence[Cell]) -> dict[Cell, int]:
    """Cell -> its place among the cells of its task, from 0: the unit of `problems/difficulty_mean`."""
    return {cell: [c for c in cells if c.task == cell.task].index(cell) for cell in cells}


class Inline(Executor):
    """Runs each call at once, in the caller's thread. What a call raises, `submit` raises."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        done: Future[T] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


def executor_of(domain: Domain) -> Executor:
    """Return as many threads for `read` and `judge` as the domain's `judges`; the caller's own where it has none, or 0.

    A domain of pure, quick Python is judged in the caller's thread: threads would only take turns with the engine. A
    domain that waits (for a sandbox in a process of its own, or for a service) says with `judges` how many of its
    verdicts may be under way at a time, beside the engine. `read` and `judge` must then be safe to call from several.
    """
    threads = getattr(domain, "judges", 0)
    return ThreadPoolExecutor(threads, thread_name_prefix="judge") if threads else Inline()


@dataclass(frozen=True, slots=True)
class EvaluationProblems:
    """Those of the evaluation set that a run loaded (`eval.data`), and those that its domain knows by itself."""

    domain: Domain
    forms: frozenset[str] = frozenset()  # canonical

    def __contains__(self, problem: object) -> bool:
        assert isinstance(problem, Problem)
        return problem.canonical in self.forms or self.domain.is_evaluation(problem.canonical)


def evaluation_problems(domain: Domain, items: Sequence[EvalItem]) -> EvaluationProblems:
    """The problems of the set `items`, beside those that the domain knows."""
    return EvaluationProblems(domain, frozenset(item.problem.canonical for item in items))
