"""What this process may use, of the machine that it is on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from azero.config import load_config
from cluster.records import machine
from cluster.supervise.room import room_for, share_threads

GROUPS = {  # name -> (/proc/self/cgroup, files below /sys/fs/cgroup, cores of 8)
    "no group": ("", {}, 8),
    "no limit": ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
    "version 2": ("0::/\n", {"cpu.max": "300000 100000\n"}, 3),
    "a part of a core counts as one": ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
    "less than one": ("0::/\n", {"cpu.max": "20000 100000\n"}, 1),
    "more than there are": ("0::/\n", {"cpu.max": "6400000 100000\n"}, 8),
    "the parent's limit holds": (
        "0::/a/b\n",
        {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "200000 100000\n", "other/cpu.max": "100000 100000\n"},
        2,
    ),
    "the host's path, in a container": ("0::/kubepods/pod7\n", {"cpu.max": "400000 100000\n"}, 4),
    "version 1": (
        "5:memory:/x\n4:cpu,cpuacct:/job\n0::/\n",
        {"cpu,cpuacct/job/cpu.cfs_quota_us": "500000\n", "cpu,cpuacct/job/cpu.cfs_period_us": "100000\n"},
        5,
    ),
    "version 1 without limit": (
        "4:cpu:/\n",
        {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
        8,
    ),
}


@pytest.fixture
def limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Sets control groups, on a machine with 8 cores."""

    def write(own: str, files: dict[str, str]) -> None:
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "groups" / name).write_text(text)

    monkeypatch.setattr(machine, "CONTROL_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(machine, "OWN_GROUP", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return write


@pytest.mark.parametrize(("own", "files", "cores"), GROUPS.values(), ids=GROUPS)
def test_cores_are_what_affinity_and_control_group_leave(limited, own: str, files: dict[str, str], cores: int) -> None:
    limited(own, files)
    assert machine.cores() == cores


def test_memory_is_what_the_own_group_and_those_above_leave(limited) -> None:
    limited("0::/a/b\n", {"memory.max": "max\n", "a/memory.max": f"{2**28}\n", "a/b/memory.max": "max\n"})
    assert machine.memory_bytes() == 2**28


def test_threads_and_room_follow_the_cores_that_are_left(limited) -> None:
    limited("0::/\n", {"cpu.max": "300000 100000\n"})
    config = load_config("local", ["rollout.max_staleness=1"])
    share_threads(config, local=True)
    assert (config.rollout.threads, config.learner.threads) == (1, 1)  # 3 cores, actor and learner beside each other
    config = load_config("local", ["rollout.max_staleness=0"])
    share_threads(config, local=True)
    assert (config.rollout.threads, config.learner.threads) == (3, 3)  # in turns
    assert room_for(config.cluster).total("CPU") == 3


def test_a_process_that_is_bound_to_one_core_says_one() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from cluster.records import machine; "
    done = subprocess.run([sys.executable, "-c", code + "print(machine.cores())"], capture_output=True, text=True)
    assert done.stdout == "1\n", done.stderr
