import json
import random
from collections import Counter
from dataclasses import replace

import pytest
from helpers import problem

from azero.domains.expression import CELLS, EASY, HARD, MEDIUM
from azero.errors import UserError
from azero.problems.buffer import ProblemBuffer
from azero.types import Cell, Problem

SEEDS = [problem("s1"), problem("s2", HARD)]


def _texts(buffer: ProblemBuffer, cell: Cell = EASY) -> set[str]:
    return {p.statement for p in buffer.draw(random.Random(0), cell, 1000)}


def test_starts_with_the_seeds() -> None:
    buffer = ProblemBuffer(5, [*SEEDS, problem("s1")])
    assert buffer.sizes() == {EASY: 1, HARD: 1}
    assert len(buffer) == 2
    with pytest.raises(UserError, match=r"task\.buffer_size=2: must exceed the domain's 2 seed problems"):
        ProblemBuffer(2, SEEDS)


def test_adds_each_canonical_form_once() -> None:
    buffer = ProblemBuffer(10, SEEDS)
    assert buffer.add(problem("3 + 5", canonical="3+5"))
    assert not buffer.add(problem("5 + 3", canonical="3+5"))
    assert not buffer.add(problem("s1"))
    assert _texts(buffer) == {"s1", "3 + 5"}
    assert problem("5 + 3", canonical="3+5") in buffer


def test_the_oldest_goes_first_and_the_seeds_stay() -> None:
    buffer = ProblemBuffer(5, SEEDS)
    for text in "abc":
        assert buffer.add(problem(text))
    assert not buffer.add(problem("a"))  # known: no younger for it
    assert buffer.add(problem("d", MEDIUM))
    assert _texts(buffer) == {"s1", "b", "c"}
    assert buffer.add(problem("e"))
    assert buffer.add(problem("a"))
    assert _texts(buffer) == {"s1", "e", "a"}
    assert _texts(buffer, MEDIUM) == {"d"}
    assert _texts(buffer, HARD) == {"s2"}
    assert len(buffer) == 5


def test_a_draw_is_of_its_tier_uniform_and_without_replacement() -> None:
    buffer = ProblemBuffer(10, SEEDS)
    for text in "abc":
        buffer.add(problem(text))
    rng, drawn = random.Random(1), Counter[str]()
    for _ in range(2000):
        pair = [p.statement for p in buffer.draw(rng, EASY, 2)]
        assert len(set(pair)) == 2
        drawn.update(pair)
    assert set(drawn) == {"s1", "a", "b", "c"}
    assert all(900 < n < 1100 for n in drawn.values())  # 1000 expected, standard deviation 22
    assert len(buffer.draw(rng, EASY, 9)) == 4
    assert buffer.draw(rng, MEDIUM, 3) == ()
    assert buffer.draw(rng, EASY, 0) == ()


def _draws(buffer: ProblemBuffer) -> list[tuple[Problem, ...]]:
    rng = random.Random(7)
    return [buffer.draw(rng, cell, 4) for cell in CELLS for _ in range(5)]


def test_state_restores_later_draws_and_evictions() -> None:
    buffer, restored = ProblemBuffer(12, SEEDS), ProblemBuffer(12, SEEDS)
    for i in range(40):
        buffer.add(problem(f"p{i}", CELLS[i % 3]))
    restored.load(json.loads(json.dumps(buffer.state())))
    for i in range(40, 60):
        assert _draws(restored) == _draws(buffer)
        for b in (buffer, restored):
            b.add(problem(f"p{i}", CELLS[i % 2]))
    assert restored.state() == buffer.state()
    assert all(seed in restored for seed in SEEDS)


def test_a_smaller_buffer_keeps_the_newest() -> None:
    buffer, smaller = ProblemBuffer(10, SEEDS), ProblemBuffer(4, SEEDS)
    for text in "abcd":
        buffer.add(problem(text))
    smaller.load(buffer.state())
    assert _texts(smaller) == {"s1", "c", "d"}


def test_bookkeeping_survives_many_evictions() -> None:
    buffer, rng = ProblemBuffer(20, SEEDS), random.Random(3)
    model: list[str] = []  # a plain list of all but the seeds, oldest first
    for _ in range(3000):
        number = rng.randrange(60)
        if buffer.add(problem(f"p{number}", CELLS[number % 3])):
            model = [*model, f"p{number}"][-18:]
        assert sum(buffer.sizes().values()) == len(buffer) == 2 + len(model)
    assert set().union(*(_texts(buffer, cell) for cell in CELLS)) == {"s1", "s2", *model}


def test_distinct_references_show_each_structure_before_any_twice() -> None:
    held = [replace(problem(f"p{i}"), structure="common" if i < 40 else f"rare{i % 4}") for i in range(48)]
    buffer = ProblemBuffer(1000, held)
    for seed in range(20):
        drawn = buffer.draw(random.Random(seed), EASY, 6, distinct=True)  # of 48 candidates: all
        assert len(drawn) == 6 and len({p.structure for p in drawn[:5]}) == 5
    assert buffer.draw(random.Random(0), EASY, 6, distinct=True) == buffer.draw(
        random.Random(0), EASY, 6, distinct=True
    )


def _of(task: str, text: str) -> Problem:
    return problem(text, Cell(task=task, tier="1"))


def test_each_task_has_its_share_and_its_new_problems_stay() -> None:
    seeds = [_of("a", "a0"), _of("b", "b0")]
    buffer = ProblemBuffer(6, seeds)  # three a task
    for text in ("a1", "a2", "a3", "a4"):
        buffer.add(_of("a", text))
    buffer.add(_of("b", "b1"))
    a, b = (Cell(task=task, tier="1") for task in "ab")
    assert _texts(buffer, a) == {"a0", "a3", "a4"} and _texts(buffer, b) == {"b0", "b1"}
    restored = ProblemBuffer(6, seeds)
    restored.load(json.loads(json.dumps(buffer.state())))
    for held in (buffer, restored):
        held.add(_of("b", "b2"))
        held.add(_of("b", "b3"))
        held.add(_of("a", "a5"))
        assert _texts(held, a) == {"a0", "a4", "a5"} and _texts(held, b) == {"b0", "b2", "b3"}
    assert restored.state() == buffer.state()
    smaller = ProblemBuffer(4, seeds)
    smaller.load(buffer.state())
    assert _texts(smaller, a) == {"a0", "a5"} and _texts(smaller, b) == {"b0", "b3"}


def test_seeds_of_several_tasks_must_leave_room_in_each_share() -> None:
    with pytest.raises(UserError, match=r"task\.buffer_size=5: must exceed 2 times the domain's 2 seed problems"):
        ProblemBuffer(5, [_of("a", "1"), _of("a", "2"), _of("b", "3")])
