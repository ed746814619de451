"""The Python door: `import azero`. Its page runs in tests/test_docs_commands.py."""

from __future__ import annotations

import signal
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from run_dirs import write_run

import azero

ROOT = Path(__file__).parents[2]


def test_every_name_is_there() -> None:
    for name in azero.__all__:
        assert getattr(azero, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'fly'"):
        azero.fly  # noqa: B018


def test_the_version_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    from cluster.cli import main

    assert "version" in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dynamic"]
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"azero {azero.__version__}\n"


def test_a_run_is_read_as_a_table(tmp_path: Path) -> None:
    run = azero.read_run(write_run(tmp_path / "some", steps=10))
    assert run.metrics.index.tolist() == list(range(11)) and run.step == 10
    accuracy = run.series("eval/accuracy").to_numpy()
    assert accuracy[0] == 0.5 and np.isnan(accuracy[1:]).all() and accuracy.dtype == np.float64
    assert run.series("no/such_metric").isna().all()
    assert run.setting("run.steps") == 10 and [e["step"] for e in run.evals] == [0, 10]


def test_what_is_no_run_is_told(tmp_path: Path) -> None:
    for path, says in ((tmp_path, "holds no run"), (tmp_path / "none", "no such directory")):
        with pytest.raises(azero.UserError, match=says):
            azero.read_run(path)


def test_a_run_directory_is_a_config(tmp_path: Path) -> None:
    write_run(tmp_path / "before", steps=1).rename(tmp_path / "after")
    assert azero.load_config(tmp_path / "after").run.dir == str(tmp_path / "after")
    assert azero.load_config(tmp_path / "after", ["run.dir=x"]).run.dir == "x"


def test_training_in_another_thread_leaves_signals_alone() -> None:
    """Python lets the main thread alone handle them."""
    from cluster.commands.train import StopSignals

    before = signal.getsignal(signal.SIGINT)

    def enter() -> bool:
        with StopSignals(only_ask=True) as stop:
            return stop.asked

    with ThreadPoolExecutor() as pool:
        assert pool.submit(enter).result() is False
    assert signal.getsignal(signal.SIGINT) is before
