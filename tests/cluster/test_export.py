import shutil

import pytest
from run_dirs import write_checkpoint

from azero.errors import UserError
from cluster.commands.models import Source, export_run, source_of
from learner.checkpoint import Checkpoint


def model_of(checkpoint):
    return checkpoint / "policies" / "shared" / "model"


@pytest.fixture
def run(tmp_path):
    """A run directory with two checkpoints, of which `latest` names the second."""
    folder = tmp_path / "runs" / "a"
    for step in (2, 4):
        write_checkpoint(folder, step)
    for name in ("config.yaml", "provenance.json"):
        (folder / name).write_text("")
    return folder


def test_what_a_name_stands_for(run):
    newest = run / "checkpoints" / "step_000004"
    older = run / "checkpoints" / "step_000002"
    assert source_of(str(run)) == Source(name=str(run), checkpoint=Checkpoint(newest))
    assert source_of(str(older)) == Source(name=str(older), checkpoint=Checkpoint(older))
    for folder in (newest, older):
        assert Checkpoint(folder).policies == ["shared"] and Checkpoint(folder).model("shared") == model_of(folder)
    folder = str(model_of(older))
    assert source_of(folder) == Source(name=folder, model=folder)
    for name in ("embedded", "Qwen/Qwen2-0.5B-Instruct", "gpt2"):
        assert source_of(name) == Source(name=name, model=name)


def test_a_name_that_stands_for_nothing_is_refused(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: holds no model"):
        source_of("empty")
    with pytest.raises(UserError, match="is a file"):
        source_of(str(run / "config.yaml"))
    with pytest.raises(UserError, match="/no/where: no such folder"):
        source_of("/no/where")
    with pytest.raises(UserError, match="runs/b: no such folder; runs in runs: a"):
        source_of("runs/b")
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(UserError, match="holds no whole checkpoint yet"):
        source_of(str(run))


def test_export(run, tmp_path):
    out = tmp_path / "deep" / "out"
    assert export_run(str(run), str(out)) == out
    assert sorted(p.name for p in out.iterdir()) == ["config.json", "model.safetensors"]
    assert (out / "config.json").read_text() == "step_000004"
    (tmp_path / "empty").mkdir()
    export_run(str(run / "checkpoints" / "step_000002"), str(tmp_path / "empty"))
    assert (tmp_path / "empty" / "config.json").read_text() == "step_000002"
    assert not list(tmp_path.glob("**/.*.tmp"))


def test_export_refuses(run, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    with pytest.raises(UserError, match="full: exists already; give a new or an empty folder"):
        export_run(str(run), str(tmp_path / "full"))
    assert (tmp_path / "full" / "x").read_text() == "mine"
    with pytest.raises(UserError, match="no such folder"):
        export_run("Qwen/Qwen2-0.5B-Instruct", str(tmp_path / "out"))
    with pytest.raises(UserError, match="cannot be written"):
        export_run(str(run), str(tmp_path / "full" / "x" / "out"))
    inside = run / "checkpoints" / "step_000004" / "policies" / "shared" / "model" / "out"
    with pytest.raises(UserError, match="lies inside the model"):
        export_run(str(run), str(inside))
