"""The domain of programs: deduction, abduction and induction, judged in a sandbox. docs/code.md shows it to users."""

from __future__ import annotations

import atexit
import random
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, cached_property
from threading import Lock
from typing import Annotated, Any

from pydantic import Field, model_validator

from azero.config.kinds import Count, Positive
from azero.config.overrides import Section, validated
from azero.domains.base import ChatTemplate, Judgement, Proposal, Rejected, proposed
from azero.domains.code import completions, evaluation, grammar, prompts
from azero.domains.code.problems import FAILURES, TIERS, Maker, written
from azero.domains.code.programs import Bounds, Reason, tree_of
from azero.domains.code.prompts import ABDUCTION, DEDUCTION, INDUCTION, TASKS
from azero.domains.code.seeds import MOST_INPUTS, SEEDS
from azero.errors import UserError
from azero.sandbox import Counted, Limits, sandbox_of
from azero.sandbox.literals import NotLiteral, read_arguments, read_value, same
from azero.types import Cell, EvalItem, Problem, ProposalRequest, Role, Verdict

SIZES = {"small": (1, 1), "medium": (1, 3), "large": (2, 5)}  # operations that a generated program of the tier may have
MAX_DRAWS = 2_000  # of the generator for one problem of a cell
_lock = Lock()


class Options(Section):
    """Holds `task.options`."""

    sandbox: str = "monty"  # or cpython, or package.module:Class of your own
    one_line: bool = True  # in the raw protocol a solution continues "def f(a): return"; false: "def f(a):"
    inputs: Annotated[Count, Field(ge=2, le=MOST_INPUTS)] = 4  # of a problem of induction; half of them are shown
    tiers: list[Count] = [6, 10, 200]  # most nodes of a small, a medium and a large program that run
    characters: Count = 2000  # of a program
    seconds: Positive = 0.5  # of execution; a proposal has a tenth of this and of the next two
    memory_mib: Count = 64
    recursion: Count = 200

    @model_validator(mode="after")
    def _grow(self) -> Options:
        if len(self.tiers) != len(TIERS) or sorted({*self.tiers}) != self.tiers:
            raise UserError(f"task.options.tiers={self.tiers}: must be three numbers that grow, as in [6, 10, 200]")
        return self


