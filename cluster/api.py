"""What `import azero` offers; the command line is a layer over it. Each function imports what it needs when called.

All raise UserError for bad input and RunFailed for a run that cannot go on, each with one line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from azero.config import Config
from azero.config import load_config as load_file
from cluster.records.rundir import CONFIG, run_of

if TYPE_CHECKING:
    from rich.console import Console

    from cluster.commands.train import TrainingResult
    from cluster.records.reading import RunRecords

__all__ = ["Evaluation", "evaluate", "load_config", "read_run", "train"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A model's answers to an evaluation set. Shares are in [0, 1], intervals are Wilson's of 95 %."""

    data: str
    n: int  # problems
    accuracy: float  # of greedy answers
    interval: tuple[float, float]
    k: int  # samples a problem at rollout.temperature, beside the greedy answer
    mean_at_k: float | None  # share of right ones among them; None without samples
    by_label: Mapping[str, Mapping[str, Any]]  # {accuracy, mean_at_k, n, correct, interval} by the set's own labels
    by_operation: Mapping[str, Mapping[str, Any]]
    # {text, label, operation, answer, completion, verdict, correct, sampled_correct} of each problem, in their order
    problems: Sequence[Mapping[str, Any]] = field(repr=False)


def load_config(config: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The checked configuration of a YAML file, a shipped config or a run directory, with key=value overrides.

    That of a run directory has the directory as it is given, wherever it was when its config was written.
    """
    folder = run_of(str(config))
    loaded = load_file(folder / CONFIG if folder else config, overrides)
    if folder and not any(o.startswith("run.dir=") for o in overrides):
        loaded.run.dir = str(folder)
    return loaded


def train(config: Config, resume: bool = False) -> TrainingResult:
    """Run self-play training to its end, or until Ctrl-C asks it to stop; progress is shown as `cluster.progress` says.

    `resume`: go on from the run directory's newest checkpoint.
    """
    from cluster.commands.train import train as run

    return run(config, resume, plain_console())


def plain_console() -> Console:
    """A console that prints names as they are."""
    from rich.console import Console

    return Console(soft_wrap=True, markup=False, emoji=False)


def evaluate(
    model: str | Path,
    data: str = "",
    *,
    config: str | Path = "",
    overrides: Sequence[str] = (),
    policy: str = "",
) -> Evaluation:
    """Accuracy of a model on an evaluation set, with one engine in this process and no Ray.

    `model`: embedded, a model folder, a Hub id, a run directory or a checkpoint. `data`: test, dev, a file or a Hub id;
    eval.data of the config where it is not given. `config`: whose engine and protocol to use; by default the run's own,
    or base. `policy`: of several in a run; by default the one that plays the solver.
    """
    from cluster.commands.evaluate import evaluate_model

    result = evaluate_model(str(model), data, str(config), overrides, policy)
    return Evaluation(**(result | {"interval": tuple(result["interval"])}))


def read_run(path: str | Path) -> RunRecords:
    """The records of a run directory as tables, also while the run goes on."""
    from cluster.records.reading import read_run as read

    return read(path)
