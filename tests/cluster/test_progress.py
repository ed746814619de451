import io

import pytest

from cluster.run.progress import Progress, sparkline

METRICS = {
    "step": 3,
    "solver/accuracy": 0.612,
    "solver/reward": 0.31,
    "proposer/reward": -0.125,
    "proposer/valid_rate": 0.9,
    "problems/unique_rate": 1.0,
    "staleness/max": 1.0,
    "actors/serving": 2,
    "time/step": 2.0,
    "time/wait_rollouts": 1.25,
    "time/wait_learner": 0.5,
    "throughput/samples_per_s": 131.4,
    "sync/logprob_gap": 1.5e-6,
}
RESULT = {
    "accuracy": 0.55, "interval": [0.481, 0.617], "mean_at_k": 0.5, "k": 4, "n": 200, "data": "test",
    "by_label": {"easy": {"accuracy": 0.9}, "hard": {"accuracy": 0.2}},
}  # fmt: skip


def test_one_plain_line_a_step():
    out = io.StringIO()
    with Progress(10, "plain", file=out) as progress:
        progress.evaluation(RESULT, 0)
        progress.step(METRICS)
    evaluation, step = out.getvalue().splitlines()
    assert evaluation == "eval at step 0: 55.0% [48.1, 61.7], mean@4 50.0% of 200 (test): easy 90%, hard 20%"
    assert step == (
        "step 3/10  eta 0:00:14  eval 55.0%  solver 61.2%  reward +0.310  proposer -0.125  valid 90.0%  unique 100.0%  "
        "stale 1  actors 2  learner_waited 1.2s  actors_waited 0.5s  samples/s 131  sync_gap 1.5e-06"
    )


def test_a_run_that_goes_on_shows_its_last_evaluation():
    out = io.StringIO()
    with Progress(10, "plain", file=out) as progress:
        progress.last_accuracy(0.75)
        progress.step({"step": 6})
    assert "eval 75.0%" in out.getvalue()


def test_missing_metrics_are_dashes():
    out = io.StringIO()
    progress = Progress(10, "plain", file=out)
    progress.start()
    progress.step({})
    progress.step({"step": 5, "solver/accuracy": None})
    progress.evaluation({**RESULT, "mean_at_k": None, "by_label": {}}, 5)
    progress.stop()
    first, second, evaluation = out.getvalue().splitlines()
    assert first.startswith("step 1/10  eta -  eval -  solver -  reward -")
    assert second.startswith("step 5/10  eta 0:00:00")
    assert evaluation == "eval at step 5: 55.0% [48.1, 61.7] of 200 (test)"


def test_warnings_are_taken_literally():
    out = io.StringIO()
    progress = Progress(10, "auto", file=out)
    progress.warning("problems/unique_rate is [bold]under 0.2[/bold] " + "x" * 200)
    assert not progress.live
    assert out.getvalue().splitlines() == ["warning: problems/unique_rate is [bold]under 0.2[/bold] " + "x" * 200]


@pytest.mark.parametrize("metrics", [METRICS, {}, {"step": 10}])
def test_live_display(metrics):
    out = io.StringIO()
    progress = Progress(10, "live", name="local", file=out)
    progress.start()
    progress.step(metrics)
    progress.evaluation(RESULT, 3)
    progress.warning("collapse")
    progress.stop()
    progress.stop()
    assert "warning: collapse" in out.getvalue() and "55.0%" in out.getvalue() and "eval at step 3" in out.getvalue()


def test_sparkline():
    assert sparkline([]) == ""
    assert sparkline([0.5, 0.5]) == "▁▁"
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"
