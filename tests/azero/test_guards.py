from __future__ import annotations

import json

import pytest

from azero.config import GuardConfig
from azero.credit.guards import Guards


def test_a_floor_speaks_from_the_nth_step_in_a_row_until_it_is_kept() -> None:
    guards = Guards(GuardConfig(steps=2, min_unique_rate=0.2), has_proposer=True)
    said = [guards.check({"problems/unique_rate": x}) for x in (0.1, 0.2, 0.1, 0.1, 0.1, 0.3)]
    assert [len(s) for s in said] == [0, 0, 0, 1, 1, 0]
    assert said[4] == (
        "the proposer repeats itself: problems/unique_rate is 0.1, under guard.min_unique_rate=0.2 for 3 steps",
    )
    guards.check({"problems/unique_rate": 0.1})
    restored = Guards(GuardConfig(steps=2, min_unique_rate=0.2), has_proposer=True)
    restored.load(json.loads(json.dumps(guards.state())))
    assert restored.check({"problems/unique_rate": 0.1})


@pytest.mark.parametrize(
    ("config", "metrics", "means"),
    [
        ({"min_entropy": 0.1}, {"entropy": 0.05}, "explores nothing"),
        ({"max_kl": 2.0}, {"kl/reference": 2.5}, "left the start model"),
    ],
)
def test_entropy_and_kl(config: dict[str, float], metrics: dict[str, float], means: str) -> None:
    guards = Guards(GuardConfig(steps=1, **config), has_proposer=False)  # type: ignore[arg-type]
    assert any(means in line for line in guards.check(metrics))
    assert not guards.check(dict.fromkeys(metrics, 1.0)) and not guards.check({})


def test_updates_that_are_not_finite_end_the_run_after_so_many_in_a_row() -> None:
    guards = Guards(GuardConfig(max_skipped=2), has_proposer=True)
    said = []
    for skipped in (1, 0, 1, 1):
        restored = Guards(GuardConfig(max_skipped=2), has_proposer=True)
        restored.load(json.loads(json.dumps(guards.state())))
        guards = restored
        said.append(guards.judge({"faults/skipped_updates": float(skipped)}))
    assert [(len(warnings), bool(failure)) for warnings, failure in said] == [
        (1, False), (0, False), (1, False), (1, True)
    ]  # fmt: skip
    assert said[3][1] == "2 updates in a row had no finite loss and gradient (guard.max_skipped)"


def test_a_limit_that_stops_ends_the_run() -> None:
    guards = Guards(GuardConfig(steps=1, stops=True), has_proposer=True)
    warnings, failure = guards.judge({"problems/unique_rate": 0.0})
    assert failure == warnings[0] and not guards.judge({"problems/unique_rate": 1.0})[1]


def test_entropy_and_kl_are_off_by_default() -> None:
    guards = Guards(GuardConfig(steps=1), has_proposer=True)
    assert not guards.check({"entropy": 0.0, "kl/reference": 1e9, "problems/unique_rate": 1.0})
