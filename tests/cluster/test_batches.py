"""Pacing: what is admitted when, and that a batch is exactly what was admitted for it."""

from dataclasses import replace

import pytest
from helpers import episode, problem

from azero.types import Episode, Group, Slot, Verdict
from cluster.run.batches import BatchBook


def slots(batch: int, n: int = 4) -> list[Slot]:
    return [Slot(id=f"{batch}.{i}") for i in range(n)]


def test_synchronous_mode_admits_one_batch_a_version() -> None:
    book = BatchBook(0, 3, max_staleness=0, parts=1)
    assert book.admissible(0) == 0
    book.admit(slots(0))
    assert book.admissible(0) is None
    assert book.admissible(1) == 1


@pytest.mark.parametrize("max_staleness", [0, 1, 3])
def test_no_batch_is_admitted_before_version_k_minus_max_staleness(max_staleness: int) -> None:
    book = BatchBook(0, 20, max_staleness, parts=2)
    for version in range(20):
        while (batch := book.admissible(version)) is not None:
            assert batch - version <= max_staleness
            book.admit(slots(batch))
        assert book.next_batch == min(20, version + max_staleness + 1)


def test_admission_ends_with_the_run_and_starts_at_the_checkpoint() -> None:
    book = BatchBook(7, 8, max_staleness=5, parts=1)
    assert book.admissible(7) == 7
    book.admit(slots(7))
    assert book.admissible(7) is None


def test_a_batch_is_whole_only_with_all_its_parts_and_in_the_order_of_its_slots() -> None:
    book = BatchBook(0, 1, 0, parts=3)
    work = book.admit(slots(0, 7))
    assert [len(a.slots) for a in work] == [2, 3, 2]
    assert [s.id for a in work for s in a.slots] == [f"0.{i}" for i in range(7)]
    for a in reversed(work):
        assert book.take(0) is None
        assert book.add(a, [episode(a.id, [Verdict.RIGHT])]) is None
    assert [e.id for e in book.take(0) or ()] == ["0/0.0", "0/1.0", "0/2.0"]
    assert book.take(0) is None


def test_each_assignment_has_its_share_of_the_reserve() -> None:
    book = BatchBook(0, 1, 0, parts=2)
    work = book.admit(slots(0, 11), reserve=6)
    assert [[s.id for s in a.slots] for a in work] == [
        ["0.0", "0.1", "0.5", "0.6", "0.7"],
        ["0.2", "0.3", "0.4", "0.8", "0.9", "0.10"],
    ]
    assert [a.reserve for a in work] == [3, 3]


def test_work_that_comes_back_twice_is_refused() -> None:
    book = BatchBook(0, 1, 0, parts=2)
    work = book.admit(slots(0))
    book.add(work[0], [])
    with pytest.raises(ValueError, match="came back twice"):
        book.add(work[0], [])


def proposed(slot: str, text: str) -> Episode:
    """What a proposer's actor makes of a valid proposal."""
    made = episode(slot, [Verdict.RIGHT], text=text)
    return replace(made, group=Group(id=slot, problem=problem(text), samples=()))


def test_what_a_proposer_alone_played_is_solved_in_a_second_stage() -> None:
    book = BatchBook(0, 1, 0, parts=2)
    one, two = book.admit(slots(0))
    invalid = episode("0.1", None, proposal=Verdict.REJECTED)
    second = book.add(one, [proposed("0.0", "1 + 2"), invalid])
    assert second is not None and (second.id, second.batch) == ("0/0/solver", 0)
    assert second.slots == (Slot(id="0.0", problem=problem("1 + 2")),)  # the other has nothing to solve
    assert book.add(two, [invalid]) is None and book.take(0) is None
    with pytest.raises(ValueError, match="came back twice"):
        book.add(one, [proposed("0.0", "1 + 2")])
    solved = episode("0.0", [Verdict.RIGHT, Verdict.WRONG], proposal=None)
    assert book.add(second, [solved]) is None
    episodes = book.take(0)
    assert episodes is not None
    assert [(e.proposal.verdict, e.group) for e in episodes if e.proposal] == [
        (Verdict.VALID, solved.group),
        (Verdict.REJECTED, None),
        (Verdict.REJECTED, None),
    ]
    with pytest.raises(KeyError):
        book.add(second, [solved])


def test_a_second_stage_that_lacks_a_group_is_refused() -> None:
    book = BatchBook(0, 1, 0, parts=1)
    second = book.add(book.admit(slots(0))[0], [proposed("0.0", "1 + 2"), proposed("0.1", "2 + 2")])
    assert second is not None
    with pytest.raises(KeyError, match=r"0\.1"):
        book.add(second, [episode("0.0", [Verdict.RIGHT], proposal=None)])
