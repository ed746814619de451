import json

import pytest
from rich.console import Console

from cluster.commands.comparison import arm_summary, comparison_table, difference, half_width, seeds_to_tell, statistics


def run(path, before, after, step=10):
    path.mkdir()
    evals = [{"step": 0, "accuracy": before}] + ([{"step": step, "accuracy": after}] if after is not None else [])
    (path / "evals.jsonl").write_text("".join(json.dumps(e) + "\n" for e in evals))
    metrics = [{"step": s, "time_s": 2.0 * s, "speed": float(s)} for s in range(step + 1)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in metrics))
    return path


def test_students_interval_of_three_values():
    found = statistics([0.1, 0.2, 0.3])
    assert found["mean"] == pytest.approx(0.2) and found["sd"] == pytest.approx(0.1)
    assert found["interval"] == pytest.approx([0.2 - 4.302653 * 0.1 / 3**0.5, 0.2 + 4.302653 * 0.1 / 3**0.5])


def test_one_value_has_no_spread_and_none_has_no_mean():
    assert statistics([0.5]) == {"mean": 0.5, "sd": None, "interval": None}
    assert statistics([]) == {"mean": None, "sd": None, "interval": None}


def test_the_quantile_becomes_the_normal_one():
    assert half_width(1.0, 2) == pytest.approx(12.7062047 / 2**0.5)
    for n, quantile in ((17, 2.120), (20, 2.093), (31, 2.042), (400, 1.966)):
        assert half_width(1.0, n) * n**0.5 == pytest.approx(quantile, abs=0.001)


@pytest.mark.parametrize(
    ("mean", "sd", "n"),
    [
        (1.0, 0.0, 2),
        (1.0, 0.1, 2),
        (-1.0, 0.2, 3),
        (0.1, 0.1, 7),
        (0.0, 0.1, None),
        (None, None, None),
        (0.1, None, None),
    ],
)
def test_how_many_seeds_would_tell(mean, sd, n):
    """For a mean as large as the spread: 2.447 / sqrt(7) = 0.925 < 1 < 2.571 / sqrt(6) = 1.05."""
    assert seeds_to_tell(mean, sd) == n


def test_an_arm_holds_the_runs_that_have_two_evaluations(tmp_path):
    paths = {0: run(tmp_path / "a-0", 0.5, 0.7), 1: run(tmp_path / "a-1", 0.5, None), 2: tmp_path / "a-2"}
    found = arm_summary(paths, ["speed", "unknown"])
    assert (found["seeds"], found["before"], found["after"], found["seconds"]) == ([0], [0.5], [0.7], [20.0])
    assert found["columns"] == {"speed": [5.5], "unknown": [None]}  # the base model's line is no step


def test_a_difference_is_paired_by_the_seeds_that_both_have():
    arm = {"seeds": [0, 2], "after": [0.8, 0.6]}
    control = {"seeds": [0, 1, 2], "after": [0.7, 0.1, 0.4]}
    found = difference(arm, control)
    assert found["mean"] == pytest.approx(0.15) and found["sd"] == pytest.approx(0.1 / 2**0.5)


def test_the_table_shows_points_failures_and_columns(tmp_path):
    a = arm_summary({0: run(tmp_path / "a-0", 0.5, 0.7)}, ["speed"]) | {"difference": None, "failed": {}}
    b = arm_summary({0: run(tmp_path / "b-0", 0.5, 0.8)}, ["speed"])
    b |= {"difference": difference(b, a), "failed": {"1": "why"}}
    console = Console(width=200)
    with console.capture() as printed:
        console.print(comparison_table({"name": "s", "control": "a", "arms": {"a": a, "b": b}}))
    text = printed.get()
    for part in ("minus a", "70.0", "80.0", "+10.0", "1, 1 failed", "speed", "5.5", "0.3"):
        assert part in text
