"""A run goes on as the run that it was, in the directory that is given, or it is refused and nothing is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from helpers import problem
from rich.console import Console
from run_dirs import write_checkpoint

from azero.config import Config, load_config, to_yaml
from azero.errors import UserError
from azero.models.loading import EMBEDDED
from azero.types import EvalItem
from cluster.cli import main
from cluster.commands.train import TrainingResult
from cluster.records import resume
from cluster.records.jsonl import read_jsonl, truncate_after
from cluster.records.resume import FIXED, fingerprints
from cluster.records.rundir import EVALS, METRICS, SAMPLES, RunDirectory, is_run, run_of

ITEM = EvalItem(problem=problem("1 + 1", answer="2"), label="a", operation="+")


def made(folder: Path, *overrides: str, steps: int = 4, saved: bool = True, prints: dict | None = None) -> Path:
    """A run directory with records up to `steps` and, where `saved`, a checkpoint of step 2."""
    config = load_config("local", [f"run.dir={folder}", *overrides])
    with RunDirectory(folder).open(to_yaml(config), {"time": "t0", "fingerprints": prints or {}}, resume=False) as run:
        for step in range(steps + 1):
            run.records.append(METRICS, {"step": step})
            run.records.append(SAMPLES, {"step": step, "id": f"{step}a"})
        run.records.append(EVALS, {"step": 0, "accuracy": 0.5})
        if saved:
            run.saved()
            write_checkpoint(folder, 2)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def opened(folder: Path, config: Config, prints: dict | None = None) -> dict:
    """Its provenance after a resume with this config."""
    with RunDirectory(folder).open(to_yaml(config), {"time": "t1", "fingerprints": prints or {}}, resume=True):
        return json.loads((folder / "provenance.json").read_text())


def seen_by_train(monkeypatch: pytest.MonkeyPatch, *argv: str) -> str:
    """run.dir of the run that the command line begins or goes on with."""
    found: list[str] = []

    def train(config: Config, resume: bool, console: Console) -> TrainingResult:
        found.append(config.run.dir)
        return TrainingResult(status="done", path=Path(config.run.dir), steps=0, before=None, after=None)

    monkeypatch.setattr("cluster.commands.train.train", train)
    assert main(["train", *argv]) == 0
    return found[0]


def test_the_directory_that_is_given_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a = made(tmp_path / "runs" / "a")
    b = shutil.copytree(a, tmp_path / "runs" / "b")
    for given in (str(b), f"{b}/config.yaml"):
        assert seen_by_train(monkeypatch, given, "--resume") == str(b)
        assert seen_by_train(monkeypatch, given) == str(b)
        assert seen_by_train(monkeypatch, given, "--resume", f"run.dir={a}") == str(a)
    monkeypatch.chdir(tmp_path / "runs")
    assert seen_by_train(monkeypatch, "b", "--resume") == "b"
    assert seen_by_train(monkeypatch, "b/config.yaml", "--resume") == "b"
    monkeypatch.chdir(b)
    assert seen_by_train(monkeypatch, "config.yaml", "--resume") == "."


def test_a_config_beside_something_else_is_only_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.yaml").write_text("run: {dir: elsewhere}\n")
    assert run_of(str(tmp_path)) is None
    assert seen_by_train(monkeypatch, f"{tmp_path}/config.yaml") == "elsewhere"


def test_a_directory_that_holds_no_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(tmp_path), "--resume"]) == 2
    assert "is a folder" in (said := capsys.readouterr().err) and said.count("\n") == 1


def test_what_may_change_changes_and_is_recorded(tmp_path: Path) -> None:
    folder = made(tmp_path / "a")
    config = load_config("local", [f"run.dir={folder}", "run.steps=77", "optim.lr=1e-3", "rollout.threads=2"])
    steps = load_config("local").run.steps
    changed = opened(folder, config)["resumed"][0]["changed"]
    assert changed.pop("optim.lr")[1] == 0.001
    assert changed == {"run.steps": [steps, 77], "rollout.threads": [0, 2]}
    assert "changed" not in opened(folder, config)["resumed"][1]


OTHER = {
    "model.path": "Qwen/Qwen2-0.5B",
    "model.dtype": "bfloat16",
    "task.domain": "sorting",
    "task.options": "{inputs: 5}",
    "task.protocol": "chat",
    "run.seed": "7",
    "eval.data": "dev",
    "eval.protocol": "chat",
    "eval.max_new_tokens": "9",
    "eval.stop": "[x]",
}


@pytest.mark.parametrize("key", FIXED)
def test_what_would_make_it_another_run_is_refused_and_nothing_is_written(key: str, tmp_path: Path) -> None:
    folder = made(tmp_path / "a")
    before = content(folder)
    config = load_config("local", [f"run.dir={folder}", f"{key}={OTHER[key]}"])
    with pytest.raises(UserError, match=rf"cannot go on with {key}=.+, and it began with {key}=.+ another run"):
        opened(folder, config)
    assert content(folder) == before


@pytest.mark.parametrize("key", ["model.path", "eval.data"])
def test_what_a_key_names_may_move_and_may_not_become_something_else(key: str, tmp_path: Path) -> None:
    folder = made(tmp_path / "a", f"{key}=/old/place", prints={key: "1"})
    moved = load_config("local", [f"run.dir={folder}", f"{key}=/new/place"])
    opened(folder, moved, {key: "1"})
    with pytest.raises(UserError, match=f"cannot go on with {key} with other content"):
        opened(folder, moved, {key: "2"})


def test_fingerprints_see_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "SAMPLE_BYTES", 16)
    (tmp_path / "a").mkdir()
    weights = tmp_path / "a" / "model.safetensors"
    weights.write_bytes(bytes(1000))
    before = fingerprints({"model.path": str(tmp_path / "a")}, [ITEM])
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert fingerprints({"model.path": str(tmp_path / "b")}, [ITEM]) == before and before["model.path"]
    weights.write_bytes(bytes(999) + b"x")
    assert fingerprints({"model.path": str(tmp_path / "a")}, [ITEM])["model.path"] != before["model.path"]
    weights.write_bytes(bytes(1001))
    assert fingerprints({"model.path": str(tmp_path / "a")}, [ITEM])["model.path"] != before["model.path"]
    assert fingerprints({"model.path": "Qwen/Qwen2-0.5B"}, [ITEM])["model.path"] is None
    assert fingerprints({"model.path": str(tmp_path / "b")}, [])["eval.data"] != before["eval.data"]
    assert fingerprints({"model.path": str(EMBEDDED)}, [])["model.path"]


def test_records_without_a_checkpoint_are_never_erased(tmp_path: Path) -> None:
    folder = made(tmp_path / "a", steps=3)
    shutil.rmtree(folder / "checkpoints")
    before, config = content(folder), load_config("local", [f"run.dir={folder}"])
    with pytest.raises(UserError, match=r"its records reach step 3, and it has no checkpoint .* put checkpoints/ back"):
        opened(folder, config)
    assert content(folder) == before
    for empty in ("checkpoints", "checkpoints/step_000002"):  # what a killed save leaves is none either
        (folder / empty).mkdir()
        with pytest.raises(UserError, match=r"no checkpoint|whole"):
            opened(folder, config)


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again_and_keeps_its_records(tmp_path: Path) -> None:
    folder = made(tmp_path / "a", saved=False, steps=2)
    config = load_config("local", [f"run.dir={folder}"])
    for time in (1, 2):
        before = (folder / "metrics.jsonl").read_bytes()
        opened(folder, config)
        assert (folder / f"metrics.jsonl.unsaved-{time}").read_bytes() == before
        assert not (folder / "metrics.jsonl").exists() and not (folder / "samples.jsonl").exists()
        with (folder / "metrics.jsonl").open("w") as file:
            file.write('{"step": 1}\n')


@pytest.mark.parametrize("steps", [-1, 0])
def test_a_run_that_was_stopped_before_its_first_step_goes_on(tmp_path: Path, steps: int) -> None:
    folder = made(tmp_path / "a", saved=False, steps=steps)
    assert len(opened(folder, load_config("local", [f"run.dir={folder}"]))["resumed"]) == 1


@pytest.mark.parametrize("line", ["{torn\n", "7\n", '{"a": 1}\n', "\0\0\0\n"])
@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl"])
def test_a_damaged_line_is_told_and_nothing_behind_it_is_lost(tmp_path: Path, line: str, name: str) -> None:
    folder = made(tmp_path / "a")
    lines = (folder / name).read_text().splitlines(keepends=True)
    (folder / name).write_text("".join([lines[0], line, *lines[1:]]))
    before = content(folder)
    with pytest.raises(UserError, match=rf"{name}: line 2 .*remove that line"):
        opened(folder, load_config("local", [f"run.dir={folder}"]))
    assert content(folder) == before


def test_cutting_back_loses_later_steps_alone(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text('{"step": 1}\n{torn\n{"step": 3}\n{"step": 2}\n{"step": 4}\n{"step": 2}')
    truncate_after(file, 2)
    assert file.read_text() == '{"step": 1}\n{torn\n{"step": 2}\n'
    file.write_text('{"step": 1}\n{"step": 3}\n')
    truncate_after(file, 3)
    assert read_jsonl(file) == [{"step": 1}, {"step": 3}]


def test_a_damaged_provenance_or_config_is_one_line(tmp_path: Path) -> None:
    folder = made(tmp_path / "a")
    config = load_config("local", [f"run.dir={folder}"])
    (folder / "provenance.json").write_text("{")
    with pytest.raises(UserError, match=r"provenance\.json: cannot be read"):
        opened(folder, config)
    (folder / "provenance.json").write_text("{}")
    (folder / "config.yaml").write_text("a: [")
    with pytest.raises(UserError, match=r"config\.yaml: cannot be read"):
        opened(folder, config)


def test_a_copy_does_not_write_over_what_is_its_originals(tmp_path: Path) -> None:
    a = made(tmp_path / "a", f"run.mirror={tmp_path}/mirror")
    (a / "wandb_run_id").write_text("1")
    b = shutil.copytree(a, tmp_path / "b")
    with pytest.raises(UserError, match=rf"run\.mirror={tmp_path}/mirror: keeps the checkpoints of {a}"):
        opened(b, load_config("local", [f"run.dir={b}", f"run.mirror={tmp_path}/mirror"]))
    assert (b / "wandb_run_id").exists()
    opened(b, load_config("local", [f"run.dir={b}", f"run.mirror={tmp_path}/mirror-b"]))
    assert not (b / "wandb_run_id").exists() and (a / "wandb_run_id").exists()
    shutil.move(a, tmp_path / "c")  # moved, and not copied: it is the same run
    opened(tmp_path / "c", load_config("local", [f"run.dir={tmp_path}/c", f"run.mirror={tmp_path}/mirror"]))
    assert (tmp_path / "c" / "wandb_run_id").exists()


def test_a_start_that_fails_leaves_nothing_that_blocks_the_next(tmp_path: Path) -> None:
    folder, config = tmp_path / "a", to_yaml(load_config("local"))
    with pytest.raises(RuntimeError), RunDirectory(folder).open(config, {}, resume=False):
        raise RuntimeError
    assert not folder.exists()
    with pytest.raises(RuntimeError), RunDirectory(folder).open(config, {}, resume=False) as run:
        (run.logs / "actor-0.log").write_text("why")
        raise RuntimeError
    assert [p.name for p in folder.iterdir()] == ["logs"]
    with pytest.raises(RuntimeError), RunDirectory(folder).open(config, {}, resume=False) as run:
        run.records.append(METRICS, {"step": 0})
        raise RuntimeError
    assert is_run(folder)
    with pytest.raises(UserError, match="already holds a run"), RunDirectory(folder).open(config, {}, resume=False):
        pass


def test_a_config_that_is_no_runs_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("mine: 1\n")
    for resumes in (False, True):
        with (
            pytest.raises(UserError, match=r"holds a config\.yaml that is no run's"),
            RunDirectory(tmp_path).open("run: {}\n", {}, resume=resumes),
        ):
            pass
    assert (tmp_path / "config.yaml").read_text() == "mine: 1\n"
