from itertools import chain

import pytest
from rows import row

from azero.loss import completion_tokens, microbatches, pack, shares
from azero.types import TrainRow


def rows() -> list[TrainRow]:
    return [
        row((1, 2, 3), (4, 5), logprob=-0.5, advantage=2.0),
        row((6,), (7, 8, 9), logprob=-0.25, part="proposer", advantage=-1.0),
        row((1, 2), (3,), logprob=-1.0),
    ]


def test_pack_by_hand() -> None:
    batch = pack([*rows(), row((6,), (2,), logprob=-3.0, advantage=0.5, temperature=1.5)], [0, 1, 3])
    assert batch.prompts.tolist() == [[1, 2, 3], [0, 0, 6]]  # the third row shares the second's prompt
    assert batch.prompt_mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert batch.prompt_of.tolist() == [0, 1, 1]
    assert batch.completions.tolist() == [[4, 5, 0], [7, 8, 9], [2, 0, 0]]
    assert batch.mask.int().tolist() == [[1, 1, 0], [1, 1, 1], [1, 0, 0]]
    assert batch.targets.tolist() == [4, 5, 7, 8, 9, 2]
    assert batch.behaviour.tolist() == [-0.5, -0.5, -0.25, -0.25, -0.25, -3.0]
    assert batch.advantages.tolist() == [2, 2, -1, -1, -1, 0.5]
    assert batch.row_of.tolist() == [0, 0, 1, 1, 1, 2]
    assert batch.temperatures.tolist() == pytest.approx([0.7] * 5 + [1.5])


def test_equal_completions_of_a_prompt_are_packed_once() -> None:
    same = [((1,), (4, 5)), ((1,), (3,)), ((1,), (4, 5)), ((2,), (4, 5))]  # the last is another prompt's
    batch = pack([row(p, t) for p, t in same], [0, 1, 2, 3])
    assert batch.completions.tolist() == [[4, 5], [3, 0], [4, 5]] and batch.prompt_of.tolist() == [0, 0, 1]
    assert batch.targets.tolist() == [4, 5, 3, 4, 5]
    assert batch.token_of.tolist() == [0, 1, 2, 0, 1, 3, 4]
    assert batch.row_of.tolist() == [0, 0, 1, 2, 2, 3, 3]
    hotter = pack([row((1,), (4, 5)), row((1,), (4, 5), temperature=1.0)], [0, 1])  # drawn from another distribution
    assert len(hotter.completions) == 2 and hotter.token_of.tolist() == [0, 1, 2, 3]


def test_the_budget_counts_equal_completions_once() -> None:
    equal = [row((1, 2), (3, 4), advantage=float(i)) for i in range(50)]
    assert [len(part) for part in microbatches(equal, range(50), tokens=4)] == [50]


def test_microbatches_hold_the_budget_and_every_row_once() -> None:
    many = [row((n,) * n, (2,)) for n in (3, 1, 9, 4, 3, 2)]
    parts = list(microbatches(many, range(6), tokens=12))
    # 9 + 1 | one prompt of 4, and of 3 for two rows: 2 * 4 + 3 | 2 * 2 + 2
    assert parts == [[2], [3, 0, 4], [5, 1]]
    batches = [pack(many, part) for part in parts]
    assert all(b.prompts.numel() + b.completions.numel() <= 12 for b in batches)


def test_a_row_longer_than_the_budget_goes_alone() -> None:
    assert sorted(microbatches(rows(), [0, 1, 2], tokens=1)) == [[0], [1], [2]]


def test_shares_hold_every_row_once_balanced_and_equally_many() -> None:
    lengths = (9, 3, 8, 2, 7, 2, 5, 4)  # completions of the prompt of 1, 2, ... tokens
    many = [row((n,) * n, (i,)) for n, length in enumerate(lengths, start=1) for i in range(length)]
    sizes = {n: n + length for n, length in enumerate(lengths, start=1)}
    for workers in (1, 2, 3, 4):
        plans = shares(many, range(len(many)), 20, workers)
        rows_of = [list(chain(*plan)) for plan in plans]
        assert sorted(chain(*rows_of)) == list(range(len(many)))
        assert len({len(plan) for plan in plans}) == 1
        prompts = [{len(many[i].prompt_ids) for i in part} for part in rows_of]
        assert sum(map(len, prompts)) == len(lengths)  # a prompt's rows stay together
        loads = [sum(sizes[n] for n in part) for part in prompts]
        assert max(loads) - min(loads) <= max(sizes.values())
    one_prompt = range(9)
    assert [len(list(chain(*plan))) for plan in shares(many, one_prompt, 20, 3)] == [9, 0, 0]
    assert shares(many, one_prompt, 20, 1) == [list(microbatches(many, one_prompt, 20))]


def test_the_denominator_counts_every_completion_token_of_the_part() -> None:
    assert completion_tokens(rows(), "solver") == 3
    assert completion_tokens(rows(), "proposer") == 3
