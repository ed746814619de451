"""Sinks: TensorBoard itself, and W&B and MLflow by the calls that they get.

`make setup` installs neither W&B nor MLflow, so their real tests are skipped there. To run them as well:

pip install -e '.[wandb,mlflow]' && python -m pytest tests/cluster/test_sinks.py
"""

from __future__ import annotations

import importlib.util
import sys
import time
import urllib.request
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from azero.config import Config
from azero.errors import UserError
from cluster.cli import main
from cluster.records.rundir import RunDirectory, read_jsonl
from cluster.run.progress import Progress
from cluster.run.recorder import Recorder
from cluster.run.sinks import open_sinks, require_packages
from cluster.supervise.runtime import ray_session

LINE = {"step": 1, "a/b": 0.5, "nan": float("nan"), "text": "x", "none": None}


def config(*sinks: str, steps: int = 9) -> Config:
    made = Config()
    made.run.name, made.run.steps = "mine", steps
    if sinks:
        made.run.sinks = list(sinks)
    return made


def record(folder: Path, made: Config, *lines: dict[str, Any]) -> None:
    """One run, or one resume, that logs these lines."""
    recorder = Recorder(RunDirectory(folder), Progress(9, "plain"), 1.0, open_sinks(RunDirectory(folder), made))
    for line in lines:
        recorder.step(line, [], awaits_evaluation=False)
    recorder.close()


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    tags = [tag for tag in events.Tags()["tensors"] if tag != "time_s"]
    return {tag: [(e.step, e.tensor_proto.float_val[0]) for e in events.Tensors(tag)] for tag in tags}


def test_tensorboard_alone_is_the_default(tmp_path: Path) -> None:
    record(tmp_path, config(), LINE, {"step": 2, "a/b": 1})
    assert scalars(tmp_path / "tensorboard") == {"a/b": [(1, 0.5), (2, 1.0)]}
    assert {p.name for p in tmp_path.iterdir()} == {"metrics.jsonl", "samples.jsonl", "tensorboard"}


def test_tensorboard_forgets_what_a_resume_cuts_off(tmp_path: Path) -> None:
    record(tmp_path, config(), *({"step": step, "a": step} for step in (1, 2, 3)))
    RunDirectory(tmp_path).records.truncate_after(2)
    record(tmp_path, config(), {"step": 3, "a": 30})
    assert scalars(tmp_path / "tensorboard") == {"a": [(1, 1.0), (2, 2.0), (3, 30.0)]}


def test_no_sink_at_all(tmp_path: Path) -> None:
    made = config()
    made.run.sinks = []
    record(tmp_path, made, LINE)
    assert {p.name for p in tmp_path.iterdir()} == {"metrics.jsonl", "samples.jsonl"}


