"""Values worked out by hand, with epsilon 0 unless it is what is tested."""

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from azero.config import BaselineConfig
from azero.credit.advantages import (
    GROUPINGS,
    MIN_STD,
    CheckedEstimator,
    Moments,
    Scored,
    TaskRelativeBaseline,
    group_advantages,
)
from azero.domains.expression import EASY, HARD
from azero.types import Cell, Role


def _baseline(by: str = "cell", **changed: Any) -> TaskRelativeBaseline:
    config = BaselineConfig(by=by).model_copy(update={"ema_decay": 0.5, "epsilon": 0.0} | changed)
    return TaskRelativeBaseline(config, GROUPINGS[by])


def _rows(
    rewards: Sequence[float], *, role: Role = Role.SOLVER, cell: Cell = EASY, groups: Sequence[int] | None = None
) -> list[Scored]:
    """Each sample is its own group, unless `groups` says otherwise."""
    ids = groups or range(len(rewards))
    return [Scored(role=role, cell=cell, group=f"{cell}.{i}", reward=r) for i, r in zip(ids, rewards, strict=True)]


@pytest.mark.parametrize(
    ("by", "solver_easy", "proposer_hard"),
    [
        ("cell", "solver/arithmetic/easy", "proposer/arithmetic/hard"),
        ("task", "solver/arithmetic", "proposer/arithmetic"),
        ("role", "solver", "proposer"),
        ("batch", "batch", "batch"),
    ],
)
def test_groupings(by: str, solver_easy: str, proposer_hard: str) -> None:
    (easy,), (hard,) = _rows([0]), _rows([0], role=Role.PROPOSER, cell=HARD)
    assert GROUPINGS[by](easy) == solver_easy
    assert GROUPINGS[by](hard) == proposer_hard


def test_each_cell_is_standardised_on_its_own_and_rows_keep_their_order() -> None:
    easy = _rows([1, 1, 1, -1])  # mean 0.5, std sqrt(0.75)
    hard = _rows([-1, 1], cell=HARD)  # mean 0, std 1
    proposer = _rows([0, 4], role=Role.PROPOSER)  # mean 2, std 2
    rows = [hard[0], easy[0], proposer[1], easy[1], easy[2], hard[1], easy[3], proposer[0]]
    right, wrong = 0.5 / 0.75**0.5, -1.5 / 0.75**0.5
    baseline = _baseline()
    assert baseline.advantages(rows) == pytest.approx([-1, right, 1, right, right, 1, wrong, -1])
    assert list(baseline.baselines().items()) == [
        ("proposer/arithmetic/easy", 2),
        ("solver/arithmetic/easy", 0.5),
        ("solver/arithmetic/hard", 0),
    ]


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("cell", [-1, 1, -1, 1, -1, 1]),
        ("task", [-(2**0.5), 0, 0, 2**0.5, -1, 1]),  # solver 0 2 2 4: mean 2, std sqrt(2)
        ("role", [-(2**0.5), 0, 0, 2**0.5, -1, 1]),
        ("batch", [x / (58 / 6) ** 0.5 for x in (-4, -2, -2, 0, 3, 5)]),  # mean 4, squares sum to 58
    ],
)
def test_coarser_cells_share_their_moments(by: str, expected: list[float]) -> None:
    rows = _rows([0, 2]) + _rows([2, 4], cell=HARD) + _rows([7, 9], role=Role.PROPOSER)
    assert _baseline(by).advantages(rows) == pytest.approx(expected)


def test_epsilon_and_clip() -> None:
    assert _baseline(epsilon=1.0).advantages(_rows([-1, 1])) == pytest.approx([-0.5, 0.5])
    # one of 50 differs: mean 0.02, std 0.14, so (1 - 0.02) / 0.14 = 7 is clipped
    values = CheckedEstimator(BaselineConfig(), clip=5.0).advantages(_rows([1] + [0] * 49))
    assert values[0] == 5
    assert values[1] == pytest.approx(-1 / 7, abs=1e-4)
    assert CheckedEstimator(BaselineConfig(), clip=5.0).advantages(_rows([0] + [1] * 49))[0] == -5


def test_too_few_groups_and_no_history_give_zero() -> None:
    # Four samples, but of one group: their mean says more of the problem than of the cell.
    assert _baseline().advantages(_rows([1, 1, -1, -1], groups=[7, 7, 7, 7])).tolist() == [0, 0, 0, 0]
    assert _baseline().advantages(_rows([1, 1, -1, -1], groups=[7, 7, 8, 8])) == pytest.approx([1, 1, -1, -1])
    assert _baseline().advantages([]).tolist() == []


