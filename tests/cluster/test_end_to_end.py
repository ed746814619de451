"""Whole runs on real Ray with real engines, on the embedded model."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from chaos import timeless
from helpers import problem as stated
from ray import cloudpickle

from actors.rollout import RolloutActor
from cluster.cli import main
from cluster.records.rundir import read_jsonl

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
SMALL = [
    "rollout.problems_per_step=6",
    "rollout.solutions_per_problem=4",
    "run.eval_every=0",
    "run.checkpoint_every=0",
    "eval.samples=0",
    "optim.warmup_steps=1",
    "rollout.threads=1",
    "learner.threads=1",
]


def run(folder: Path, *overrides: str, resume: bool = False) -> list[dict]:
    """A run through the command line, in this process; its metrics."""
    argv = ["train", "local", *SMALL, f"run.dir={folder}", *overrides, *(["--resume"] if resume else [])]
    assert main(argv) == 0
    return read_jsonl(folder / "metrics.jsonl")


@pytest.mark.parametrize("engine", ["vllm", pytest.param("hf", marks=pytest.mark.long)])
def test_synchronous_mode_is_a_plain_single_process_loop(engine: str, tmp_path: Path) -> None:
    overrides = [f"rollout.engine={engine}", "rollout.max_staleness=0", "run.steps=5"]
    metrics = run(tmp_path / "run", *overrides)
    # In a process of its own, as in the run: threads and random state are a process's.
    out = tmp_path / "plain.json"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    script = Path(__file__).parents[1] / "plain_loop.py"
    subprocess.run([sys.executable, script, out, *SMALL, *overrides], env=environment, check=True, capture_output=True)
    plain = json.loads(out.read_text())
    assert [m["loss/total"] for m in metrics if m["step"] > 0] == pytest.approx([s["loss"] for s in plain], abs=1e-5)
    records = read_jsonl(tmp_path / "run" / "samples.jsonl")
    episodes = [e for s in plain for e in s["episodes"]]
    assert [r["id"] for r in records] == [e["id"] for e in episodes] and len(records) >= 5 * 6
    for record, episode in zip(records, episodes, strict=True):
        assert record["proposal"]["completion"] == episode["proposal"]
        assert record["proposal"]["reward"] == pytest.approx(episode["reward"], abs=1e-4)
        assert (record["solver"] or {}).get("completions") == episode["completions"]


def eight_steps(folder: Path, max_staleness: int) -> Path:
    run(folder, f"rollout.max_staleness={max_staleness}", "run.steps=8", "run.eval_every=4")
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of eight steps whose samples are one version old at most. Tests may add to it, and change nothing."""
    return eight_steps(tmp_path_factory.mktemp("finished") / "run", 1)


def test_a_sample_is_one_version_old_at_most_and_every_sync_is_proven(finished: Path) -> None:
    _no_sample_is_staler_than_allowed(finished, 1)


@pytest.mark.long
@pytest.mark.parametrize("max_staleness", [0, 3])
def test_no_sample_is_staler_than_allowed_and_every_sync_is_proven(max_staleness: int, tmp_path: Path) -> None:
    _no_sample_is_staler_than_allowed(eight_steps(tmp_path / "run", max_staleness), max_staleness)


def _no_sample_is_staler_than_allowed(folder: Path, max_staleness: int) -> None:
    metrics = read_jsonl(folder / "metrics.jsonl")
    lines = [m for m in metrics if m["step"] > 0]
    assert [m["step"] for m in lines] == list(range(1, 9))
    assert max(m["staleness/max"] for m in lines) <= max_staleness
    if max_staleness:
        assert max(m["staleness/max"] for m in lines) > 0  # it does overlap
    assert all(0 <= m["sync/logprob_gap"] <= 1e-4 for m in lines)
    assert [e["step"] for e in read_jsonl(folder / "evals.jsonl")] == [0, 4, 8]
    assert {m["step"] for m in metrics if "eval/accuracy" in m} == {0, 4, 8}
    _every_key_is_documented(metrics)
    _samples_are_whole(folder, steps=8)