@pytest.mark.parametrize("given", ["[tensorboard,comet]", "comet"])
def test_an_unknown_sink(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "local", f"run.sinks={given}", "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert "run.sinks" in error and error.count("\n") == 1


@pytest.mark.parametrize("spec", [None, ModuleSpec("wandb", None)], ids=["missing", "a folder of that name"])
def test_a_package_that_is_not_installed(spec: ModuleSpec | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(UserError, match=r"run\.sinks=wandb: .* pip install 'azero\[wandb\]'"):
        require_packages(["wandb"])


def test_installed_packages() -> None:
    require_packages(["tensorboard"])


class FakeWandb:
    """Keeps what is asked of it."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.Settings = dict

    def init(self, **given: Any) -> SimpleNamespace:
        self.calls.append(("init", given))
        return SimpleNamespace(
            define_metric=lambda *a, **k: self.calls.append(("define_metric", (a, k))),
            log=lambda line: self.calls.append(("log", line)),
            finish=lambda: self.calls.append(("finish", None)),
        )

    def of(self, name: str) -> list[Any]:
        return [given for called, given in self.calls if called == name]


def test_calls_of_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    record(tmp_path, config("wandb"), {"step": 1, "a": 1}, {"step": 2, "a": 2})
    record(tmp_path, config("wandb", steps=12), {"step": 2, "a": 3})
    first, again = fake.of("init")
    assert first["id"] == again["id"] == (tmp_path / "wandb_run_id").read_text() and first["resume"] == "allow"
    assert (first["project"], first["name"], first["dir"]) == ("azero", "mine", str(tmp_path))
    assert first["config"]["run.steps"] == 9 and first["config"]["task.domain"] == "arithmetic"
    assert again["config"]["run.steps"] == 12 and first["config"]["run.sinks"] == "['wandb']"
    assert [(x["step"], x["a"]) for x in fake.of("log")] == [(1, 1.0), (2, 2.0), (2, 3.0)]
    assert fake.of("define_metric") == [(("*",), {"step_metric": "step"})] * 2
    assert len(fake.of("finish")) == 2 and not (tmp_path / "tensorboard").exists()


class FakeMlflow:
    """One module and its client, in memory."""

    def __init__(self) -> None:
        self.entities = SimpleNamespace(Metric=lambda *a: a, Param=lambda *a: a)
        self.runs: list[tuple[str, str]] = []
        self.params: dict[str, str] = {}
        self.metrics: list[tuple[Any, ...]] = []
        self.status: list[str] = []

    def MlflowClient(self) -> FakeMlflow:
        return self

    def set_experiment(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(experiment_id=f"id of {name}")

    def create_run(self, experiment: str, run_name: str) -> SimpleNamespace:
        self.runs.append((experiment, run_name))
        return SimpleNamespace(info=SimpleNamespace(run_id="r1"))

    def log_batch(self, run: str, metrics: Any = (), params: Any = ()) -> None:
        assert run == "r1"
        self.metrics += [(key, value, step) for key, value, _, step in metrics]
        self.params |= dict(params)

    def update_run(self, run: str, status: str) -> None:
        self.status.append(status)

    def set_terminated(self, run: str) -> None:
        self.status.append("FINISHED")


def test_calls_of_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeMlflow()
    modules = sys.modules
    monkeypatch.setitem(modules, "mlflow", fake)
    monkeypatch.setitem(modules, "mlflow.entities", fake.entities)
    record(tmp_path, config("mlflow"), {"step": 1, "eval/accuracy/+*": 1})
    record(tmp_path, config("mlflow", steps=12), {"step": 2, "a": 2, "none": None})
    assert fake.runs == [("id of azero", "mine")] and (tmp_path / "mlflow_run_id").read_text() == "r1"
    assert fake.params["run.steps"] == "9", "MLflow does not let a parameter change"
    assert [m for m in fake.metrics if m[0] != "time_s"] == [("eval/accuracy/__", 1.0, 1), ("a", 2.0, 2)]
    assert fake.status == ["FINISHED", "RUNNING", "FINISHED"]


class Failing:
    name = "failing"

    def __init__(self) -> None:
        self.tried = 0

    def write(self, step: int, metrics: Any) -> None:
        self.tried += 1
        raise ConnectionError("the server is gone")

    def close(self) -> None:
        raise AssertionError("it was left out")


def test_a_sink_that_fails_does_not_end_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sink = Failing()
    recorder = Recorder(RunDirectory(tmp_path), Progress(9, "plain"), 1.0, [sink])
    for step in (1, 2):
        recorder.step({"step": step}, [], awaits_evaluation=False)
    recorder.close()
    assert sink.tried == 1 and [m["step"] for m in read_jsonl(tmp_path / "metrics.jsonl")] == [1, 2]
    assert (
        "warning: failing fails and gets no more metrics (ConnectionError: the server is gone)"
        in capsys.readouterr().out
    )


def test_a_sink_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr(fake, "init", lambda **given: 1 / 0)
    with pytest.raises(UserError, match=r"run\.sinks=wandb: cannot be opened \(ZeroDivisionError: division by zero\)"):
        open_sinks(RunDirectory(tmp_path), config("wandb"))


def test_real_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="an extra: pip install 'azero[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    require_packages(["wandb"])
    record(tmp_path, config("wandb"), LINE)
    record(tmp_path, config("wandb", steps=12), {"step": 1, "a/b": 1.5})
    name = (tmp_path / "wandb_run_id").read_text()
    logs = sorted((tmp_path / "wandb").glob(f"offline-run-*-{name}*/run-{name}.wandb"))
    assert len(logs) == 2 and all(b"a/b" in log.read_bytes() for log in logs)


def test_real_mlflow_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="an extra: pip install 'azero[mlflow]'")
    pytest.importorskip("sqlalchemy", reason="an extra: pip install 'azero[mlflow]'")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    require_packages(["mlflow"])
    record(tmp_path, config("mlflow"), LINE | {"eval/accuracy/+": 1})
    record(tmp_path, config("mlflow", steps=12), {"step": 2, "a/b": 1.5})
    client = mlflow.MlflowClient()
    run = client.get_run((tmp_path / "mlflow_run_id").read_text())
    history = client.get_metric_history(run.info.run_id, "a/b")
    assert [(m.step, m.value) for m in history] == [(1, 0.5), (2, 1.5)]
    assert (run.info.run_name, run.info.status, run.data.params["run.steps"]) == ("mine", "FINISHED", "9")
    assert run.data.metrics["eval/accuracy/_"] == 1


@pytest.mark.slow
def test_a_node_serves_the_metrics_to_prometheus(tmp_path: Path) -> None:
    made = config("prometheus")
    with ray_session(made.cluster):
        record(tmp_path, made, LINE)
        node = ray.nodes()[0]
        address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        deadline, page = time.monotonic() + 60, ""
        while "azero_a_b" not in page and time.monotonic() < deadline:
            time.sleep(1)
            page = urllib.request.urlopen(address, timeout=10).read().decode()
    (line,) = [line for line in page.splitlines() if line.startswith("ray_azero_a_b{")]
    assert 'run="mine"' in line and float(line.split()[-1]) == 0.5
    assert "ray_azero_nan" not in page and "ray_azero_step{" in page
