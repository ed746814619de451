"""What is too long for the engine is rejected by name, or told before the run; it never ends one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from helpers import problem, request
from scripted import ScriptedEngine, rules

from azero.config import Source, TaskConfig
from azero.domains.arithmetic import Arithmetic
from azero.domains.base import Proposal
from azero.domains.expression import EASY
from azero.errors import UserError
from azero.evaluation.solver import evaluate
from azero.play import Player
from azero.problems.curriculum import SlotSource
from azero.types import Assignment, Cell, Episode, EvalItem, Problem, ProposalRequest, Slot, Verdict

SEED = problem("x" * 10, EASY)


class Unbounded(Arithmetic):
    """Any text is a problem, however long: prompts of 10 characters and the texts."""

    def seeds(self) -> list[Problem]:
        return [SEED]

    def generate(self, rng: random.Random, cell: Cell) -> Problem:
        return problem("x" * 5000, cell)

    def read(self, completion: str, request: ProposalRequest, exclude: bool, version: int) -> Proposal:
        return Proposal(verdict=Verdict.VALID, problem=replace(SEED, statement=completion, canonical=completion))

    def pose(self, problem: Problem, chat: Any) -> str:
        return f"Calculate:{problem.statement}"

    def ask(self, request: ProposalRequest, chat: Any) -> str:
        return "Different:" + "".join(r.statement for r in request.references)

    def is_evaluation(self, canonical: str) -> bool:
        return False


def play(proposals: Sequence[str], references: tuple[str, ...] = (), given: Problem | None = None) -> list[Episode]:
    """On an engine of 100 tokens, of which the completion takes 8 and the frame of either prompt 10."""
    engine = ScriptedEngine(list(proposals), ["3", "3"] * 9)
    engine.max_tokens = 100
    tries = (request(*references),) * len(proposals)
    player = Player(engine, Unbounded(), rules())  # type: ignore[arg-type]
    episodes = player.play(Assignment(id="0/0", batch=0, slots=(Slot(id="0.0", tries=tries, problem=given),)))
    assert all(len(prompt) + 8 <= 100 for prompt in engine.asked)
    return episodes


def test_a_proposal_that_does_not_fit_is_rejected_by_name_and_tried_again() -> None:
    first, second = play(["y" * 83, "y" * 82])
    assert (first.proposal.verdict, first.proposal.reason, first.group) == (Verdict.REJECTED, "too_long", None)
    assert second.proposal.verdict is Verdict.VALID and second.group.problem.statement == "y" * 82


def test_references_that_do_not_fit_together_are_left_out_the_longest_first() -> None:
    (episode,) = play(["y"], ("a" * 20, "b" * 60, "c" * 30, "d" * 32))
    assert episode.references == ("a" * 20, "c" * 30, "d" * 32) and episode.prompt == "Different:" + "".join(
        episode.references
    )
    (alone,) = play(["y"], ("a" * 500,))
    assert alone.references == () and alone.prompt == "Different:"
    (whole,) = play(["y"], ("a" * 82,))
    assert whole.references == ("a" * 82,)


def test_a_fill_that_does_not_fit_leaves_the_place_empty() -> None:
    assert [e.group for e in play(["y" * 200], given=replace(SEED, statement="z" * 200))] == [None]
    assert play([], given=replace(SEED, statement="z" * 200)) == []


@pytest.mark.parametrize(("source", "length"), [("random", 5000), ("fixed", 5000), ("selfplay", 10)])
def test_what_is_known_before_the_run_is_told_before_it(source: Source, length: int) -> None:
    domain = Unbounded()
    examples = SlotSource(domain, TaskConfig(source=source, fixed_size=6), 3, 1, 0).examples()
    assert {len(p.statement) for p in examples} == {length} and examples
    engine = ScriptedEngine([], [])
    player = Player(engine, domain, rules())  # type: ignore[arg-type]
    engine.max_tokens = length + 18
    player.require_room(examples, as_references=True)
    engine.max_tokens -= 1
    with pytest.raises(UserError, match=rf"^task\.domain=arithmetic: its problem 'x+' .* {length + 17} tokens; raise"):
        player.require_room(examples, as_references=True)


def test_an_evaluation_item_that_does_not_fit_is_told_before_any_is_asked() -> None:
    engine = ScriptedEngine([], [])
    engine.max_tokens = 30
    items = [EvalItem(problem=problem("x" * n), label="", operation="") for n in (10, 13)]
    options: dict[str, Any] = {"chat": False, "samples": 0, "temperature": 1.0, "stop": (), "data": "own.json"}
    with pytest.raises(UserError, match=r"eval\.data=own\.json, problem 'x+': .* 23 tokens .*=8 need 31, .* 30;"):
        evaluate(engine, Unbounded(), items, max_new_tokens=8, **options)  # type: ignore[arg-type]
    assert not engine.asked
