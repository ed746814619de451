"""`azero scale`: real Ray, loop and pacing around engines that are clocks."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from azero.errors import UserError
from benchmarks.scale.plan import Measured, Model, Point, calibrate, parse, scale

pytestmark = pytest.mark.timeout(300)


def measured(actors: int, batch: int, T: float, driver_s: float, efficiency: float, load: float) -> Measured:
    point = Point(actors=actors, batch=batch, decode_rate=1.0, weights_mib=1.0, max_staleness=1)
    return Measured(
        point=point, assignment_s=T, samples_per_s=batch / T * efficiency, efficiency=efficiency, staleness=0.5,
        actors_waited=1 - efficiency, learner_waited=0.5, driver_load=load, driver_s=driver_s, machine_load=load,
        load_s=0.0,
    )  # fmt: skip


def test_the_model_has_the_knee_where_the_driver_is_full() -> None:
    model = Model(latency_s=0.01, per_assignment_s=0.002, per_sample_s=0.0001)
    assert model.driver_s(30) == pytest.approx(0.005)
    assert model.knee(0.49, 30) == pytest.approx(100)
    assert model.efficiency(50, 0.49, 30) == pytest.approx(0.98)
    assert model.efficiency(200, 0.49, 30) == pytest.approx(0.49)


def test_the_constants_come_from_the_runs() -> None:
    runs = [
        measured(1, 16, 1.0, 0.002 + 0.0001 * 16, 1 / 1.02, 0.1),
        measured(1, 64, 1.0, 0.002 + 0.0001 * 64, 1 / 1.02, 0.1),
        measured(64, 4096, 0.05, 0.002 + 0.0001 * 64, 0.2, 1.0),  # full: says nothing of the latency
    ]
    model = calibrate(runs)
    assert model.latency_s == pytest.approx(0.02)
    assert model.per_sample_s == pytest.approx(0.0001) and model.per_assignment_s == pytest.approx(0.002)


@pytest.mark.slow
def test_actors_play_nearly_all_the_time(tmp_path: Path) -> None:
    out = io.StringIO()
    options = ["actors=[2,4]", "batch=[256]", "decode_rate=[40]", "tokens=40", "steps=4", "weights_mib=[1]"]
    assert scale([*options, "max_staleness=[1]", "target=5000"], tmp_path / "scale.json", out) == 0
    result = json.loads((tmp_path / "scale.json").read_text())
    for run in result["runs"]:
        assert run["assignment_s"] == pytest.approx(1.0, rel=0.01)
        assert 0.8 < run["efficiency"] < 1.1 and run["staleness"] <= 1
        assert run["samples_per_s"] == pytest.approx(256 * run["efficiency"], rel=0.05)
    assert "for 5000 samples/s" in out.getvalue() and "the knee" in out.getvalue().lower()


@pytest.mark.long
@pytest.mark.slow
def test_lengths_spread_and_slow_learners_show() -> None:
    options = ["actors=[2]", "batch=[64]", "decode_rate=[80]", "tokens=40", "steps=3", "weights_mib=[64]"]
    out = io.StringIO()
    slow = ["learn_rate=1280", "load_rate=0.25"]  # 64 * 40 tokens take the learner 2 s, and its weights 0.25 s
    assert scale([*options, *slow, "max_staleness=[0]", "spread=0.5"], None, out) == 0
    row = next(line for line in out.getvalue().splitlines() if "64 MiB" in line)
    cells = [c.strip() for c in row.strip("│ ").split("│")]
    assert float(cells[6].rstrip("%")) < 40  # in turns with a slower learner
    assert float(cells[4].removesuffix(" s")) > 0.6  # the longest of 32, not the mean of 0.5 s
    assert float(cells[-1].removesuffix(" s")) >= 0.25


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("actors=[0]", "actors"), ("actors=3", "actors"), ("batch=[100]", "multiple of solutions=16"),
        ("batch=[16]", "a problem for each of 4 actors"), ("max_staleness=[-1]", "0 or more"), ("spread=-1", "spread"),
        ("steps=0", "steps"), ("colour=red", "unknown key"), ("tokens=many", "tokens"), ("actors", "key=value"),
    ],
)  # fmt: skip
def test_bad_input(given: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse([given])
