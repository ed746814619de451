"""The loaded evaluation set is left out wherever problems come from, whatever the domain says of itself."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import request
from scripted import ScriptedEngine, rules

from azero.config import Source, TaskConfig
from azero.domains.arithmetic import Arithmetic
from azero.domains.base import EvaluationProblems, evaluation_problems
from azero.domains.evaluation_sets import as_written, raw_prompt
from azero.domains.expression import EASY, make_problem
from azero.domains.sorting import Sorting
from azero.errors import UserError
from azero.play import Player
from azero.problems.buffer import ProblemBuffer
from azero.problems.curriculum import SlotSource
from azero.types import Assignment, Cell, EvalItem, Problem, Slot, Verdict

DOMAIN = Arithmetic()


def items(*texts: str) -> list[EvalItem]:
    return [EvalItem(problem=as_written(text, raw_prompt(text), "0"), label="", operation="") for text in texts]


@pytest.fixture
def own_file(tmp_path: Path) -> str:
    """100 problems that no shipped set holds."""
    rows = [
        {
            "prompt": f"Calculate: {300 + i} + {500 + i} = ",
            "answer": str(800 + 2 * i),
            "difficulty": "own",
            "metadata": {"operation": "+"},
        }
        for i in range(100)
    ]
    file = tmp_path / "own.json"
    file.write_text(json.dumps(rows))
    return str(file)


def proposed(texts: Sequence[str], evaluation: EvaluationProblems, exclude: bool = True) -> list[tuple[Verdict, str]]:
    engine = ScriptedEngine(list(reversed(texts)), ["0"] * 2 * len(texts))
    player = Player(engine, evaluation.domain, rules(exclude=exclude), evaluation)  # type: ignore[arg-type]
    tries = (request(),)
    slots = tuple(Slot(id=f"0.{i}", tries=tries) for i in range(len(texts)))
    episodes = player.play(Assignment(id="0/0", batch=0, slots=slots))
    return [(e.proposal.verdict, e.proposal.reason) for e in episodes if e.proposal]


def test_no_problem_of_an_own_file_is_accepted_in_any_spelling(own_file: str) -> None:
    evaluation = evaluation_problems(DOMAIN, DOMAIN.evaluation(own_file))
    a = [item.problem.statement for item in DOMAIN.evaluation(own_file)]
    texts = [
        *a,
        *(" + ".join(reversed(t.split(" + "))) for t in a),
        *(f"{t} + 0" for t in a),
        *(f"1 * ({t})" for t in a),
    ]
    assert proposed(texts, evaluation) == [(Verdict.EXCLUDED, "in_evaluation")] * 400
    assert {v for v, _ in proposed(texts, evaluation, exclude=False)} == {Verdict.VALID}
    assert {v for v, _ in proposed(texts, EvaluationProblems(DOMAIN))} == {Verdict.VALID}


def test_the_domains_own_sets_stay_excluded_beside_the_loaded_one(own_file: str) -> None:
    evaluation = evaluation_problems(DOMAIN, DOMAIN.evaluation(own_file))
    assert proposed([DOMAIN.evaluation("test")[0].problem.statement], evaluation)[0][0] is Verdict.EXCLUDED


class Careless(Sorting):
    """An own domain that knows no evaluation problem, and heeds no `exclude`."""

    def is_evaluation(self, canonical: str) -> bool:
        return False


def test_an_own_domain_needs_nothing_of_its_own() -> None:
    domain: Any = Careless()
    evaluation = evaluation_problems(domain, domain.evaluation("dev"))
    text = domain.evaluation("dev")[0].problem.statement
    assert proposed([text], evaluation) == [(Verdict.EXCLUDED, "in_evaluation")]
    assert proposed([text], evaluation, exclude=False)[0][0] is Verdict.VALID


def test_an_item_that_is_no_problem_leaves_nothing_out() -> None:
    evaluation = evaluation_problems(DOMAIN, items("1000 + 1", "7 / 2", "what?", "", "5 + 300"))
    assert {form for form in evaluation.forms if not form.startswith("outside: ")} == {"+(300,5)"}


def problems_of(slots: Sequence[Slot]) -> list[Problem]:
    return [s.problem for s in slots if s.problem is not None]


@pytest.mark.parametrize("source", ["random", "fixed"])
def test_generated_problems_are_outside_the_loaded_set(source: Source) -> None:
    """Of all sums and products to 20 that the generator gives, half are loaded."""
    rng = random.Random(5)
    drawn = {p.canonical: p for p in (DOMAIN.generate(rng, t) for t in DOMAIN.cells for _ in range(3000))}
    loaded = items(*(p.statement for p in list(drawn.values())[::2]))
    evaluation = evaluation_problems(DOMAIN, loaded)
    buffer = ProblemBuffer(1000, ())
    task = TaskConfig(source=source, fixed_size=90)

    def given(exclude: bool) -> list[Problem]:
        task.exclude_evaluation = exclude
        return problems_of(SlotSource(DOMAIN, task, 90, 1, 0, evaluation).slots(0, buffer))

    assert len(given(True)) == 90 and not [p.statement for p in given(True) if p in evaluation]
    assert [p.statement for p in given(False) if p in evaluation]


def test_no_seed_no_reference_and_no_fill_is_an_evaluation_problem() -> None:
    seeds = DOMAIN.seeds()
    hidden = [p for p in seeds if p.cell == EASY][:5]
    evaluation = evaluation_problems(DOMAIN, items(*(p.statement for p in hidden)))
    buffer = ProblemBuffer(1000, seeds, evaluation)
    assert not buffer.add(hidden[0]) and buffer.sizes()[EASY] == 12 - 5 - 2  # two are in the shipped sets
    source = SlotSource(DOMAIN, TaskConfig(fill_from_buffer=True, references=12), 60, 2, 0, evaluation)
    slots = source.slots(0, buffer)
    shown = {p.statement for s in slots for t in s.tries for p in t.references} | {
        p.statement for p in problems_of(slots)
    }
    assert len(shown) == 36 - 7 and not shown & {p.statement for p in hidden}


def test_a_resumed_buffer_drops_what_is_now_excluded() -> None:
    full = ProblemBuffer(1000, DOMAIN.seeds())
    for n in range(300, 320):
        full.add(make_problem(f"{n} + 7", 3))
    evaluation = evaluation_problems(DOMAIN, items(*(f"7 + {n}" for n in range(300, 310)), "3 + 8"))
    resumed = ProblemBuffer(40, DOMAIN.seeds(), evaluation)
    resumed.load(json.loads(json.dumps(full.state())))
    held = {p.statement for cell in DOMAIN.cells for p in resumed.draw(random.Random(0), cell, 1000)}
    assert not held & {"3 + 8", *(f"{n} + 7" for n in range(300, 310))} and f"{319} + 7" in held
    for n in range(400, 460):  # the ages are those of what is held
        resumed.add(make_problem(f"{n} + 7", 4))
    assert len(resumed) == 40


def test_a_tier_without_any_problem_left_has_no_fill() -> None:
    seeds = [p for p in DOMAIN.seeds() if p.cell != EASY]
    source = SlotSource(DOMAIN, TaskConfig(fill_from_buffer=True), 3, 1, 0)
    assert [s.problem is None for s in source.slots(0, ProblemBuffer(100, seeds))] == [True, False, False]


def test_a_generator_inside_the_loaded_set_is_refused() -> None:
    class One(Arithmetic):
        def generate(self, rng: random.Random, cell: Cell) -> Problem:
            return make_problem("300 + 5", -1)

    evaluation = evaluation_problems(One(), items("5 + 300"))
    with pytest.raises(UserError, match=r"task\.exclude_evaluation=true"):
        SlotSource(One(), TaskConfig(source="fixed"), 3, 1, 0, evaluation)
