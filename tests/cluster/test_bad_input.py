"""Bad input is one line on stderr that names what was given and what to do, and exit status 2; nothing is written."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.cli import main
from cluster.rundir import RunDirectory

# (command line, what the line must say); {tmp} is a folder made by `world`
CASES = [
    ("train local rollout.actorz=2", ["rollout.actorz", "unknown key"]),
    ("train local optim.learning_rate=1", ["optim.learning_rate", "unknown key"]),
    ("train local temperature=1", ["temperature", "rollout.temperature"]),
    ("train {tmp}/unknown_key.yaml", ["rollout.actorz", "unknown_key.yaml"]),
    ("train local run.steps=many", ["run.steps", "many"]),
    ("train local rollout.actors=1.5", ["rollout.actors", "1.5"]),
    ("train local reward.learnability=progress", ["reward.learnability", "improvement"]),
    ("train local run.steps", ["run.steps", "key=value"]),
    ("train local =3", ["key=value"]),
    ("train {tmp}/nothing.yaml", ["nothing.yaml", "local"]),
    ("train {tmp}/not_yaml.yaml", ["not_yaml.yaml", "YAML"]),
    ("train {tmp}/list.yaml", ["list.yaml", "mapping"]),
    ("train {tmp}/loop.yaml", ["loop.yaml", "itself"]),
    ("train local run.steps=0", ["run.steps=0", "greater than 0"]),
    ("train local optim.lr=-1", ["optim.lr", "0 or more"]),
    ("train local rollout.solutions_per_problem=1", ["solutions_per_problem"]),
    ("train local rollout.actors=99", ["rollout.actors=99", "problems_per_step"]),
    ("train local algorithm.name=grpo", ["grpo", "task.source"]),
    ("train local algorithm.clip_low=1.5", ["clip_low", "less than 1"]),
    ("train local algorithm.ratio_cap=1.1", ["ratio_cap", "clip_high"]),
    ("train local rollout.engine=hf rollout.tensor_parallel=2", ["tensor_parallel", "vllm"]),
    ("train local rollout.tensor_parallel=2", ["tensor_parallel", "gpus_per_actor"]),
    ("train local rollout.max_model_len=8", ["max_model_len"]),
    ("train local cluster.progress=loud", ["cluster.progress", "plain"]),
    ("train local task.domain=poetry", ["poetry", "arithmetic"]),
    ("train local task.domain=no_such_module:Poetry", ["no_such_module", "PYTHONPATH"]),
    ("train local run.sinks=[comet]", ["run.sinks", "wandb"]),
    ("train local task.proposals_per_prompt=0", ["task.proposals_per_prompt=0"]),
    ("train local model.path={tmp}/none.gguf", ["none.gguf", "no such file"]),
    ("train local model.path={tmp}/no_model", ["no_model"]),
    ("train local model.path={tmp}/empty", ["empty"]),
    ("train local task.protocol=chat", ["chat template", "raw"]),
    ("train local eval.data={tmp}/none.parquet", ["none.parquet"]),
    ("train local eval.data={tmp}/columns.jsonl", ["columns.jsonl", "answer"]),
    ("train local eval.data={tmp}/data.txt", ["data.txt", "parquet"]),
    ("train local rollout.cpus_per_actor=512", ["513 CPUs needed", "rollout.cpus_per_actor"]),
    ("train local rollout.gpus_per_actor=16", ["GPUs needed"]),
    ("train local optim.beta1=1.5", ["optim.beta1=1.5", "less than 1"]),
    ("train local optim.lr=nan", ["optim.lr=nan", "finite"]),
    ("train local run.name=", ["run.name=", "empty"]),
    ("train local run.dir=${{nope}}", ["run.dir", "nope"]),
    ("train {tmp}/section.yaml", ["optim=5", "section", "section.yaml"]),
    ("train {tmp}/twice.yaml", ["twice.yaml, line 2", "stands here twice"]),
    ("train {tmp}/tab.yaml", ["tab.yaml, line 2", "YAML"]),
    ("train {tmp}/bytes.yaml", ["bytes.yaml", "YAML"]),
    ("train {tmp}/empty", ["empty", "is a folder"]),
    ("sweep {tmp}/tab.yaml", ["tab.yaml, line 2", "YAML"]),
    ("scale actors=[0]", ["actors=0", "greater than 0"]),
    ("train local run.dir={tmp}/holds_run", ["holds_run", "--resume"]),
    ("train local run.dir={tmp}/locked", ["locked", "in use"]),
    ("train local run.dir={tmp}/new --resume", ["new", "--resume"]),
    ("eval {tmp}/no_model", ["no_model"]),
    ("eval embedded --data {tmp}/none.parquet", ["none.parquet"]),
    ("eval embedded --config {tmp}/nothing.yaml", ["nothing.yaml"]),
    ("eval embedded --role judge", ["judge", "proposer"]),
    ("eval embedded --role proposer --data dev", ["--data", "proposer"]),
    ("report {tmp}/nothing", ["nothing", "no such directory"]),
    ("report {tmp}/empty", ["empty", "config.yaml"]),
    ("export {tmp}/nothing {tmp}/out", ["nothing"]),
    ("export {tmp}/empty {tmp}/out", ["empty"]),
    ("sweep {tmp}/nothing.yaml", ["nothing.yaml"]),
    ("sweep {tmp}/unknown_key.yaml", ["arms"]),
    ("train", ["Missing argument", "config"]),
    ("fly", ["fly"]),
    ("train local --fast", ["--fast"]),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory):
    tmp = tmp_path_factory.mktemp("world")
    (tmp / "unknown_key.yaml").write_text("rollout: {actorz: 2}\n")
    (tmp / "not_yaml.yaml").write_text("run: [1\n")
    (tmp / "section.yaml").write_text("optim: 5\n")
    (tmp / "twice.yaml").write_text("run: {steps: 1}\nrun: {steps: 2}\n")
    (tmp / "tab.yaml").write_text("run:\n\tsteps: 1\n")
    (tmp / "bytes.yaml").write_bytes(b"run: {name: \xff\xfe}\n")
    (tmp / "list.yaml").write_text("- run\n")
    (tmp / "loop.yaml").write_text("defaults: [loop]\n")
    (tmp / "empty").mkdir()
    (tmp / "columns.jsonl").write_text(json.dumps({"prompt": "Calculate: 1 + 1 = "}) + "\n")
    (tmp / "data.txt").write_text("1 + 1\n")
    for name in ("holds_run", "locked"):
        with RunDirectory(tmp / name).open("run: {}\n", {}, resume=False):
            RunDirectory(tmp / name).append_metrics({"step": 0})
    with RunDirectory(tmp / "locked").open("run: {}\n", {}, resume=True):
        yield tmp


@pytest.mark.parametrize(("line", "says"), CASES, ids=[c[0] for c in CASES])
def test_bad_input(line: str, says: list[str], world: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    argv = line.format(tmp=world).split()
    if argv[0] == "train" and len(argv) > 1 and "run.dir" not in line:
        argv.append(f"run.dir={tmp_path}/run")
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("azero: "), error
    assert "Traceback" not in error
    for word in says:
        assert word in error
    assert not (tmp_path / "run").exists()


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 25


def test_the_process_exits_with_the_status() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cluster.cli", "train", "local", "run.stepz=3"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "run.steps" in done.stderr and "Traceback" not in done.stderr
