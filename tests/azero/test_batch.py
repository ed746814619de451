import torch
from helpers import sample

from azero.batch import TrainRow, completion_tokens, microbatches, pack
from azero.types import Role


def rows() -> list[TrainRow]:
    return [
        TrainRow(sample=sample(prompt=(1, 2, 3), tokens=(4, 5), logprob=-0.5), advantage=2.0),
        TrainRow(sample=sample(prompt=(6,), tokens=(7, 8, 9), logprob=-0.25, role=Role.PROPOSER), advantage=-1.0),
        TrainRow(sample=sample(prompt=(1, 2), tokens=(3,), logprob=-1.0), advantage=0.0),
    ]


def test_pack_by_hand() -> None:
    batch = pack(rows(), [0, 1])
    assert batch.ids.tolist() == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 0]]
    assert batch.attention.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    # hidden state t - 1 predicts token t
    assert batch.mask.int().tolist() == [[0, 0, 1, 1], [1, 1, 1, 0]]
    assert batch.targets.tolist() == [4, 5, 7, 8, 9]
    assert batch.behaviour.tolist() == [-0.5, -0.5, -0.25, -0.25, -0.25]
    assert batch.advantages.tolist() == [2, 2, -1, -1, -1]
    assert batch.row_of.tolist() == [0, 0, 1, 1, 1]


def test_microbatches_hold_the_budget_and_every_row_once() -> None:
    many = [TrainRow(sample=sample(prompt=(1,) * n, tokens=(2,)), advantage=1.0) for n in (3, 1, 9, 4, 4, 2)]
    batches = list(microbatches(many, range(6), tokens=11))
    assert sorted(i for b in batches for i in b.indices) == list(range(6))
    assert all(b.ids.numel() <= 11 for b in batches)
    assert [b.indices for b in batches][0] == (2,)


def test_a_row_longer_than_the_budget_goes_alone() -> None:
    assert [b.indices for b in microbatches(rows(), [0, 1, 2], tokens=1)] == [(0,), (1,), (2,)]


def test_the_denominator_counts_every_completion_token_of_the_role() -> None:
    assert completion_tokens(rows(), Role.SOLVER) == 3
    assert completion_tokens(rows(), Role.PROPOSER) == 3


def test_nothing_of_the_prompt_is_trained() -> None:
    batch = pack(rows(), [0, 1, 2])
    assert int(batch.mask.sum()) == 6 and not set(batch.targets.tolist()) & {1, 6}
    assert torch.equal(batch.attention.sum(1), torch.tensor([5, 4, 3]))
