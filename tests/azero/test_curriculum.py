"""On a domain of bare numbers: problem n is "n", its canonical form too, its cell is number n mod 3."""

import hashlib
import random
from collections import Counter
from typing import Any, cast, get_args

import pytest
from helpers import problem

from azero.config import Source, TaskConfig
from azero.domains import get_domain
from azero.domains.base import Domain, levels
from azero.domains.expression import CELLS
from azero.errors import UserError
from azero.problems.buffer import ProblemBuffer
from azero.problems.curriculum import SlotSource
from azero.types import Cell, Problem, Slot


class Numbers:
    name, cells = "numbers", CELLS

    def __init__(self, limit: int = 3000, evaluation: frozenset[str] = frozenset()) -> None:
        self.limit, self.evaluation = limit, evaluation

    def generate(self, rng: random.Random, cell: Cell) -> Problem:
        return _number(3 * rng.randrange(self.limit // 3) + CELLS.index(cell))

    def is_evaluation(self, canonical: str) -> bool:
        return canonical in self.evaluation


def _number(n: int) -> Problem:
    return problem(str(n), CELLS[n % 3])


def _source(
    source: Source, domain: Numbers | None = None, *, problems: int = 4, tries: int = 2, seed: int = 0,
    reserve: int = 0, **task: Any,
) -> SlotSource:  # fmt: skip
    own, config = cast(Domain, domain or Numbers()), TaskConfig(source=source, references=2, **task)
    return SlotSource(own, config, problems, tries, seed, reserve=reserve)


def _buffer(n: int = 30) -> ProblemBuffer:
    return ProblemBuffer(1000, [_number(i) for i in range(n)])


def _problems(slots: tuple[Slot, ...]) -> list[Problem]:
    assert all(s.problem is not None and not s.tries for s in slots)
    return [s.problem for s in slots if s.problem is not None]


@pytest.mark.parametrize("source", ["selfplay", "solver_only"])
def test_requests(source: Source) -> None:
    slots = _source(source, tries=3).slots(1, _buffer())
    assert [s.id for s in slots] == ["1.0", "1.1", "1.2", "1.3"]
    e, m, h = CELLS
    # places 4 to 7 of the run, so the first asks for tier 4 mod 3
    assert [[t.cell for t in s.tries] for s in slots] == [[m, h, e], [h, e, m], [e, m, h], [m, h, e]]
    for request in (t for s in slots for t in s.tries):
        assert len(set(request.references)) == 2
        assert all(int(p.statement) % 3 == CELLS.index(request.cell) for p in request.references)
    assert all(s.problem is None for s in slots)


def test_without_other_tiers_every_try_asks_for_the_cell_of_its_place() -> None:
    slots = _source("selfplay", tries=3, other_tiers=False).slots(1, _buffer())
    assert [[CELLS.index(t.cell) for t in s.tries] for s in slots] == [[1] * 3, [2] * 3, [0] * 3, [1] * 3]
    assert len({t.references for t in slots[0].tries}) > 1


def test_earlier_problems_of_the_cell_stand_by_where_asked() -> None:
    slots = _source("selfplay", problems=60, fill_from_buffer=True).slots(1, _buffer())
    standing_by = [s.problem for s in slots]
    assert all(p is not None and p.cell == s.tries[0].cell for p, s in zip(standing_by, slots, strict=True))
    assert len({p.statement for p in standing_by if p}) > 20


@pytest.mark.parametrize("source", get_args(Source))
def test_cells_are_balanced_over_batches(source: Source) -> None:
    made = _source(source, fixed_size=12)
    counts = Counter[Cell]()
    for batch in range(3):
        for slot in made.slots(batch, _buffer()):
            counts[slot.problem.cell if slot.problem else slot.tries[0].cell] += 1
    assert counts == {cell: 4 for cell in CELLS}


def test_a_cell_with_few_problems_gives_few_references() -> None:
    slots = _source("selfplay", problems=3, tries=1).slots(0, _buffer(2))
    assert [[p.statement for p in s.tries[0].references] for s in slots] == [["0"], ["1"], []]


@pytest.mark.parametrize("source", get_args(Source))
def test_slots_depend_on_seed_batch_and_buffer_alone(source: Source) -> None:
    first = _source(source)
    later = [first.slots(batch, _buffer()) for batch in (0, 1, 2)][-1]
    assert _source(source).slots(2, _buffer()) == later
    assert _source(source, seed=1).slots(2, _buffer()) != later
    if source in ("selfplay", "solver_only"):
        assert _source(source).slots(2, _buffer(300)) != later


def test_random_problems_differ_between_slots_and_batches() -> None:
    source = _source("random", problems=30)
    texts = [p.statement for batch in range(2) for p in _problems(source.slots(batch, _buffer()))]
    assert len(set(texts)) > 50


def test_the_evaluation_set_is_left_out_only_where_asked() -> None:
    domain = Numbers(12, frozenset(str(n) for n in range(9)))  # outside it: 9, 10, 11
    kept = _problems(_source("random", domain, problems=6).slots(0, _buffer()))
    assert [p.statement for p in kept] == ["9", "10", "11"] * 2
    everything = _problems(_source("random", domain, problems=60, exclude_evaluation=False).slots(0, _buffer()))
    assert {p.statement for p in everything} == {str(n) for n in range(12)}


@pytest.mark.parametrize("source", get_args(Source))
def test_only_generated_problems_need_a_generator(source: Source) -> None:
    class Asked(Numbers):
        generate = None  # type: ignore[assignment]

    if source in ("random", "fixed"):
        with pytest.raises(UserError, match=r"task\.domain=numbers: has no generate\(rng, cell\)"):
            _source(source, Asked())
    else:
        assert _source(source, Asked()).slots(0, _buffer())


def test_cells_of_several_tasks_take_turns_and_have_levels_of_their_own() -> None:
    cells = tuple(Cell(task=task, tier=tier) for task, tier in (("a", "1"), ("b", "1"), ("a", "2"), ("c", "")))
    assert levels(cells) == dict(zip(cells, (0, 0, 1, 0), strict=True))
    assert list(map(str, cells)) == ["a/1", "b/1", "a/2", "c"]

    class Several(Numbers):
        name = "several"

    domain = Several()
    domain.cells = cells  # type: ignore[misc]
    asked = [s.tries[0].cell for s in _source("selfplay", domain, problems=6).slots(0, _buffer())]
    assert asked == [*cells, *cells[:2]]


def test_a_domain_may_be_given_problems_of_other_shelves() -> None:
    class About(Numbers):
        def given(self, cell: Cell) -> tuple[Cell, ...]:
            return CELLS[:2] if cell == CELLS[2] else ()

    slots = _source("selfplay", About(), problems=48, tries=1).slots(0, _buffer())
    plain = _source("selfplay", problems=48, tries=1).slots(0, _buffer())
    given = [t.given for s in slots for t in s.tries if t.cell == CELLS[2]]
    assert {p.cell for p in given if p} == set(CELLS[:2]) and None not in given and len(set(given)) > 5
    assert all(t.given is None for s in slots for t in s.tries if t.cell != CELLS[2])
    assert [t.references for s in slots for t in s.tries] == [t.references for s in plain for t in s.tries]
    assert _source("selfplay", About(), problems=48, tries=1).slots(0, _buffer()) == slots
    (few,) = _source("selfplay", About(), problems=3, tries=1).slots(0, _buffer(2))[2:]
    assert few.tries[0].given in (_number(0), _number(1))
    (none,) = _source("selfplay", About(), problems=3, tries=1).slots(0, _buffer(0))[2:]
    assert none.tries[0].given is None
    shared = _source("selfplay", About(), problems=24, tries=1, proposals_per_prompt=8).slots(0, _buffer())
    assert len({t.given for s in shared for t in s.tries if t.cell == CELLS[2]}) == 1


def test_a_domain_inside_the_evaluation_set_is_refused() -> None:
    domain = Numbers(6, frozenset(str(n) for n in range(6)))
    with pytest.raises(UserError, match="1000 generated problems of arithmetic/easy were all in the evaluation set"):
        _source("random", domain).slots(0, _buffer())
    with pytest.raises(UserError, match=r"task\.exclude_evaluation=true"):
        _source("fixed", domain)


def test_the_fixed_set_is_walked_epoch_by_epoch_in_new_orders() -> None:
    source = _source("fixed", fixed_size=6, problems=4)
    assert len({p.canonical for p in source.fixed}) == 6
    assert Counter(p.cell for p in source.fixed) == {cell: 2 for cell in CELLS}
    walked = [p.statement for batch in range(6) for p in _problems(source.slots(batch, _buffer()))]
    epochs = [tuple(walked[i : i + 6]) for i in range(0, 24, 6)]
    assert all(set(epoch) == {p.statement for p in source.fixed} for epoch in epochs)
    assert len(set(epochs)) > 1


def test_the_fixed_set_repeats_where_a_cell_is_used_up() -> None:
    source = _source("fixed", Numbers(6), fixed_size=9, problems=20)
    assert Counter(p.cell for p in source.fixed) == {cell: 3 for cell in CELLS}
    assert {p.statement for p in source.fixed} == {str(n) for n in range(6)}
    assert len(_problems(source.slots(0, _buffer()))) == 20  # more than two epochs in one batch


@pytest.mark.parametrize("source", get_args(Source))
def test_a_reserve_changes_none_of_the_slots_before_it_and_goes_on_with_the_cells(source: Source) -> None:
    def cells(slots: tuple[Slot, ...]) -> list[Cell]:
        return [s.problem.cell if s.problem else s.tries[0].cell for s in slots]

    plain, more = _source(source, problems=4), _source(source, problems=4, reserve=8)
    for batch in (0, 2):
        slots = more.slots(batch, _buffer(300))
        assert [s.id for s in slots] == [f"{batch}.{i}" for i in range(12)]
        assert source == "fixed" or slots[:4] == plain.slots(batch, _buffer(300))
        assert source == "fixed" or cells(slots) == [CELLS[(4 * batch + i) % 3] for i in range(12)]


def test_the_reserve_of_the_fixed_set_repeats_no_problem_of_its_epoch() -> None:
    source = _source("fixed", fixed_size=24, problems=4, reserve=8)
    walked = [p.statement for batch in range(2) for p in _problems(source.slots(batch, _buffer()))]
    assert len(set(walked)) == 24


@pytest.mark.parametrize(("shared", "prompts"), [(1, 8), (3, 3), (8, 1)])
def test_requests_of_a_cell_and_try_share_prompts(shared: int, prompts: int) -> None:
    slots = _source("selfplay", problems=24, proposals_per_prompt=shared).slots(0, _buffer(900))
    for attempt in range(2):
        requests = [s.tries[attempt] for s in slots]
        for cell in CELLS:
            asked = [r.references for r in requests if r.cell == cell]
            assert len(asked) == 8 and len(set(asked)) == prompts


@pytest.mark.parametrize(
    ("name", "digest"),
    [("arithmetic", "e5db5ef0001080b1"), ("sorting", "9d7b9a95e8365b7c")],
)
def test_slots_of_a_seed_stay_what_they_are(name: str, digest: str) -> None:
    """A run of an earlier version repeats; the digests are of that version's slots."""
    domain = get_domain(name)
    made = SlotSource(domain, TaskConfig(proposals_per_prompt=2, fill_from_buffer=True), 16, 3, seed=5)
    slots = [made.slots(batch, ProblemBuffer(1000, domain.seeds())) for batch in (0, 7)]
    told = [
        (s.id, s.problem and s.problem.id, [(str(t.cell), [p.id for p in t.references]) for t in s.tries])
        for batch in slots
        for s in batch
    ]
    assert hashlib.sha256(repr(told).encode()).hexdigest()[:16] == digest
