import shutil

import pytest
from run_dirs import write_checkpoint

from azero.errors import UserError
from cluster.commands.export import export_run, resolve_model


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


def test_resolve_model(run):
    newest = run / "checkpoints" / "step_000004"
    older = run / "checkpoints" / "step_000002"
    assert resolve_model(str(run)) == str(model_of(newest))
    assert resolve_model(str(older)) == str(model_of(older))
    assert resolve_model(str(model_of(older))) == str(model_of(older))
    for name in ("embedded", "Qwen/Qwen2-0.5B-Instruct", "gpt2"):
        assert resolve_model(name) == name


def test_resolve_model_refuses(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: holds no model"):
        resolve_model("empty")
    with pytest.raises(UserError, match="is a file"):
        resolve_model(str(run / "config.yaml"))
    with pytest.raises(UserError, match="/no/where: no such folder"):
        resolve_model("/no/where")
    with pytest.raises(UserError, match="runs/b: no such folder; runs in runs: a"):
        resolve_model("runs/b")
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(UserError, match="holds no whole checkpoint yet"):
        resolve_model(str(run))


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
