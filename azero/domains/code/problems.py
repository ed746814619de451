"""Making problems: the rules that a proposal has to keep, each with a named reason, and what a program's runs say.

A program runs twice, with different random seeds and hash seeds and a tenth of the limits, and must give equal values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from azero.domains.base import Rejected
from azero.domains.code.messages import shows_program
from azero.domains.code.programs import (
    Bounds,
    Program,
    Reason,
    canonical,
    nodes,
    parse,
    require_use,
    returned_literals,
    structure,
)
from azero.domains.code.prompts import ABDUCTION, DEDUCTION, INDUCTION, statement
from azero.domains.code.variants import marked, others_like
from azero.domains.rows import short_hash
from azero.sandbox import Failure, Limits, Outcome, Sandbox
from azero.sandbox.literals import NotLiteral, read_arguments, same, same_each, write
from azero.types import Cell, Problem

TIERS = ("small", "medium", "large")
MAX_MESSAGE = 200  # characters
MOST_INPUTS = 4  # times those that are asked for: what is read of a longer list
SHARE_OF_LIMITS = 10  # a proposed program may use one part in so many
SEEDS = (1, 2)  # of the two runs

FAILURES = {
    Failure.SYNTAX: Reason.UNSUPPORTED,  # Python's own parser has taken it
    Failure.UNSUPPORTED: Reason.UNSUPPORTED,
    Failure.ERROR: Reason.RAISES,
    Failure.TIME: Reason.TIME,
    Failure.MEMORY: Reason.MEMORY,
    Failure.RECURSION: Reason.RECURSION,
    Failure.PERMISSION: Reason.PERMISSION,
    Failure.NOT_LITERAL: Reason.NOT_LITERAL,
    Failure.CRASH: Reason.CRASH,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Maker:
    """Makes problems by the rules. Every method raises Rejected with the first rule that is broken."""

    sandbox: Sandbox
    limits: Limits
    bounds: Bounds
    tiers: Sequence[int]  # the most nodes that run of each tier's problems
    inputs: int  # of a problem of induction

    def make(self, task: str, program: str, inputs: Sequence[str], message: str = "", version: int = -1) -> Problem:
        """The problem of these texts. `inputs`: argument lists, of which induction takes the first `self.inputs`."""
        parsed = parse(program, self.bounds)
        require_use(parsed)
        arguments = [_arguments(text, parsed) for text in inputs[: MOST_INPUTS * self.inputs]]
        if task == INDUCTION:
            return self._induction(parsed, arguments, " ".join(message.split()).lstrip("# "), version)
        return self._of_one_input(task, parsed, arguments[0], version)

    def in_tier(self, problem: Problem) -> Problem:
        """The problem in the tier of all nodes of its program, or in the largest where that breaks a rule."""
        try:
            tier = self._tier_of(nodes(parse(problem.payload["program"], self.bounds)))
        except Rejected:
            tier = TIERS[-1]
        return replace(problem, cell=replace(problem.cell, tier=tier))

    def _of_one_input(self, task: str, program: Program, arguments: tuple[Any, ...], version: int) -> Problem:
        calls = [arguments, *others_like(arguments, program)]
        first = self._tenth(program, calls, SEEDS[0])
        output = _value(first[0])
        others = [(a, o.value) for a, o in zip(calls[1:], first[1:]) if o.failure is None]
        _require_idea([(arguments, output), *others], enough=1 + bool(others))
        copied = [(output,)] if task == ABDUCTION and len(arguments) == 1 else []
        again, *copies = self._tenth(program, [arguments, *copied], SEEDS[1])
        if not same(_value(again), output):
            raise Rejected(Reason.NOT_DETERMINISTIC)
        if task == ABDUCTION:
            copies = [c for c in copies if c.failure is None and same(c.value, output)]
            given = type(output) is tuple and same_each(output, arguments)
            if copies or given or any(same(output, argument) for argument in arguments):
                raise Rejected(Reason.ANSWER_SHOWN)
        elif any(same(output, literal) for literal in returned_literals(program)):
            raise Rejected(Reason.ANSWER_SHOWN)
        cell = Cell(task=task, tier=self._tier(program, [arguments]))
        return one_input_problem(program, cell, arguments, output, version)

    def _induction(self, program: Program, arguments: Sequence[tuple[Any, ...]], message: str, version: int) -> Problem:
        chosen = {written(a): a for a in arguments}
        if len(chosen) < self.inputs:
            raise Rejected(Reason.FEW_INPUTS)
        calls = list(chosen.values())[: self.inputs]
        if not message or len(message) > MAX_MESSAGE or not message.isprintable():
            raise Rejected(Reason.NO_MESSAGE)
        outputs = [_value(outcome) for outcome in self._tenth(program, calls, SEEDS[0])]
        again = [_value(outcome) for outcome in self._tenth(program, calls, SEEDS[1])]
        if not all(map(same, outputs, again)):
            raise Rejected(Reason.NOT_DETERMINISTIC)
        pairs = list(zip(calls, outputs, strict=True))
        _require_idea(pairs, enough=2)
        hidden = [(written(a), write(output)) for a, output in pairs[_shown(pairs) :]]
        if shows_program(message, program, [written(a) for a in calls], hidden):
            raise Rejected(Reason.MESSAGE_SHOWS_PROGRAM)
        cell = Cell(task=INDUCTION, tier=self._tier(program, calls))
        return induction_problem(program, cell, pairs, message, version)

    def _tenth(self, program: Program, calls: Sequence[Sequence[Any]], seed: int) -> list[Outcome]:
        """The outcomes of a run with a tenth of the limits."""
        limits = replace(
            self.limits,
            seconds=self.limits.seconds / SHARE_OF_LIMITS,
            memory_mib=max(1, self.limits.memory_mib // SHARE_OF_LIMITS),
            recursion=max(1, self.limits.recursion // SHARE_OF_LIMITS),
        )
        return self.sandbox.run(program.text, calls, limits, seed)

    def _tier(self, program: Program, calls: Sequence[Sequence[Any]]) -> str:
        """Return the tier of the nodes that run for some call, or of all nodes if that cannot be told."""
        ran = nodes(program)
        if not program.is_one_line:
            counts = [o.value for o in self.sandbox.run(marked(program), calls, self.limits) if type(o.value) is int]
            ran = max(counts, default=ran)
        return self._tier_of(ran)

    def _tier_of(self, ran: int) -> str:
        return next((tier for tier, most in zip(TIERS, self.tiers) if ran <= most), TIERS[-1])


def one_input_problem(program: Program, cell: Cell, arguments: Sequence[Any], output: Any, version: int) -> Problem:
    """The problem of deduction or abduction of a program that gives `output`. Checks nothing."""
    given, value = written(arguments), write(output)
    text = statement(cell.task, program.text, [given], value)
    payload = {"program": program.text, "arguments": given, "output": value}
    return _problem(cell, program, text, value if cell.task == DEDUCTION else given, [given], payload, version)


def induction_problem(
    program: Program, cell: Cell, pairs: Sequence[tuple[Sequence[Any], Any]], message: str, version: int
) -> Problem:
    """The problem of induction of (arguments, output) pairs, of which half are shown. Checks nothing."""
    texts = [[written(arguments), write(output)] for arguments, output in pairs]
    inputs, half = [given for given, _ in texts], _shown(pairs)
    payload = {
        "program": program.text,
        "parameters": len(program.parameters),
        "message": message,
        "shown": texts[:half],
        "hidden": texts[half:],
    }
    text = statement(INDUCTION, program.text, inputs, message=message)
    return _problem(cell, program, text, program.text, sorted(inputs), payload, version)


def canonical_form(task: str, program: Program, inputs: Iterable[str]) -> str:
    """The form by which problems are compared: of the task, the program and the written argument lists."""
    return "\n".join([f"{task}: {canonical(program)}", *inputs])


def _problem(
    cell: Cell, program: Program, text: str, answer: str, inputs: Sequence[str], payload: dict[str, Any], version: int
) -> Problem:
    return Problem(
        id=short_hash(f"{cell.task}\n{text}"),
        cell=cell,
        statement=text,
        answer=answer,
        canonical=canonical_form(cell.task, program, inputs),
        structure=structure(program),
        payload=payload,
        author_version=version,
    )


def written(arguments: Sequence[Any]) -> str:
    """The text of an argument list."""
    return ", ".join(map(write, arguments))


def _arguments(text: str, program: Program) -> tuple[Any, ...]:
    """The literals of an argument list, as many as the program's parameters."""
    try:
        arguments = read_arguments(text)
    except NotLiteral as e:
        raise Rejected(Reason.INPUT) from e
    if len(arguments) != len(program.parameters):
        raise Rejected(Reason.INPUT)
    return arguments


def _value(outcome: Outcome) -> Any:
    if outcome.failure is not None:
        raise Rejected(FAILURES[outcome.failure])
    return outcome.value


def _shown(pairs: Sequence[Any]) -> int:
    """How many of the pairs the solver sees: the first ones."""
    return max(1, len(pairs) // 2)


def _require_idea(pairs: Sequence[tuple[Sequence[Any], Any]], enough: int) -> None:
    """Raises Rejected where the outputs are fewer than `enough` different ones, or always one of the arguments."""
    if sum(not any(same(output, earlier) for _, earlier in pairs[:i]) for i, (_, output) in enumerate(pairs)) < enough:
        raise Rejected(Reason.CONSTANT)
    arguments, _ = pairs[0]
    if any(all(same(given[i], output) for given, output in pairs) for i in range(len(arguments))):
        raise Rejected(Reason.IDENTITY)
