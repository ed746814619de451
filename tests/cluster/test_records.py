from typing import Any

import pytest

from cluster.records.rundir import RunDirectory, read_jsonl
from cluster.run.progress import Progress
from cluster.run.recorder import Recorder

RESULT: dict[str, Any] = {"accuracy": 0.5, "interval": [0.2, 0.8], "n": 8, "data": "test", "by_label": {}}


@pytest.fixture
def recorder(tmp_path):
    return Recorder(RunDirectory(tmp_path), Progress(9, "plain"), 0.0, [])


def lines(recorder: Recorder) -> list[tuple[int, float | None]]:
    return [(m["step"], m.get("eval/accuracy")) for m in read_jsonl(recorder.run.path / "metrics.jsonl")]


def test_lines_are_in_order_though_evaluations_end_later(recorder):
    recorder.await_base_model()
    recorder.step({"step": 1}, [], awaits_evaluation=False)
    assert lines(recorder) == []
    recorder.evaluation(0, RESULT)
    recorder.step({"step": 2}, [], awaits_evaluation=True)
    recorder.step({"step": 3}, [], awaits_evaluation=False)
    assert lines(recorder) == [(0, 0.5), (1, None)]
    recorder.evaluation(2, RESULT)
    assert lines(recorder) == [(0, 0.5), (1, None), (2, 0.5), (3, None)]


def test_a_learner_lost_before_the_base_models_evaluation(recorder):
    recorder.await_base_model()
    recorder.step({"step": 1}, [], awaits_evaluation=False)
    recorder.go_back(0)
    recorder.await_base_model()
    recorder.evaluation(0, RESULT)
    recorder.step({"step": 1}, [], awaits_evaluation=False)
    assert lines(recorder) == [(0, 0.5), (1, None)]


def test_a_stopped_run_keeps_the_lines_that_wait(recorder):
    recorder.step({"step": 1}, [], awaits_evaluation=True)
    recorder.close()
    assert lines(recorder) == [(1, None)]
    again = Recorder(recorder.run, Progress(9, "plain"), 0.0, [])
    again.start()
    again.evaluation(1, RESULT)
    assert lines(again) == [(1, None)] and again.has_evaluation(1)
