import json
import signal
import subprocess
import sys

import numpy as np
import pytest
from run_dirs import write_checkpoint

from azero.domains.expression import EASY, HARD, MEDIUM
from azero.errors import UserError
from azero.types import Completion, Episode, Group, Problem, Role, Sample, Verdict
from cluster.records.rundir import (
    EVALS,
    METRICS,
    SAMPLES,
    RunDirectory,
    episode_record,
    iterate_jsonl,
    provenance,
    read_jsonl,
)
from learner.checkpoint import Checkpoint


def open_run(path, resume=False, config="run: {}\n", origin=None):
    return RunDirectory(path).open(config, origin or {"time": "t0"}, resume=resume)


def test_create_then_resume(tmp_path):
    folder = tmp_path / "runs" / "a"
    with open_run(folder) as run:
        assert (folder / "config.yaml").read_text() == "run: {}\n" and run.logs.is_dir()
        run.records.append(METRICS, {"step": 1})
    with pytest.raises(UserError, match=r"run\.dir=.*a: already holds a run; add --resume"), open_run(folder):
        pass
    write_checkpoint(folder, 1)
    with open_run(folder, resume=True, config="run: {steps: 9}\n", origin={"time": "t1"}) as run:
        assert run.checkpoint == Checkpoint.of_step(folder.absolute() / "checkpoints", 1)
    assert (folder / "config.yaml").read_text() == "run: {steps: 9}\n"
    resumed = [{"time": "t1", "changed": {"run.steps": [None, 9]}}]
    assert json.loads((folder / "provenance.json").read_text()) == {"time": "t0", "resumed": resumed}
    assert read_jsonl(folder / "metrics.jsonl") == [{"step": 1}]


def test_resume_of_nothing(tmp_path):
    with pytest.raises(UserError, match="holds no run to resume; leave out --resume"), open_run(tmp_path / "x", True):
        pass
    assert not (tmp_path / "x").exists()


def test_a_disk_without_room_for_two_more_checkpoints_is_told(tmp_path, monkeypatch):
    with open_run(tmp_path / "a") as run:
        assert run.room() == ""
        (run.checkpoints / "step_000004").mkdir(parents=True)
        (run.checkpoints / "step_000004" / "driver.json").write_bytes(bytes(3 * 2**20))
        free = 6 * 2**20
        monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": free}))
        assert run.room() == ""
        free -= 1
        assert "disk nearly full: 6 MiB are free in" in run.room() and "a checkpoint takes 3" in run.room()


def test_unusable_path(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"give another run\.dir"), open_run(tmp_path / "file" / "run"):
        pass


def test_one_writer_at_a_time(tmp_path):
    with (
        open_run(tmp_path / "a"),
        pytest.raises(UserError, match=r"in use by process \d+ on host .+; give another run.dir or wait"),
        open_run(tmp_path / "a", resume=True),
    ):
        pass
    with open_run(tmp_path / "a", resume=True):
        pass


def test_a_killed_run_leaves_no_lock(tmp_path):
    code = f"""
import time
from cluster.records.rundir import RunDirectory
with RunDirectory({str(tmp_path / "a")!r}).open("", {{}}, resume=False):
    print("held", flush=True)
    time.sleep(60)
"""
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"in use by process {holder.pid} "), open_run(tmp_path / "a", resume=True):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    with open_run(tmp_path / "a", resume=True):
        pass


def test_truncate_after_cuts_later_steps_and_a_torn_line(tmp_path):
    with open_run(tmp_path) as run:
        for step in range(5):
            run.records.append(METRICS, {"step": step, "loss/total": step / 2})
            run.records.append(SAMPLES, {"step": step, "id": f"{step}a"}, {"step": step, "id": f"{step}b"})
        run.records.append(EVALS, {"step": 0, "accuracy": 0.5})
        run.records.append(EVALS, {"step": 4, "accuracy": 0.6})
        run.records.append(SAMPLES)
        with open(tmp_path / "metrics.jsonl", "a") as file:
            file.write('{"step": 5, "lo')
        assert [m["step"] for m in read_jsonl(tmp_path / "metrics.jsonl")] == [0, 1, 2, 3, 4]
        run.records.truncate_after(2)
        run.records.append(METRICS, {"step": 3})
    assert [m["step"] for m in read_jsonl(tmp_path / "metrics.jsonl")] == [0, 1, 2, 3]
    assert [s["id"] for s in read_jsonl(tmp_path / "samples.jsonl")] == ["0a", "0b", "1a", "1b", "2a", "2b"]
    assert [e["step"] for e in read_jsonl(tmp_path / "evals.jsonl")] == [0]
    assert not list(tmp_path.glob(".*.tmp"))


def test_truncate_an_empty_run(tmp_path):
    with open_run(tmp_path) as run:
        run.records.truncate_after(-1)
    assert read_jsonl(tmp_path / "metrics.jsonl") == []


def test_records_are_plain_json(tmp_path):
    with open_run(tmp_path) as run:
        run.records.append(
            METRICS, {"step": np.int64(1), "a": np.float32(0.5), "b": float("nan"), "c": np.array([1, 2]), "d": (1,)}
        )
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "a": 0.5, "b": null, "c": [1, 2], "d": [1]}\n'