class Code:
    """The `Domain` of programs and their values."""

    name = "code"
    cells = tuple(Cell(task=task, tier=tier) for tier in TIERS for task in TASKS)
    judges = 8
    whole_answers = True

    def __init__(self, **options: Any) -> None:
        """`options`: of `Options`. Raises UserError for another one, or a value that it may not have."""
        if unknown := sorted(options.keys() - Options.model_fields.keys()):
            raise UserError(f"task.options.{unknown[0]}: unknown; give some of {', '.join(Options.model_fields)}")
        self.options = validated(Options, options, {}, prefix="task.options.")
        solution = "\n" if self.options.one_line else "\n\n"
        self.stops: Mapping[tuple[Role, str], tuple[str, ...]] = {
            **{(Role.PROPOSER, task): ("\n\n",) for task in TASKS},
            **{(Role.SOLVER, task): ("\n",) for task in TASKS},
            (Role.SOLVER, INDUCTION): (solution,),
        }

    @cached_property
    def maker(self) -> Maker:
        """Makes the problems; its sandbox starts when it is first asked for. Raises UserError as `sandbox_of` does."""
        o = self.options
        return Maker(
            sandbox=_shared(o.sandbox),
            limits=Limits(seconds=o.seconds, memory_mib=o.memory_mib, recursion=o.recursion),
            bounds=Bounds(characters=o.characters, nodes=o.tiers[-1]),
            tiers=o.tiers,
            inputs=o.inputs,
        )

    def given(self, cell: Cell) -> tuple[Cell, ...]:
        """Induction is about a program of deduction or abduction."""
        return tuple(Cell(task=t, tier=cell.tier) for t in (DEDUCTION, ABDUCTION)) if cell.task == INDUCTION else ()

    def seeds(self) -> list[Problem]:
        """A dozen problems a task, of one line each; none is in an evaluation set."""
        return list(self._seeds)

    @cached_property
    def _seeds(self) -> tuple[Problem, ...]:
        return tuple(self.maker.make(*seed, version=-1) for seed in SEEDS)

    def generate(self, rng: random.Random, cell: Cell) -> Problem:
        """One problem of exactly `cell`, drawn from grammar.py until it is one. Its sizes are uniform in SIZES."""
        for _ in range(MAX_DRAWS):
            program = grammar.draw_program(rng, rng.randint(*SIZES[cell.tier]))
            number = 2 * self.options.inputs if cell.task == INDUCTION else 1  # some may be equal
            inputs = [written(grammar.draw_arguments(rng, program)) for _ in range(number)]
            try:
                problem = self.maker.make(cell.task, program.text, inputs, grammar.draw_message(program))
            except Rejected:
                continue
            if problem.cell == cell:
                return problem
        raise UserError(
            f"task.options.tiers={self.options.tiers}: of {MAX_DRAWS} generated programs none is {cell}; the "
            "generator writes short ones, so give limits such as [6, 10, 200], or use task.source=selfplay"
        )

    def ask(self, request: ProposalRequest, chat: ChatTemplate | None) -> str:
        """Raw: the references as statements, a blank line apart. Chat: an instruction."""
        references = [reference.statement for reference in request.references]
        given = request.given.payload["program"] if request.given else ""
        if chat is None:
            return prompts.ask_raw(request.cell, references, given)
        return prompts.ask_chat(request.cell, references, self.options.inputs, given, chat)

    def read(self, completion: str, request: ProposalRequest, exclude: bool, version: int) -> Proposal:
        """The problem of the fenced blocks, where there is a fence, or else of the raw text (completions.py).

        `reason` is a value of `Reason`. What is written as a program's value is not read: the sandbox says it.
        """
        task, given = request.cell.task, request.given.payload["program"] if request.given else ""

        def make() -> Problem:
            parts = completions.read_proposal(task, completion, given)
            problem = self.maker.make(task, parts.program, parts.inputs, parts.message, version)
            if problem.canonical in {reference.canonical for reference in request.references}:
                raise Rejected(Reason.REPEATS_REFERENCE)
            return problem

        return proposed(self, exclude, make)

    def pose(self, problem: Problem, chat: ChatTemplate | None) -> str:
        """Raw: Python that ends where the answer begins. Chat: an instruction that names the answer's block."""
        return prompts.pose_raw(problem, self.options.one_line) if chat is None else prompts.pose_chat(problem, chat)

    def judge(self, completion: str, problem: Problem, chat: bool) -> Judgement:
        """MALFORMED where there is no literal, or no program that defines `f`; else RIGHT or WRONG.

        Deduction compares values by type and structure. Abduction runs the program on what was written, and takes any
        input that gives the value. Induction runs what was written on the hidden pairs: all must come out. An error in
        the sandbox, or more than its limits, is WRONG. The reason is a `Reason`; without one WRONG is another value.
        """
        task, asked = problem.cell.task, problem.payload
        head = prompts.solution_head(problem, self.options.one_line) if task == INDUCTION else ""
        try:
            text = completions.read_answer(task, completion, chat, head)
            if task == DEDUCTION:
                return _judgement(same(read_value(text), read_value(asked["output"])))
            if task == ABDUCTION:
                return self._runs(asked["program"], [(read_arguments(text), asked["output"])])
            tree_of(text, self.maker.bounds)
        except Rejected as rejected:
            return Judgement(verdict=Verdict.MALFORMED, reason=rejected.reason)
        except NotLiteral:
            return Judgement(verdict=Verdict.MALFORMED, reason=Reason.NOT_LITERAL)
        return self._runs(text, [(read_arguments(given), output) for given, output in asked["hidden"]])

    def evaluation(self, source: str) -> list[EvalItem]:
        """`source`: test or dev (generated offline from fixed seeds), or a file or Hub id with CRUXEval's columns.

        Raises UserError for a missing file, a wrong format or wrong columns.
        """
        return [replace(item, problem=self.maker.in_tier(item.problem)) for item in evaluation.load(source)]

    def is_evaluation(self, canonical: str) -> bool:
        """Whether the canonical form belongs to a problem of the generated evaluation sets."""
        return evaluation.is_evaluation(canonical)

    def counts(self) -> dict[str, float]:
        """Calls of the sandbox so far: of programs on one input each."""
        return {"executions": _shared(self.options.sandbox).calls}

    def _runs(self, program: str, pairs: list[tuple[tuple[Any, ...], str]]) -> Judgement:
        """RIGHT if the program gives every output, of (arguments, output as text); else why the first is missing."""
        outcomes = self.maker.sandbox.run(program, [arguments for arguments, _ in pairs], self.maker.limits)
        for outcome, (_, output) in zip(outcomes, pairs):
            if outcome.failure is not None:
                return Judgement(verdict=Verdict.WRONG, reason=FAILURES[outcome.failure])
            if not same(outcome.value, read_value(output)):
                return _judgement(False)
        return _judgement(True)


def _judgement(right: bool) -> Judgement:
    return Judgement(verdict=Verdict.RIGHT if right else Verdict.WRONG)


def _shared(name: str) -> Counted:
    """The sandbox of this process, which closes when the process ends."""
    with _lock:
        return _started(name)


@cache
def _started(name: str) -> Counted:
    sandbox = Counted(sandbox_of(name))
    atexit.register(sandbox.close)
    return sandbox
