"""Every config that ships loads, dry-runs, and is found from a wheel too."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from azero.config import Config, load_config

ROOT = Path(__file__).resolve().parent.parent
YAMLS = sorted((ROOT / "configs").rglob("*.yaml"))
CONFIGS = [path for path in YAMLS if "base" not in OmegaConf.load(path)]  # a sweep names its base config


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_promised_presets_ship() -> None:
    assert {"base", "local", "journal", "paper"} <= {path.stem for path in CONFIGS}


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_config_loads(path: Path) -> None:
    config = load_config(path)
    assert config.run.name and config.run.steps > 0


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_config_dry_runs(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cluster.cli import main

    monkeypatch.chdir(tmp_path)
    config = load_config(path)
    fits = has_room(config)
    status = main(["train", str(path), "--dry-run"])
    said = capsys.readouterr()
    assert status == (0 if fits else 1), said
    assert config.run.name in said.out and ("next: azero train" in said.out) is fits
    assert fits or " no: " in said.out
    assert list(tmp_path.iterdir()) == [], "a dry run leaves nothing behind"


def has_room(config: Config) -> bool:
    """Whether this machine has what the config asks for."""
    from cluster.supervise.room import demand, room_here

    return room_here().answer(config).starts and not room_here().short_of([demand(config)])


def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_package_is_declared() -> None:
    declared = set(project()["tool"]["setuptools"]["packages"])  # type: ignore[index]
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for folder in ("azero", "actors", "learner", "cluster", "benchmarks/scale")
        for path in (ROOT / folder).rglob("*.py")
    }
    found |= {".".join(path.parent.relative_to(ROOT).parts) for path in YAMLS}
    assert found == declared, "setuptools leaves out what `packages` in pyproject.toml does not name"


@pytest.mark.slow
def test_a_wheel_carries_configs_and_base_model(tmp_path: Path) -> None:
    """Built from a copy, so that the checkout stays clean; without network."""
    source = tmp_path / "source"
    source.mkdir()
    for folder in ("azero", "actors", "learner", "cluster", "configs", "benchmarks"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source / file)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        ".",
    ]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = tmp_path.glob("azero-*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    data = [*YAMLS, *(ROOT / "azero" / "base_model").glob("*"), *(ROOT / "azero" / "domains").glob("*.json")]
    assert {name(path) for path in data} - inside == set()
