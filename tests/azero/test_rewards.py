"""Values worked out by hand. A ratio u = 3 is a log-ratio of ln 3."""

import json
from dataclasses import replace
from math import log
from typing import get_args

import numpy as np
import pytest
from helpers import problem

from azero.config import Ladder
from azero.credit.rewards import (
    SHAPES,
    NoveltyWindow,
    correlation,
    improvement,
    proposer_floor,
    scale_improvements,
    solver_reward,
)
from azero.types import Problem, Verdict

ZEROS = np.zeros(4)


@pytest.mark.parametrize(
    ("ladder", "verdict", "reward"),
    [
        ("paper", Verdict.RIGHT, 1.0),
        ("paper", Verdict.WRONG, -0.5),
        ("paper", Verdict.MALFORMED, -1.0),
        ("binary", Verdict.RIGHT, 1.0),
        ("binary", Verdict.WRONG, 0.0),
        ("binary", Verdict.MALFORMED, 0.0),
    ],
)
def test_solver_reward(ladder: Ladder, verdict: Verdict, reward: float) -> None:
    assert solver_reward(verdict, ladder) == reward


@pytest.mark.parametrize(
    ("ladder", "verdict", "floor"),
    [
        ("paper", Verdict.UNPARSEABLE, -1.0),
        ("paper", Verdict.REJECTED, -0.5),
        ("paper", Verdict.VALID, None),
        ("binary", Verdict.UNPARSEABLE, 0.0),
        ("binary", Verdict.REJECTED, 0.0),
        ("binary", Verdict.VALID, None),
    ],
)
def test_proposer_floor(ladder: Ladder, verdict: Verdict, floor: float | None) -> None:
    assert proposer_floor(verdict, ladder) == floor


@pytest.mark.parametrize("ladder", get_args(Ladder))
def test_verdicts_of_the_other_role_and_excluded_proposals_have_no_reward(ladder: Ladder) -> None:
    with pytest.raises(ValueError, match="verdict valid: not of a solution; expected one of right, wrong, malformed"):
        solver_reward(Verdict.VALID, ladder)
    for verdict in (Verdict.EXCLUDED, Verdict.RIGHT):
        with pytest.raises(ValueError, match="no reward of a proposal"):
            proposer_floor(verdict, ladder)


@pytest.mark.parametrize(
    ("shape", "at_0", "at_quarter", "at_half", "at_three_quarters", "at_1"),
    [
        ("one_minus_rate", 0.0, 0.75, 0.5, 0.25, 0.0),
        ("uncertainty", 0.0, 0.5, 1.0, 0.5, 0.0),
        ("variance", 0.0, 0.75, 1.0, 0.75, 0.0),
        ("none", 0.0, 0.0, 0.0, 0.0, 0.0),
    ],
)
def test_learnability(
    shape: str, at_0: float, at_quarter: float, at_half: float, at_three_quarters: float, at_1: float
) -> None:
    values = [SHAPES[shape](p) for p in (0, 0.25, 0.5, 0.75, 1)]
    assert values == [at_0, at_quarter, at_half, at_three_quarters, at_1]


def test_improvement_on_policy() -> None:
    # u = [3, 1, 1, 1], c = [1, 0, 0, 0]: after = 3 / 6, before = 1 / 4
    raw = improvement(np.array([log(3), 0, 0, 0]), np.array([1, 0, 0, 0], bool), ZEROS)
    assert raw == pytest.approx(0.25, abs=1e-12)


def test_improvement_weights_stale_samples_on_both_sides() -> None:
    # w = [2, 1, 1], u = [1, 3, 1], c = [1, 1, 0]: before = 3 / 4, after = (2 + 3) / (2 + 3 + 1)
    raw = improvement(np.log([1, 3, 1]), np.array([True, True, False]), np.log([2, 1, 1]))
    assert raw == pytest.approx(5 / 6 - 3 / 4, abs=1e-12)


@pytest.mark.parametrize("right", [True, False])
def test_improvement_is_exactly_zero_where_all_are_equal(right: bool) -> None:
    assert improvement(np.array([0.1, -0.7, 0.3, 2.0]), np.full(4, right), np.array([0.3, 0.1, 0.0, 1.0])) == 0.0


