"""Policies of their own in whole runs: each sync of each policy is proven, and no death leaves a trace."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from chaos import Victim, check_whole, timeless

from azero.config import AdapterConfig, load_config, to_yaml
from azero.errors import UserError
from azero.models.adapters import adapter_state, add_adapters, write_adapter
from azero.models.loading import EMBEDDED, load_model
from cluster.cli import main
from cluster.records.resume import require_same_run
from cluster.records.rundir import RunDirectory, read_jsonl
from learner.checkpoint import Checkpoint, checkpoints_in

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SMALL = ["rollout.problems_per_step=6", "rollout.solutions_per_problem=4", "eval.samples=0", "optim.warmup_steps=1"]
SMALL += ["rollout.threads=1", "learner.threads=1", "cluster.progress=plain", "run.eval_every=0", "optim.lr=1e-3"]
APART = ["policies=separate", "rollout.actors=2", "rollout.roles.proposer=1", "rollout.roles.solver=1"]
APART += ["rollout.cpus_per_actor=0.5"]
LONG = pytest.mark.long


def shape(name: str) -> str:
    return f"policies={name}"


@pytest.mark.parametrize("name", ["adapters", pytest.param("separate", marks=LONG)])
def test_a_run_proves_each_policy_and_is_exported_and_evaluated(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert main(["train", "local", *SMALL, shape(name), "run.steps=4", f"run.dir={folder}"]) == 0
    lines = [m for m in read_jsonl(folder / "metrics.jsonl") if m["step"]]
    for policy in ("proposer", "solver"):
        of_policy = [m for m in lines if f"sync/bytes/{policy}" in m]  # it moved, or was loaded for the first time
        assert len(of_policy) >= 2
        for metrics in of_policy:
            assert 0 <= metrics[f"sync/logprob_gap/{policy}"] <= metrics["sync/logprob_gap"] <= 1e-4
            assert metrics[f"sync/bytes/{policy}"] > 0
    assert all("sync/bytes/base" not in m for m in lines[2:])  # it travels once, or there is none
    assert lines[-1]["kl/reference/solver"] > 0
    (checkpoint,) = checkpoints_in(folder / "checkpoints")
    assert checkpoint.policies == ["proposer", "solver"]
    capsys.readouterr()
    merge = ["--merge"] if name == "adapters" else []
    assert main(["export", str(folder), str(tmp_path / "solver"), *merge]) == 0
    assert main(["export", str(folder), str(tmp_path / "proposer"), "--policy", "proposer"]) == 0
    accuracy = {}
    for what, model in {"run": folder, "exported": tmp_path / "solver"}.items():
        out = tmp_path / f"{what}.json"
        argv = ["eval", str(model), "--config", str(folder / "config.yaml"), "--json", str(out)]
        assert main([*argv, "rollout.engine=hf"]) == 0
        accuracy[what] = [p["completion"] for p in json.loads(out.read_text())["problems"]]
    assert accuracy["run"] == accuracy["exported"]
    out = tmp_path / "base.json"  # another config's engine and protocol, and the run's own policies
    assert main(["eval", str(folder), "--config", "local", "--json", str(out), "rollout.engine=hf"]) == 0
    assert [p["completion"] for p in json.loads(out.read_text())["problems"]] == accuracy["run"]
    assert main(["eval", str(folder), "--policy", "nobody"]) == 2
    assert "its policies are proposer, solver" in capsys.readouterr().err


@LONG
def test_an_actor_of_each_role_loads_its_policy_alone_and_is_survived(tmp_path: Path) -> None:
    victim = Victim.start(tmp_path / "run", [*SMALL, *APART, "run.steps=10"])
    for step, index in ((2, 0), (5, 1)):
        victim.wait_for_step(step)
        victim.actor(index).kill()
    assert victim.finish() == 0, victim.said()
    check_whole(tmp_path / "run", 10, 6)
    assert len(victim.recoveries("rollout actor 0")) == len(victim.recoveries("rollout actor 1")) == 1
    lines = [m for m in read_jsonl(tmp_path / "run" / "metrics.jsonl") if m["step"]]
    assert lines[-1]["faults/restarts"] == 2
    for metrics in lines:
        loaded = [metrics[f"sync/bytes/{p}"] for p in ("proposer", "solver") if f"sync/bytes/{p}" in metrics]
        assert metrics["sync/bytes"] == max(loaded)  # with both it would be their sum
        assert metrics["sync/logprob_gap"] <= 1e-4 and metrics["staleness/max"] <= 1
    assert all(any(f"sync/bytes/{p}" in m for m in lines[7:]) for p in ("proposer", "solver"))


@LONG
@pytest.mark.parametrize("name", ["adapters", "separate", "shared", "apart"])
def test_actor_learner_and_driver_die_and_nothing_shows(name: str, tmp_path: Path) -> None:
    """In synchronous mode: metrics and evaluations are those of a run that nobody disturbed, to the last bit."""
    named = APART if name == "apart" else [shape(name)]
    overrides = [*SMALL, *named, "rollout.engine=hf", "rollout.max_staleness=0", "run.steps=12"]
    overrides += ["run.checkpoint_every=3", "run.eval_every=6", "learner.keep_every=2"]
    whole = Victim.start(tmp_path / "whole", overrides)
    assert whole.finish() == 0, whole.said()
    victim = Victim.start(tmp_path / "killed", overrides)
    for kill, step in (("actor", 2), ("learner", 4)):
        victim.wait_for_step(step)
        processes = victim.actors() if kill == "actor" else victim.learners()
        processes[0].kill()
    victim.wait_to_say("the learner goes on from version", 120)
    victim.wait_for_step(8)
    victim.kill_all()
    victim = Victim.start(tmp_path / "killed", overrides, resume=True)
    assert victim.finish() == 0, victim.said()
    check_whole(tmp_path / "killed", 12, 6)
    runs = [[_undisturbed(m) for m in read_jsonl(tmp_path / d / "metrics.jsonl")] for d in ("whole", "killed")]
    assert runs[0] == runs[1]
    assert read_jsonl(tmp_path / "whole" / "evals.jsonl") == read_jsonl(tmp_path / "killed" / "evals.jsonl")


def _undisturbed(metrics: dict) -> dict:
    """Without what counts faults, and loads after them."""
    return {k: v for k, v in timeless(metrics).items() if not k.startswith(("faults/", "actors/", "sync/"))}


@pytest.mark.parametrize(
    "other",
    [
        ["policies=separate"],
        ["policies=shared"],
        ["policies=adapters", "policies.solver.adapter.rank=8"],
        ["policies=adapters", "policies.proposer.trains=false"],
    ],
)
def test_a_resume_with_other_policies_is_refused(tmp_path: Path, other: list[str]) -> None:
    folder, named = tmp_path / "run", [shape("adapters"), f"run.dir={tmp_path / 'run'}"]
    with RunDirectory(folder).open(to_yaml(load_config("local", named)), {"time": "t0"}, resume=False) as run:
        run.records.append("metrics.jsonl", {"step": 0})
    changed = to_yaml(load_config("local", [*named, *other]))
    with pytest.raises(UserError, match="makes it another run"):
        RunDirectory(folder).open(changed, {"time": "t1"}, resume=True).__enter__()


def test_a_merged_model_keeps_a_generation_config_that_transformers_refuses(tmp_path: Path) -> None:
    """As checkpoints do."""
    base, odd = tmp_path / "base", b'{"do_sample": false, "temperature": 0.6}'
    shutil.copytree(EMBEDDED, base)
    (base / "generation_config.json").write_bytes(odd)
    model, adapter = load_model(str(base)), AdapterConfig(rank=2)
    add_adapters(model, {"solver": adapter})
    made = Checkpoint.of_step(tmp_path / "run", 1)
    write_adapter(made.adapter("solver"), adapter_state(model, "solver"), adapter, str(base))
    assert main(["export", str(made.path), str(tmp_path / "out"), "--merge"]) == 0
    assert (tmp_path / "out" / "generation_config.json").read_bytes() == odd
    assert load_model(str(tmp_path / "out")) is not None
    assert main(["export", str(base), str(tmp_path / "other"), "--merge"]) == 2


def test_another_base_under_the_same_name_is_refused(tmp_path: Path) -> None:
    key = "policies.solver.model"
    with pytest.raises(UserError, match=f"{key} with other content"):
        require_same_run(tmp_path, {}, {key: "a"}, {key: "b"})
