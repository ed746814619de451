"""Sweeps: what is run, what is skipped, what is said of a run that fails. The runs are real."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from omegaconf import OmegaConf

from azero.config import load_config, to_yaml
from azero.errors import UserError
from cluster.cli import main
from cluster.commands.sweep import load_sweep, run_sweep, runs_of, summary
from cluster.records.rundir import read_jsonl

EXPERIMENTS = sorted((Path(__file__).parents[2] / "configs" / "experiments").glob("*.yaml"))
TINY = [
    *("rollout.engine=hf", "run.steps=2", "run.eval_every=0", "rollout.problems_per_step=4"),
    *("rollout.solutions_per_problem=2", "eval.samples=0", "task.buffer_size=100"),
]


def write(path, **keys):
    content = {
        "base": "local",
        "dir": str(path.parent / "runs"),
        "seeds": [0],
        "control": "a",
        "arms": {"a": [], "b": []},
    }
    path.write_text(OmegaConf.to_yaml({k: v for k, v in (content | keys).items() if v is not None}))
    return str(path)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_an_experiment_is_at_most_ten_lines_with_its_hypothesis(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 10 and lines[0].startswith("# ") and "Hypothesis:" in lines[0]
    runs = runs_of(load_sweep(str(path)), [])
    assert len(runs) == len(load_sweep(str(path)).seeds) * len(load_sweep(str(path)).arms)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"arms": None}, "needs the keys arms, base"),
        ({"repeats": 3}, "may have columns"),
        ({"control": "c"}, "control=c is none of the arms a, b"),
        ({"arms": {"a": ["rollout.actorz=1"]}}, "rollout.actorz"),
        ({"arms": {"a": ["optim.lr=-1"]}}, "optim.lr"),
        ({"base": "nothing"}, "nothing"),
        ({"seeds": 3}, "seeds=3: must be a list"),
        ({"seeds": [0, 0]}, "seeds=.* must be distinct"),
        ({"seeds": []}, "seeds=.* must not be empty"),
        ({"seeds": ["one"]}, "seeds=one: must be a whole number"),
        ({"dir": ""}, "dir=: must not be empty"),
        ({"columns": "lr"}, "columns=lr: must be a list"),
        ({"arms": ["a", "b"]}, "arms=.* must be a mapping"),
        ({"arms": {"a": "optim.lr=0"}}, "arms.a=optim.lr=0: must be a list"),
        ({"arms": {"a": [], "b/c": []}}, "without a slash"),
        ({"arms": {"a": [], "..": []}}, "dot in front"),
        ({"arms": {"a": [], "": []}}, "names a folder"),
        ({"arms": {"a": [], "A": []}}, "must be distinct"),
    ],
)
def test_a_mistake_in_a_sweep_is_one_line(tmp_path, keys, message):
    with pytest.raises(UserError, match=message):
        runs_of(load_sweep(write(tmp_path / "s.yaml", **keys)), [])


def test_arms_are_named_as_they_are_written(tmp_path):
    """YAML 1.1 takes each of these for a truth value, a number, a date or nothing."""
    names = ["on", "off", "yes", "0.1", "1", "1_000", "null", "~", "2025-01-12", "0x1f", "a #b"]
    arms = "".join(f"  {name}: []\n" if "#" not in name else f"  '{name}': []\n" for name in names)
    text = f"base: local\ndir: {tmp_path}/20250112_093015\nseeds: [0]\ncontrol: 0.1\narms:\n{arms}"
    (tmp_path / "s.yaml").write_text(text)
    sweep = load_sweep(str(tmp_path / "s.yaml"))
    runs = runs_of(sweep, [])
    assert list(sweep.arms) == names and sweep.control == "0.1"
    assert [r.config.run.name for r in runs] == [f"{name}-0" for name in names]
    assert runs[0].path == tmp_path / "20250112_093015" / "on-0"
    result = summary(sweep, runs, {})
    assert list(json.loads(json.dumps(result))["arms"]) == names


def test_a_sweep_that_is_no_yaml_is_one_line(tmp_path):
    (tmp_path / "s.yaml").write_text("arms: [a: b: c")
    with pytest.raises(UserError, match="not readable as YAML"):
        load_sweep(str(tmp_path / "s.yaml"))


def test_every_arm_comes_with_the_first_seed_before_any_with_the_second(tmp_path):
    runs = runs_of(load_sweep(write(tmp_path / "s.yaml", seeds=[5, 6])), ["run.steps=7"])
    assert [r.name for r in runs] == ["a-5", "b-5", "a-6", "b-6"]
    assert [r.config.run.seed for r in runs] == [5, 5, 6, 6] and {r.config.run.steps for r in runs} == {7}
    assert runs[0].path == tmp_path / "runs" / "a-5"


def test_a_run_of_another_configuration_is_not_taken_for_this_one(tmp_path):
    path = write(tmp_path / "s.yaml", arms={"a": []})
    (run,) = runs_of(load_sweep(path), [])
    run.path.mkdir(parents=True)
    config = load_config("local", ["run.seed=0", "run.steps=5", "rollout.threads=2", "cluster.progress=plain"])
    (run.path / "config.yaml").write_text(to_yaml(config))
    run.require_same()  # what is of no matter to the outcome differs alone
    (run.path / "config.yaml").write_text(to_yaml(load_config("local", ["run.seed=0", "optim.lr=0.5"])))
    with pytest.raises(UserError, match=r"a-0 holds a run with optim\.lr=0\.5, and this sweep has 0.0001: move"):
        run_sweep(path, [], None)


def test_a_longer_run_is_not_this_one_finished(tmp_path):
    (run, _) = runs_of(load_sweep(write(tmp_path / "s.yaml")), ["run.steps=4"])
    run.path.mkdir(parents=True)
    for steps, finished in (((0, 2), False), ((0, 2, 4), True), ((0, 2, 4, 8), False)):
        (run.path / "evals.jsonl").write_text("".join(json.dumps({"step": s}) + "\n" for s in steps))
        assert run.is_finished() is finished


@pytest.mark.long
@pytest.mark.slow
def test_a_failed_run_is_reported_and_the_rest_goes_on(tmp_path, capsys):
    failing = ["guard.stops=true", "guard.min_unique_rate=1.1", "guard.steps=1"]
    path = write(tmp_path / "s.yaml", arms={"a": failing, "b": []}, columns=["throughput/samples_per_s"])
    assert main(["sweep", path, *TINY, "--json", str(tmp_path / "out.json")]) == 1
    printed = capsys.readouterr().out
    assert "FAILED a-0" in printed and "repeats itself" in printed and "finished b-0" in printed
    result = json.loads((tmp_path / "out.json").read_text())
    assert result == json.loads((tmp_path / "runs" / "sweep.json").read_text())
    assert "repeats itself" in result["arms"]["a"]["failed"]["0"]
    assert result["arms"]["b"]["seeds"] == [0] and result["arms"]["b"]["columns"]["throughput/samples_per_s"][0] > 0


@pytest.mark.long
@pytest.mark.slow
def test_ctrl_c_stops_a_sweep_with_checkpoints_and_nothing_counts_as_failed(tmp_path):
    path = write(tmp_path / "s.yaml")
    command = [sys.executable, "-m", "cluster.cli", "sweep", path, *TINY, "run.steps=200"]
    sweep = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for(lambda: len(read_jsonl(tmp_path / "runs" / "a-0" / "metrics.jsonl")) > 2, sweep)
    sweep.send_signal(signal.SIGINT)
    printed, _ = sweep.communicate(timeout=120)
    assert sweep.returncode == 130 and "stopped a-0 with a checkpoint" in printed and "FAILED" not in printed
    result = json.loads((tmp_path / "runs" / "sweep.json").read_text())
    assert all(arm["failed"] == {} and arm["seeds"] == [] for arm in result["arms"].values())


@pytest.mark.slow
@pytest.mark.long
def test_a_killed_sweep_started_again_runs_only_what_is_missing(tmp_path):
    path = write(tmp_path / "s.yaml", arms={"a": ["run.steps=2"], "b": ["run.steps=20"]})  # b goes on when a has ended
    command = [sys.executable, "-m", "cluster.cli", "sweep", path, *(o for o in TINY if not o.startswith("run.steps"))]
    first, second = (tmp_path / "runs" / name for name in ("a-0", "b-0"))
    sweep = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: last_step(first) == 2 and last_step(second) == 0, sweep)
    begun = psutil.Process(sweep.pid).children(recursive=True)
    names = {p: " ".join(p.cmdline()).strip() for p in begun}
    assert any(f"run.dir={second}" in name for name in names.values())
    assert any("RolloutActor" in name for name in names.values())
    sweep.send_signal(signal.SIGKILL)
    sweep.wait()
    try:
        at_work = [p for p in begun if not names[p].endswith("Agent")]  # Ray's agents take a minute to notice
        wait_for(lambda: not any(map(goes_on, at_work)), seconds=60)
    finally:
        for process in filter(goes_on, begun):
            process.kill()
    assert last_step(second) == 0
    before = written(tmp_path / "runs", "a-0")

    again = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "1 of 2 runs are finished, 1 to go" in again.stdout and "started b-0" in again.stdout
    assert "started a-0" not in again.stdout and "finished b-0" in again.stdout
    assert written(tmp_path / "runs", "a-0") == before and last_step(second) == 20


def written(runs, name):
    """{file of the run and its log: when it was last written}."""
    files = [f for f in (runs / name).rglob("*") if f.is_file()]
    return {f: f.stat().st_mtime_ns for f in [*files, runs / "logs" / f"{name}.log"]}


def last_step(run):
    """Of the newest evaluation."""
    evals = read_jsonl(run / "evals.jsonl")
    return evals[-1]["step"] if evals else None


def goes_on(process):
    """A container's first process may leave zombies."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(condition, process=None, seconds=240):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until and (process is None or process.poll() is None)
        time.sleep(0.1)
