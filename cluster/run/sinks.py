"""Where a run's metrics go beside metrics.jsonl: TensorBoard, Prometheus, Weights & Biases, MLflow (`run.sinks`).

Sinks are for looking at; the run directory stays the record. W&B and MLflow come with an extra and read their own
environment variables: WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE and so on; MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME. A
resumed run goes on in the same W&B or MLflow run, whose id stands in the run directory. Both only append: steps after
the checkpoint that a resume goes back to are there twice, while TensorBoard's files are written anew.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from azero.config import Config
from azero.config.overrides import values
from azero.errors import UserError
from cluster.records.rundir import METRICS, RunDirectory, iterate_jsonl

PROJECT = "azero"  # of W&B, and the experiment of MLflow
CLOSE_TIMEOUT_S = 60.0  # W&B's upload at the end; `wandb sync` sends the rest


class Sink(Protocol):
    name: str

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Every finite number of the step's line but `step` itself."""

    def close(self) -> None: ...


class TensorBoard:
    """Scalars in <run.dir>/tensorboard; needs neither tensorflow nor torch. Starts with what metrics.jsonl holds."""

    name = "tensorboard"

    def __init__(self, run: RunDirectory, config: Config) -> None:
        from tensorboard.summary import Writer

        folder = run.path / "tensorboard"
        shutil.rmtree(folder, ignore_errors=True)
        self._writer = Writer(str(folder))
        for record in iterate_jsonl(run.path / METRICS):
            self.write(record["step"], record)

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        for key, value in _numbers(metrics).items():
            self._writer.add_scalar(key, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class Prometheus:
    """Application metrics of Ray, which each node serves to Prometheus: azero_solver_accuracy{run="..."} and so on.

    cluster/launch/grafana.json shows them. Nothing is kept here: what is not scraped in time is gone.
    """

    name = "prometheus"

    def __init__(self, run: RunDirectory, config: Config) -> None:
        self._tags = {"run": config.run.name}
        self._gauges: dict[str, Any] = {}

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        from ray.util.metrics import Gauge

        for key, value in {"step": float(step), **_numbers(metrics)}.items():
            if key not in self._gauges:
                self._gauges[key] = Gauge(prometheus_name(key), description=key, tag_keys=("run",))
            self._gauges[key].set(value, tags=self._tags)

    def close(self) -> None: ...


def prometheus_name(key: str) -> str:
    """Return a metric's name in Prometheus; Ray puts `ray_` before it."""
    return "azero_" + re.sub(r"\W", "_", key, flags=re.ASCII)


class WeightsAndBiases:
    """A run in the project WANDB_PROJECT, by default azero; its local files are in <run.dir>/wandb."""

    name = "wandb"

    def __init__(self, run: RunDirectory, config: Config) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        file = run.path / "wandb_run_id"
        if not file.exists():
            file.write_text(uuid.uuid4().hex)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=config.run.name,
            id=file.read_text(),
            resume="allow",
            config=_settings(config),
            dir=str(run.path),
            settings=wandb.Settings(console="off", finish_timeout=CLOSE_TIMEOUT_S),
        )
        # W&B's own step may not go back, as after a resume; so `step` is a metric, and the axis of all others.
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        self._run.log({"step": step, **_numbers(metrics)})

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run in the experiment MLFLOW_EXPERIMENT_NAME, by default azero.

    Without MLFLOW_TRACKING_URI it is in MLflow's own default, mlflow.db in the working directory.
    """

    name = "mlflow"

    def __init__(self, run: RunDirectory, config: Config) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        import mlflow
        from mlflow.entities import Metric, Param

        self._metric, self._client = Metric, mlflow.MlflowClient()
        file = run.path / "mlflow_run_id"
        if file.exists():
            self._id = file.read_text()
            self._client.update_run(self._id, status="RUNNING")
            return
        experiment = mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
        self._id = self._client.create_run(experiment.experiment_id, run_name=config.run.name).info.run_id
        params = [Param(key, str(value)) for key, value in _settings(config).items()]
        self._client.log_batch(self._id, params=params)
        file.write_text(self._id)

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        now = int(time.time() * 1000)
        # MLflow refuses other characters, which labels of a data set may hold.
        values = {re.sub(r"[^\w. :/-]", "_", k, flags=re.ASCII): v for k, v in _numbers(metrics).items()}
        self._client.log_batch(self._id, metrics=[self._metric(k, v, now, step) for k, v in values.items()])

    def close(self) -> None:
        self._client.set_terminated(self._id)


SINKS: dict[str, Callable[[RunDirectory, Config], Sink]] = {
    sink.name: sink for sink in (TensorBoard, Prometheus, WeightsAndBiases, MLflow)
}


def require_packages(names: Sequence[str]) -> None:
    """Raises UserError where a sink's package is not installed. `names`: run.sinks."""
    for name in set(names) - {Prometheus.name}:  # which is Ray's own
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # a folder wandb/ that lies about passes for a package without origin
            raise UserError(
                f"run.sinks={name}: its package is not installed; pip install 'azero[{name}]', or leave it out"
            )


def open_sinks(run: RunDirectory, config: Config) -> list[Sink]:
    """Those of `run.sinks`. Raises UserError where one cannot be opened, as without a login or a server."""
    sinks = []
    for name, make in SINKS.items():
        if name in config.run.sinks:
            try:
                sinks.append(make(run, config))
            except Exception as e:  # each package has errors of its own
                raise UserError(
                    f"run.sinks={name}: cannot be opened ({type(e).__name__}: {str(e).strip().splitlines()[0]}); "
                    "see its environment variables, or leave it out"
                ) from e
    return sinks


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {
        key: float(value)
        for key, value in metrics.items()
        if key != "step" and isinstance(value, int | float) and math.isfinite(value)
    }


def _settings(config: Config) -> dict[str, Any]:
    """The configuration by dotted key; what is neither a number nor text as its text."""
    return {key: v if isinstance(v, int | float | str) else str(v) for key, v in values(config).items()}