def test_improvement_does_not_overflow_and_ignores_a_common_factor() -> None:
    correct = np.array([True, False])
    assert improvement(np.array([2000.0, 0.0]), correct, np.zeros(2)) == pytest.approx(0.5)
    assert improvement(np.array([0.0, 2000.0]), correct, np.zeros(2)) == pytest.approx(-0.5)
    shifted = improvement(np.array([log(3) - 5000, -5000]), correct, np.array([700.0, 700.0]))
    assert shifted == pytest.approx(3 / 4 - 1 / 2, abs=1e-9)


def test_improvement_refuses_bad_arrays() -> None:
    with pytest.raises(ValueError, match=r"must be \[samples\]"):
        improvement(np.zeros(2), np.ones(3, bool), np.zeros(2))
    with pytest.raises(ValueError, match=r"must be \[samples\]"):
        improvement(np.zeros(0), np.zeros(0, bool), np.zeros(0))
    with pytest.raises(ValueError, match="not finite"):
        improvement(np.array([0.0, np.nan]), np.array([True, False]), np.zeros(2))


def test_scale_improvements() -> None:
    # mean 0, std sqrt(8 / 5): the outer two are clipped, the rest is 0 -> 0.5
    assert scale_improvements(np.array([-2, 0, 0, 0, 2])).tolist() == [0, 0.5, 0.5, 0.5, 1]
    # mean 2, std sqrt(5): (4 - 2) / sqrt(5) = 0.894 is inside the clip
    scaled = scale_improvements(np.array([0, 0, 4, 0, 6]) * 1e-3)
    assert scaled[2] == pytest.approx((2 / 6.4**0.5 + 1) / 2, abs=1e-9)
    assert scaled[4] == 1


@pytest.mark.parametrize("raw", [[], [0.3], [0.3, 0.3, 0.3], [0, 1e-8, -1e-8]])
def test_scale_improvements_without_a_spread_is_neutral(raw: list[float]) -> None:
    assert scale_improvements(np.array(raw)).tolist() == [0.5] * len(raw)


def test_correlation() -> None:
    assert correlation(np.array([1, 2, 3]), np.array([2, 4, 6])) == pytest.approx(1)
    assert correlation(np.array([1, 2, 3]), np.array([3, 2, 1])) == pytest.approx(-1)
    assert correlation(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])) == pytest.approx(0)
    assert correlation(np.array([0.1, 0.1, 0.1]), np.array([1, 2, 3])) is None
    assert correlation(np.array([1.0]), np.array([2.0])) is correlation(np.array([]), np.array([])) is None


def _problem(canonical: str, structure: str) -> Problem:
    return replace(problem(canonical), structure=structure)


def test_novelty() -> None:
    window = NoveltyWindow(3)
    a, b, c = _problem("3+5", "d+d"), _problem("3+6", "d+d"), _problem("3*5", "d*d")
    assert window.novelty(a) == 1.0
    window.add(a)
    assert window.novelty(a) == 0.5 / 2  # a second time, of a structure that all have
    assert window.novelty(b) == 0.5  # a new form of a structure that all have
    assert window.novelty(c) == 1.0
    window.add(a)
    window.add(c)
    assert window.novelty(a) == pytest.approx(0.5 / 3 + 0.5 * (1 - log(3) / log(4)))
    assert window.novelty(b) < window.novelty(_problem("4*5", "d*d")) < 1.0  # the rarer structure is worth more


def test_novelty_window_forgets_the_oldest() -> None:
    window = NoveltyWindow(2)
    a, b, c = _problem("a", "s"), _problem("b", "s"), _problem("c", "t")
    for p in (a, b, c):
        window.add(p)
    assert len(window) == 2
    assert window.novelty(a) == pytest.approx(0.5 + 0.5 * (1 - log(2) / log(3)))
    assert window.novelty(c) == pytest.approx(0.25 + 0.5 * (1 - log(2) / log(3)))


def test_novelty_window_state() -> None:
    window = NoveltyWindow(3)
    for name, structure in ("as", "bs", "at", "ct"):
        window.add(_problem(name, structure))
    state = json.loads(json.dumps(window.state()))
    same, smaller = NoveltyWindow(3), NoveltyWindow(2)
    same.add(_problem("x", "y"))
    for other in (same, smaller):
        other.load(state)
    assert same.state() == window.state()
    assert [same.novelty(_problem(n, "t")) for n in "abcx"] == [window.novelty(_problem(n, "t")) for n in "abcx"]
    assert smaller.state() == {"recent": [["a", "t"], ["c", "t"]]}