def test_too_few_groups_use_the_average_of_the_cell() -> None:
    baseline = _baseline()
    baseline.advantages(_rows([1, -1]))  # the average becomes mean 0, variance 1
    assert baseline.advantages(_rows([3])) == pytest.approx([3])  # and is used before it is updated
    # mixture of (0, 1) and (3, 0), half each: mean 1.5, variance 0.5 + 0.25 * 9
    assert baseline.baselines() == {"solver/arithmetic/easy": 1.5}
    assert baseline.state()["cells"] == {"solver/arithmetic/easy": {"mean": 1.5, "variance": 2.75}}


def test_an_all_correct_cell_uses_its_average_and_fades() -> None:
    baseline = _baseline(ema_decay=0.9)
    baseline.advantages(_rows([1, 1, 1, -1]))  # mean 0.5, std sqrt(0.75)
    first = baseline.advantages(_rows([1, 1, 1, 1]))
    assert first == pytest.approx([0.5 / 0.75**0.5] * 4)
    values = [baseline.advantages(_rows([1, 1]))[0] for _ in range(100)]
    assert all(a > b > 0 for a, b in pairwise(values))
    assert values[-1] < 0.01


def test_an_unseen_cell_uses_the_average_of_its_role() -> None:
    baseline = _baseline()
    baseline.advantages(_rows([1, -1]) + _rows([8, 12], role=Role.PROPOSER))
    hard = _rows([2], cell=HARD) + _rows([13], role=Role.PROPOSER, cell=HARD)
    # solver: mean 0, std 1; proposer: mean 10, std 2
    assert baseline.advantages(hard) == pytest.approx([2, 1.5])


def test_a_cell_that_was_always_constant_has_zero_whatever_its_role_does() -> None:
    baseline = _baseline()
    for _ in range(3):
        values = baseline.advantages(_rows([1, 1]) + _rows([1, -1], cell=HARD))
        assert values == pytest.approx([0, 0, 1, -1])
        assert values[0] == 0
    assert baseline.baselines() == {"solver/arithmetic/easy": 1, "solver/arithmetic/hard": 0}


def test_a_spread_of_rounding_is_none() -> None:
    assert _baseline().advantages(_rows([0.1 + MIN_STD / 10, 0.1])).tolist() == [0, 0]
    assert np.abs(_baseline().advantages(_rows([0.1 + MIN_STD * 10, 0.1]))) == pytest.approx([1, 1])


def test_decayed_moments_are_those_of_the_mixture() -> None:
    # three parts [0, 2] and one part [4, 4]: samples 0 2 0 2 0 2 4 4, mean 14 / 8, mean of squares 44 / 8
    mixed = Moments(mean=1, variance=1).decayed(Moments(mean=4, variance=0), 0.75)
    assert mixed.mean == 1.75
    assert mixed.variance == pytest.approx(44 / 8 - 1.75**2)


def test_state_restores_later_advantages() -> None:
    baseline, restored = _baseline(), _baseline()
    baseline.advantages(_rows([1, -0.5, -1]) + _rows([0.3, 0.7], role=Role.PROPOSER))
    restored.load(json.loads(json.dumps(baseline.state())))
    assert restored.baselines() == baseline.baselines()
    later = _rows([1, 1]) + _rows([0.4], role=Role.PROPOSER, cell=HARD)
    assert restored.advantages(later).tolist() == baseline.advantages(later).tolist()
    assert restored.state() == baseline.state()


def test_a_reward_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="reward nan is not finite"):
        _baseline().advantages(_rows([1, float("nan")]))


def test_group_advantages() -> None:
    right, wrong = 0.5 / 0.75**0.5, -1.5 / 0.75**0.5
    assert group_advantages(np.array([1, 1, 1, -1]), 0.0) == pytest.approx([right, right, right, wrong])
    assert group_advantages(np.array([2, 0, 2, 0]), 0.0) == pytest.approx([1, -1, 1, -1])
    assert group_advantages(np.array([0.1, 0.1, 0.1, 0.1]), 0.0).tolist() == [0, 0, 0, 0]
    assert group_advantages(np.array([-1, 1]), 1.0).tolist() == [-0.5, 0.5]


def test_by_problem_groups_may_differ_in_size_and_proposals_have_their_cell() -> None:
    solutions = _rows([1, -1, 1, 1, 1, -1], groups=[0, 1, 0, 1, 1, 1])  # [1, 1] and [-1, 1, 1, -1]
    rows = solutions + _rows([0, 4], role=Role.PROPOSER)
    assert _baseline("problem").advantages(rows) == pytest.approx([0, -1, 0, 1, 1, -1, -1, 1])
