"""Copies of checkpoints: in a folder, and in a bucket of a local S3 server."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs

from azero.errors import UserError
from learner.checkpoint import Checkpoint
from learner.mirror import Mirror, newest_anywhere, require_unused


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of a local S3 server. It is a process of its own: in a process that has loaded its web framework,
    vLLM cannot start (it looks into every loaded module, also into proxies that are not bound yet)."""
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        assert server.stdout is not None
        address = next((m[0] for line in server.stdout if (m := re.search(r"http://127\.0\.0\.1:\d+", line))), None)
        assert address is not None, "the S3 server did not start"
        threading.Thread(target=server.stdout.read, daemon=True).start()  # a full pipe would stop it
        yield address
        server.kill()


@pytest.fixture(params=["folder", "s3"])
def address(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "folder":
        return str(tmp_path / "mirror")
    for key, value in {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1",
                       "AWS_ENDPOINT_URL": request.getfixturevalue("s3")}.items():  # fmt: skip
        monkeypatch.setenv(key, value)
    s3fs.S3FileSystem.clear_instance_cache()
    bucket = f"azero-{uuid.uuid4()}"  # all tests share the server
    s3fs.S3FileSystem().mkdir(bucket)
    return f"s3://{bucket}/runs/one"


def checkpoint(folder: Path, step: int) -> Checkpoint:
    made = Checkpoint.of_step(folder, step)
    made.model("shared").mkdir(parents=True)
    (made.model("shared") / "model.safetensors").write_bytes(bytes(range(256)) * 64 + bytes([step]))
    made.trainer.write_text(json.dumps({"step": step}))
    made.driver.write_text("{}")
    made.write_manifest()
    return made


def test_copies_come_back_whole_and_old_ones_go(address: str, tmp_path: Path) -> None:
    mirror = Mirror(address)
    assert mirror.names() == []
    for step in (2, 4, 6):
        mirror.put(checkpoint(tmp_path / "here", step), capacity=2)
    assert Mirror(address).names() == ["step_000004", "step_000006"]
    said: list[str] = []
    found = newest_anywhere(lambda: None, Mirror(address), tmp_path / "there", said.append)
    assert found == Checkpoint.of_step(tmp_path / "there", 6) and found.damage() == "" and not said
    assert json.loads(found.trainer.read_text()) == {"step": 6}
    assert sorted(p.name for p in (tmp_path / "there").iterdir()) == ["step_000006"]


def test_the_newer_of_here_and_there(address: str, tmp_path: Path) -> None:
    mirror, said = Mirror(address), list[str]()
    mirror.put(checkpoint(tmp_path / "a", 4), capacity=3)
    older, newer = checkpoint(tmp_path / "b", 2), checkpoint(tmp_path / "b", 6)
    assert newest_anywhere(lambda: newer, mirror, tmp_path / "b", said.append) == newer
    assert newest_anywhere(lambda: older, mirror, tmp_path / "b", said.append) == Checkpoint.of_step(tmp_path / "b", 4)
    assert newest_anywhere(lambda: older, None, tmp_path / "b", said.append) == older and not said


def test_a_copy_that_is_torn_or_damaged_is_passed_over(address: str, tmp_path: Path) -> None:
    mirror, said = Mirror(address), list[str]()
    for step in (2, 4, 6):
        mirror.put(checkpoint(tmp_path / "a", step), capacity=3)
    fs, root = mirror._fs, mirror._root
    fs.rm(f"{root}/step_000006/manifest.json")  # the copy was broken off
    fs.pipe_file(f"{root}/step_000004/policies/shared/model/model.safetensors", b"other")
    found = newest_anywhere(lambda: None, Mirror(address), tmp_path / "b", said.append)
    assert found == Checkpoint.of_step(tmp_path / "b", 2)
    assert len(said) == 1 and "step_000004" in said[0] and "model.safetensors is not as it was written" in said[0]


def test_an_address_that_nothing_opens() -> None:
    with pytest.raises(UserError, match=r"run\.mirror=nowhere://x: cannot be opened"):
        Mirror("nowhere://x")


def test_copies_of_two_runs_do_not_mix(address: str, tmp_path: Path) -> None:
    require_unused(Mirror(address), pytest.fail)
    Mirror(address).put(checkpoint(tmp_path, 4), capacity=3)
    with pytest.raises(UserError, match=r"run\.mirror=.*holds the checkpoint step_000004 of another run; .*--resume"):
        require_unused(Mirror(address), pytest.fail)


def test_nobody_begins_anew_because_a_mirror_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(_: Mirror) -> list[str]:
        raise TimeoutError("no route")

    monkeypatch.setattr(Mirror, "names", silent)
    mirror, here, said = Mirror(str(tmp_path / "mirror")), checkpoint(tmp_path, 4), list[str]()
    assert newest_anywhere(lambda: here, mirror, tmp_path, said.append) == here
    require_unused(mirror, said.append)
    assert len(said) == 2 and all("does not answer (TimeoutError: no route)" in s for s in said)
    with pytest.raises(UserError, match=r"does not answer .* has no checkpoint; try again when it does"):
        newest_anywhere(lambda: None, mirror, tmp_path, said.append)
