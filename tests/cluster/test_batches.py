"""Pacing: what is admitted when, and that a batch is exactly what was admitted for it."""

import pytest

from azero.types import Slot
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
        book.add(a, [a.id])  # type: ignore[list-item]
    assert book.take(0) == ["0/0", "0/1", "0/2"]
    assert book.take(0) is None


def test_work_that_comes_back_twice_is_refused() -> None:
    book = BatchBook(0, 1, 0, parts=2)
    work = book.admit(slots(0))
    book.add(work[0], [])
    with pytest.raises(ValueError, match="came back twice"):
        book.add(work[0], [])