def test_a_file_is_read_while_a_line_is_being_written(tmp_path, monkeypatch):
    path = tmp_path / "f"
    path.write_text('{"a": 1}')
    records = iterate_jsonl(path)
    assert next(records) == {"a": 1}
    path.write_text('{"a": 1}\n')
    assert list(records) == []
    path.write_text('{"a": 1}\n{"a"')
    loads = json.loads

    def loads_and_writer_goes_on(line):
        if line == b'{"a"':
            with open(path, "a") as file:
                file.write(": 2}\n")
        return loads(line)

    monkeypatch.setattr("cluster.records.rundir.json.loads", loads_and_writer_goes_on)
    assert read_jsonl(path) == [{"a": 1}]
    assert read_jsonl(path) == [{"a": 1}, {"a": 2}]


def test_read_jsonl(tmp_path):
    assert read_jsonl(tmp_path / "absent") == []
    (tmp_path / "f").write_text('{"a": 1}\n{"a": 2}')
    assert read_jsonl(tmp_path / "f") == [{"a": 1}, {"a": 2}]
    (tmp_path / "f").write_text('{"a": 1}\n{"a"\n{"a": 3}\n')
    with pytest.raises(UserError, match="line 2 is not JSON"):
        read_jsonl(tmp_path / "f")


def test_latest_checkpoint(tmp_path, capsys):
    run = RunDirectory(tmp_path)
    assert run.latest_checkpoint() is None
    for step in (2, 4):
        write_checkpoint(tmp_path, step)
    assert run.latest_checkpoint() == Checkpoint.of_step(run.checkpoints, 4)
    (run.checkpoints / "step_000004" / "driver.json").write_text("{ }")
    assert run.latest_checkpoint() == Checkpoint.of_step(run.checkpoints, 2)
    assert "step_000004: damaged (driver.json is not as it was written)" in capsys.readouterr().err


def test_provenance_is_json_and_names_the_packages():
    found = provenance()
    assert json.loads(json.dumps(found)) == found
    assert found["packages"]["numpy"] == np.__version__ and found["cores"] >= 1 and found["memory_bytes"] > 2**28
    assert found["git"] is None or len(found["git"]["commit"]) == 40


def _sample(role, verdict, text, version, **rest):
    done = Completion(
        prompt_ids=(1, 2), token_ids=(3, 4), logprobs=(-1.0, -2.0), text=text, version=version, finish_reason="stop"
    )
    return Sample(role=role, cell=EASY, completion=done, verdict=verdict, **rest)


def test_episode_record():
    problem = Problem(
        id="p",
        statement="1 + 2",
        answer="3",
        cell=MEDIUM,
        canonical="1+2",
        structure="+11",
        payload={"hidden": [["2", "3"]]},
        author_version=4,
    )
    samples = (
        _sample(Role.SOLVER, Verdict.RIGHT, "3", 5, reward=1.0, reward_parts={"ladder": 1.0}),
        _sample(Role.SOLVER, Verdict.MALFORMED, "?", 6, reward=-1.0),
    )
    proposal = _sample(Role.PROPOSER, Verdict.VALID, "1 + 2", 4, reward=0.75, reward_parts={"learnability": 0.75})
    episode = Episode(
        id="e", batch=7, requested_cell=EASY, references=("2 + 2",), proposal=proposal,
        group=Group(id="g", problem=problem, samples=samples),
    )  # fmt: skip
    full = episode_record(episode, 8, with_text=True)
    assert json.loads(json.dumps(full)) == full
    assert (full["id"], full["step"], full["batch"], full["requested_cell"]) == ("e", 8, 7, "arithmetic/easy")
    assert full["references"] == ["2 + 2"] and full["proposal"]["completion"] == "1 + 2"
    assert full["proposal"]["reward_parts"] == {"learnability": 0.75} and full["proposal"]["version"] == 4
    assert full["proposal"]["policy"] == full["solver"]["policy"] == "shared"
    assert full["problem"]["cell"] == "arithmetic/medium" and full["problem"]["answer"] == "3"
    assert full["problem"]["payload"] == {"hidden": [["2", "3"]]}
    solver = full["solver"]
    assert (solver["success_rate"], solver["rewards"], solver["versions"]) == (0.5, [1.0, -1.0], [5, 6])
    assert solver["verdicts"] == ["right", "malformed"] and solver["completions"] == ["3", "?"]

    short = episode_record(episode, 8, with_text=False)
    assert "references" not in short
    assert "completion" not in short["proposal"] and "completions" not in short["solver"]


def test_episode_record_of_a_rejected_proposal():
    proposal = _sample(Role.PROPOSER, Verdict.REJECTED, "1 / 2", 4, reward=-0.5, reason="inexact")
    episode = Episode(id="e", batch=0, requested_cell=HARD, references=(), proposal=proposal, group=None)
    record = episode_record(episode, 1, with_text=False)
    assert record["problem"] is None and record["solver"] is None
    assert (record["proposal"]["verdict"], record["proposal"]["reason"]) == ("rejected", "inexact")
