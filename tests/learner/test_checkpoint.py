"""A damaged checkpoint is named and passed over, whatever the damage."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from azero.errors import UserError
from learner.checkpoint import MANIFEST, Checkpoint, newest_whole

WEIGHTS = "policies/shared/model/model.safetensors"
FILES = (
    "policies/shared/model/config.json",
    WEIGHTS,
    "policies/shared/optimizer.safetensors",
    "trainer.json",
    "driver.json",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Checkpoints of steps 2, 4 and 6, all whole; `latest` names the last."""
    for step in (2, 4, 6):
        checkpoint = tmp_path / f"step_{step:06d}"
        for number, name in enumerate(FILES):
            (checkpoint / name).parent.mkdir(parents=True, exist_ok=True)
            (checkpoint / name).write_bytes(os.urandom(1000 + number))
        Checkpoint(checkpoint).write_manifest()
    (tmp_path / "latest").write_text("step_000006")
    return tmp_path


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
@pytest.mark.parametrize("harm", [truncate, flip, empty, Path.unlink])
def test_damage_is_found_and_the_one_before_is_taken(folder: Path, harm: Callable[[Path], None], name: str) -> None:
    newest = Checkpoint.of_step(folder, 6)
    assert newest.damage() == "" and newest_whole(folder, pytest.fail) == newest
    harm(newest.path / name)
    said: list[str] = []
    assert newest_whole(folder, said.append) == Checkpoint.of_step(folder, 4)
    assert len(said) == 1 and str(newest.path) in said[0] and "damaged" in said[0]


def test_a_manifest_that_lists_too_little_is_damage(folder: Path) -> None:
    whole = json.loads((folder / "step_000006" / MANIFEST).read_text())["files"]
    parts = [{n: f for n, f in whole.items() if n != left_out} for left_out in ("trainer.json", "driver.json", WEIGHTS)]
    for content in (
        {},
        {"files": {}},
        {"files": []},
        [],
        {"files": {"trainer.json": 1}},
        *({"files": p} for p in parts),
    ):
        (folder / "step_000006" / MANIFEST).write_text(json.dumps(content))
        assert Checkpoint(folder / "step_000006").damage()


def test_a_checkpoint_of_the_former_layout_says_so(tmp_path: Path) -> None:
    old = Checkpoint.of_step(tmp_path, 2)
    (old.path / "model").mkdir(parents=True)
    for name in ("state.json", "model/model.safetensors"):
        (old.path / name).write_bytes(b"1")
    old.write_manifest()
    assert "former version" in old.damage()


def test_no_checkpoint_is_none_and_none_that_is_whole_is_an_error(folder: Path, tmp_path: Path) -> None:
    assert newest_whole(tmp_path / "absent", pytest.fail) is None
    for checkpoint in folder.glob("step_*"):
        (checkpoint / "trainer.json").unlink()
    with pytest.raises(UserError, match="none of its 3 checkpoints is whole"):
        newest_whole(folder, lambda _: None)


def test_latest_decides_and_may_be_lost(folder: Path) -> None:
    (folder / "latest").write_text("step_000004\n")
    assert newest_whole(folder, pytest.fail) == Checkpoint.of_step(folder, 4)
    said: list[str] = []
    for name in ("step_000008", "../step_000006", ""):
        (folder / "latest").write_text(name)
        assert newest_whole(folder, said.append) == Checkpoint.of_step(folder, 6)
    (folder / "latest").unlink()
    assert newest_whole(folder, said.append) == Checkpoint.of_step(folder, 6) and len(said) == 4
    shutil.rmtree(folder / "step_000006")
    assert newest_whole(folder, said.append) == Checkpoint.of_step(folder, 4)