def _every_key_is_documented(metrics: list[dict]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    documented = set(re.findall(r"`([a-z_/]+(?:<[a-z]+>)?[a-z_/]*(?:<[a-z]+>)?)`", page))
    for key in {k for m in metrics for k in m}:
        general = re.sub(r"^baseline/\w+/\w+/\w+$", "baseline/<role>/<cell>", key)
        general = re.sub(r"^proposer/reasons/\w+$", "proposer/reasons/<reason>", general)
        general = re.sub(r"^problems/share/\w+/\w+$", "problems/share/<cell>", general)
        general = re.sub(r"^eval/accuracy/\w+$", "eval/accuracy/<label>", general)
        assert general in documented, key


def _samples_are_whole(folder: Path, steps: int) -> None:
    records = read_jsonl(folder / "samples.jsonl")
    groups = [r["solver"]["group"] for r in records if r["solver"]]
    assert len(groups) == len(set(groups))
    assert {r["step"] for r in records} == set(range(1, steps + 1))
    for record in records:
        if record["problem"]:
            assert record["problem"]["text"] not in record["references"]


@pytest.mark.long
def test_two_learner_workers_do_what_one_does_and_one_goes_on(tmp_path: Path) -> None:
    turns = ["rollout.max_staleness=0", "rollout.engine=hf", "optim.lr=1e-3"]
    two = ["learner.workers=2", "learner.cpus_per_worker=0.5"]
    alone = run(tmp_path / "one", *turns, "run.steps=3")
    together = run(tmp_path / "two", *turns, *two, "run.steps=3")
    key = "grad_norm/solver"
    assert [m[key] for m in together if m["step"]] == pytest.approx([m[key] for m in alone if m["step"]], rel=1e-3)
    went_on = run(tmp_path / "two", *turns, "learner.workers=1", "run.steps=4", resume=True)
    assert [m["step"] for m in went_on] == [0, 1, 2, 3, 4]


@pytest.mark.long
def test_two_actors_synchronous_runs_repeat_and_resume_to_the_last_bit(tmp_path: Path) -> None:
    two = ["rollout.actors=2", "rollout.cpus_per_actor=0.5", "rollout.max_staleness=0", "rollout.engine=hf"]
    whole = run(tmp_path / "whole", *two, "run.steps=6", "run.eval_every=3", "run.checkpoint_every=3")
    run(tmp_path / "parts", *two, "run.steps=3", "run.eval_every=3", "run.checkpoint_every=3")
    parts = run(tmp_path / "parts", *two, "run.steps=6", "run.eval_every=3", "run.checkpoint_every=3", resume=True)
    assert [timeless(m) for m in parts] == [timeless(m) for m in whole]
    texts = [[r["solver"] for r in read_jsonl(tmp_path / d / "samples.jsonl")] for d in ("whole", "parts")]
    assert texts[0] == texts[1]


@pytest.mark.long
@pytest.mark.parametrize("source", ["solver_only", "random", "fixed"])
def test_other_sources_of_problems(source: str, tmp_path: Path) -> None:
    lines = run(tmp_path / "run", f"task.source={source}", "run.steps=2", "rollout.engine=hf")[1:]
    assert all(m["grad_norm/proposer"] == 0 and m["grad_norm/solver"] > 0 for m in lines)
    assert all(("proposer/reward" in m) == (source == "solver_only") for m in lines)


@pytest.mark.long
def test_grpo_on_a_fixed_set(tmp_path: Path) -> None:
    lines = run(tmp_path / "run", "task.source=fixed", "task.fixed_size=8", "baseline.by=problem", "run.steps=3",
                "rollout.engine=hf")[1:]  # fmt: skip
    texts = {r["problem"]["text"] for r in read_jsonl(tmp_path / "run" / "samples.jsonl")}
    assert len(lines) == 3 and len(texts) == 8


class BrokenHead(RolloutActor.__ray_metadata__.modified_class):  # type: ignore[name-defined,misc]
    """A rollout actor whose engine forgets to refresh the packed tied head after a reload."""

    def __init__(self, *args: object) -> None:
        from actors import vllm_worker

        vllm_worker.refresh_head = lambda model: None
        super().__init__(*args)


@pytest.mark.long
def test_a_broken_tied_head_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import ray

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr("cluster.run.build.RolloutActor", ray.remote(BrokenHead))
    try:
        assert main(["train", "local", *SMALL, "optim.lr=1e-3", f"run.dir={tmp_path}/run"]) == 1
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    error = capsys.readouterr().err
    assert "rollout actor 0" in error and "weight version 1" in error and error.count("\n") == 1


@pytest.mark.long
def test_ctrl_c_stops_cleanly_and_resume_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "cluster.cli", "train", "local", *SMALL, f"run.dir={folder}", "run.steps=2000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while len(read_jsonl(folder / "metrics.jsonl")) < 4 and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Traceback" not in output and "--resume" in output
    stopped = read_jsonl(folder / "metrics.jsonl")[-1]["step"]
    assert (folder / "checkpoints" / "latest").read_text() == f"step_{stopped:06d}"
    metrics = run(folder, f"run.steps={stopped + 2}", resume=True)
    assert [m["step"] for m in metrics] == list(range(0, stopped + 3))


def test_a_finished_run_is_exported_reported_and_its_proposer_evaluated(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _the_proposer_is_evaluated(finished, monkeypatch, capsys)
    assert main(["report", str(finished)]) == 0
    page = (finished / "report.html").read_text()
    assert "Proposer&#39;s evaluation" in page and "Different easy problems:" in page and "Calculate: " in page
    assert main(["export", str(finished), str(tmp_path / "out")]) == 0
    _an_exported_model_answers_the_same_through_plain_transformers(tmp_path)


def _the_proposer_is_evaluated(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cluster.commands.evaluate.PROPOSALS", 12)
    capsys.readouterr()
    assert main(["eval", str(folder), "--role", "proposer", "rollout.engine=hf"]) == 0
    table = capsys.readouterr().out
    assert "what the proposer writes" in table and "step 8" in table
    start, after = read_jsonl(folder / "proposer_evals.jsonl")
    assert (start["step"], after["step"], start["n"], after["n"]) == (0, 8, 12, 12)
    for found in (start, after):
        assert found["valid"] == len(found["problems"]) / 12 > 0
        assert sum(map(sum, found["solve_rates"].values())) == len(found["problems"])


def _an_exported_model_answers_the_same_through_plain_transformers(tmp_path: Path) -> None:
    results = {}
    for engine in ("vllm", "hf"):
        out = tmp_path / f"{engine}.json"
        argv = ["eval", str(tmp_path / "out"), "--config", "local", f"rollout.engine={engine}", "eval.samples=0"]
        code = f"import sys; from cluster.cli import main; sys.exit(main({[*argv, '--json', str(out)]!r}))"
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        results[engine] = json.loads(out.read_text())
    assert results["vllm"]["n"] == 200
    assert results["vllm"]["accuracy"] == results["hf"]["accuracy"]
    pairs = zip(results["vllm"]["problems"], results["hf"]["problems"], strict=True)
    assert all(a["completion"] == b["completion"] for a, b in pairs)
    assert results["vllm"]["accuracy"] == _plain_transformers_accuracy(tmp_path / "out", results["vllm"]["problems"])


def _plain_transformers_accuracy(folder: Path, problems: list[dict]) -> float:
    """Nothing of this project but the verifier: AutoModel, AutoTokenizer, generate."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from azero.domains import get_domain

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder)
    right = 0
    for start in range(0, len(problems), 50):
        part = problems[start : start + 50]
        batch = tokenizer([f"Calculate: {p['text']} = " for p in part], return_tensors="pt", padding=True)
        with torch.no_grad():
            out = model.generate(**batch, max_new_tokens=8, do_sample=False)[:, batch["input_ids"].shape[1] :]
        for problem, text in zip(part, tokenizer.batch_decode(out, skip_special_tokens=True), strict=True):
            line = text.split("\n")[0]
            right += get_domain("arithmetic").judge(line, stated(answer=problem["answer"]), False) == "right"
    return right / len(problems)
