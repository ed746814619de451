"""Bad input is one line on stderr that names what was given and what to do, and exit status 2; nothing is written."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from azero.models.loading import EMBEDDED
from cluster.cli import main
from cluster.records.rundir import METRICS, RunDirectory

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
    ("train local algorithm.name=grpo", ["algorithm.name", "baseline.by=problem", "task.source"]),
    ("train local task.source=frozen", ["task.source=frozen", "solver_only"]),
    ("train local baseline.by=difficulty", ["baseline.by=difficulty", "now called cell"]),
    ("train local baseline.by=global", ["baseline.by=global", "now called batch"]),
    ("train local baseline.by=no_such_module:cells", ["baseline.by", "no_such_module", "PYTHONPATH"]),
    ("train local baseline.estimator=ppo", ["baseline.estimator=ppo", "trr", "package.module:name"]),
    ("train local baseline.estimator=operator:is_", ["is_ lacks advantages, state, load", "Estimator"]),
    ("train local reward.learnability=math:pi", ["math has pi=3.14", "cannot be called"]),
    ("train local run.metrics=[tally]", ["run.metrics", "tally", "package.module:name"]),
    ("train local run.metrics=[math:tally]", ["run.metrics=math:tally", "math has no tally"]),
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
    ("train local model.path={tmp}/pointers", ["model.path", "model.safetensors", "git lfs pull"]),
    ("train local model.path={tmp}/tokenizer_pointer", ["model.path", "tokenizer.json", "git lfs pull"]),
    ("train local model.path={tmp}/pointer.gguf", ["pointer.gguf", "git lfs pull"]),
    ("train local eval.data={tmp}/pointer.jsonl", ["eval.data", "pointer.jsonl", "git lfs pull"]),
    ("train local eval.data={tmp}/pointer.parquet", ["pointer.parquet", "git lfs pull"]),
    ("train local model.path={tmp}/no_weights", ["no_weights", "*.safetensors"]),
    ("train local model.path={tmp}/shard_missing", ["1 of its 1", "model-1.safetensors"]),
    ("train local model.path={tmp}/garbage", ["garbage", "safetensors"]),
    ("train local run.dir={tmp}/foreign", ["foreign", "config.yaml", "no run's"]),
    ("train local run.dir={tmp}/foreign --resume", ["foreign", "config.yaml", "no run's"]),
    ("train {tmp}/empty --resume", ["empty", "is a folder"]),
    ("train local cluster.address=127.0.0.1:1", ["cluster.address=127.0.0.1:1", "ray start --head"]),
    ("train local cluster.address=ray://127.0.0.1:1", ["Ray Client"]),
    ("train local cluster.address=nonsense", ["cluster.address=nonsense"]),
    ("train local --dry-run cluster.address=127.0.0.1:1", ["cluster.address=127.0.0.1:1"]),
    ("eval embedded --json {tmp}/nowhere/out.json", ["nowhere/out.json", "cannot be written"]),
    ("eval embedded --json {tmp}/empty", ["empty", "cannot be written"]),
    ("eval embedded --data {tmp}/pointer.jsonl", ["pointer.jsonl", "git lfs pull"]),
    ("eval {tmp}/pointers", ["git lfs pull"]),
    ("eval {tmp}/no_weights", ["no_weights", "*.safetensors"]),
    ("sweep controls.yaml --json {tmp}/nowhere/out.json", ["nowhere/out.json", "cannot be written"]),
    ("scale --json {tmp}/nowhere/out.json", ["nowhere/out.json", "cannot be written"]),
    ("report {tmp}/holds_run --out {tmp}/nowhere/out.html", ["nowhere/out.html", "cannot be written"]),
    ("report {tmp}/foreign", ["foreign", "config.yaml"]),
    ("export {tmp}/foreign {tmp}/out", ["foreign", "holds no model"]),
    ("export {tmp}/holds_run {tmp}/file.txt/out", ["holds no whole checkpoint"]),
    ("eval {tmp}/no_model", ["no_model"]),
    ("eval embedded --data {tmp}/none.parquet", ["none.parquet"]),
    ("eval embedded --config {tmp}/nothing.yaml", ["nothing.yaml"]),
    ("eval embedded --role judge", ["judge", "proposer"]),
    ("eval {tmp}/raises rollout.engine=hf eval.protocol=chat", ["chat template", "roles must alternate", "raw"]),
    ("eval {tmp}/raises --role proposer rollout.engine=hf task.protocol=chat", ["chat template", "alternate", "raw"]),
    (
        "eval embedded rollout.engine=hf rollout.max_model_len=30 rollout.max_proposal_tokens=8",
        ["eval.data=test", "30"],
    ),
    (
        "eval embedded --role proposer rollout.engine=hf rollout.max_model_len=30 task.exclude_evaluation=false",
        ["task.domain=arithmetic", "rollout.max_model_len"],
    ),
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
    shutil.copytree(EMBEDDED, tmp / "raises")
    (tmp / "raises" / "chat_template.jinja").write_text("{{ raise_exception('roles must alternate') }}")
    (tmp / "columns.jsonl").write_text(json.dumps({"prompt": "Calculate: 1 + 1 = "}) + "\n")
    (tmp / "data.txt").write_text("1 + 1\n")
    _models(tmp)
    (tmp / "foreign").mkdir()
    (tmp / "foreign" / "config.yaml").write_text("some_key_of_theirs: 1\n")
    for name in ("holds_run", "locked"):
        with RunDirectory(tmp / name).open("run: {}\n", {}, resume=False):
            RunDirectory(tmp / name).records.append(METRICS, {"step": 0})
    with RunDirectory(tmp / "locked").open("run: {}\n", {}, resume=True):
        yield tmp


def _models(tmp: Path) -> None:
    """Model folders, each with something wrong; a pointer is what git leaves of a file without git-lfs."""
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 269060552\n"
    for name in ("pointers", "tokenizer_pointer", "no_weights", "shard_missing", "garbage"):
        (tmp / name).mkdir()
        (tmp / name / "config.json").write_text((EMBEDDED / "config.json").read_text())
    (tmp / "pointers" / "model.safetensors").write_text(pointer)
    (tmp / "tokenizer_pointer" / "tokenizer.json").write_text(pointer)
    for name in ("pointer.gguf", "pointer.jsonl", "pointer.parquet"):
        (tmp / name).write_text(pointer)
    (tmp / "shard_missing" / "model-0.safetensors").write_bytes(bytes([2, 0, 0, 0, 0, 0, 0, 0]) + b"{}")
    index = {"weight_map": {"embed": "model-1.safetensors"}}
    (tmp / "shard_missing" / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp / "garbage" / "model.safetensors").write_text("no tensors at all, but some text")


@pytest.mark.parametrize(("line", "says"), CASES, ids=[c[0] for c in CASES])
def test_bad_input(line: str, says: list[str], world: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    argv = line.format(tmp=world).split()
    if argv[0] == "train" and len(argv) > 1 and "run.dir" not in line:
        argv.append(f"run.dir={tmp_path}/run")
    began = time.process_time()
    assert main(argv) == 2
    assert time.process_time() - began < 10  # nothing is loaded
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


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("rollout.gpus_per_actor=16", ["16 GPUs needed", "rollout.gpus_per_actor"]),
        ("rollout.cpus_per_actor=512", ["513 CPUs needed", "rollout.cpus_per_actor"]),
        ("task.protocol=chat", ["no chat template"]),
        ("eval.data={tmp}/none.parquet", ["none.parquet"]),
        ("model.path={tmp}/no_weights", ["no weights"]),
        ("run.dir={tmp}/holds_run", ["already holds a run"]),
        ("run.dir={tmp}/foreign", ["no run's"]),
        ("run.mirror=nosuch://bucket", ["run.mirror"]),
    ],
)
def test_a_dry_run_of_what_cannot_start_says_what_to_change_and_ends_with_1(
    given: str, says: list[str], world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    assert main(["train", "local", "--dry-run", f"run.dir={world}/new", given.format(tmp=world)]) == 1
    said = capsys.readouterr().out
    assert " no: " in said and "next:" not in said
    for word in says:
        assert word in said


def test_a_dry_run_says_what_only_the_hub_knows(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    argv = ["train", "local", "--dry-run", f"run.dir={tmp_path}/new", "model.path=Qwen/Qwen2-0.5B", "eval.data=a/b"]
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert "model.path=Qwen/Qwen2-0.5B, of the Hugging Face Hub" in said and "eval.data=a/b, of the" in said
    assert f"next: azero train local run.dir={tmp_path}/new" in said


def test_someone_elses_config_beside_a_model_is_not_the_runs(tmp_path: Path) -> None:
    from cluster.records.rundir import config_of

    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "config.yaml").write_text("some_key_of_theirs: 1\n")
    assert config_of(tmp_path) is None
    (tmp_path / "checkpoints" / "step_000002").mkdir(parents=True)
    assert config_of(tmp_path / "checkpoints" / "step_000002") is not None
