"""Ray: found or started, and left as it was."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants

from azero.config import ClusterConfig
from azero.errors import RunFailed, UserError, first_line
from cluster.records import machine

PROBE_S = 3.0  # for each of the two steps in which a cluster shows that it is there
HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # RFC 9113, 3.4
SETTINGS = 4  # type of the frame that a gRPC server answers with
# Of a socket of Ray's, the longest that the system takes, and what Ray adds to its folder.
SOCKET_BYTES = 107
BELOW_FOLDER = "/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
LOCAL: dict[str, Any] = {
    "include_dashboard": False,
    "_system_config": {"task_events_report_interval_ms": 0},  # a list of all tasks, which nobody could look at
}


def cluster_address(config: ClusterConfig) -> str:
    """Return where the cluster is; empty for a Ray of this process's own."""
    address = config.address or os.environ.get("RAY_ADDRESS", "")
    return "" if address == "local" else address


@contextmanager
def ray_session(config: ClusterConfig) -> Iterator[None]:
    """Inside a Ray job or with an address: that cluster. Otherwise a local Ray of its own, gone at the end.

    Raises UserError where no cluster answers, or a local Ray has no folder, and RunFailed where it does not start.
    """
    address = cluster_address(config)
    # Ray would otherwise copy GPU visibility from what it manages even for actors that ask for none.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # In madvise mode, as Linux has it: a heap of huge pages. New memory then costs one fault for 2 MiB instead of 512.
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    options: dict[str, Any] = {"address": address}
    if address:
        require_cluster(address)
    else:  # "local": whatever cluster Ray remembers on this machine
        options = LOCAL | {"address": "local", "num_cpus": machine.cores(), "_temp_dir": str(ray_folder())}
        _bring_token()
    with nullcontext() if address else _loopback():
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
        except Exception as e:  # Ray raises many kinds
            if address:
                raise _no_cluster(address, first_line(e)) from None
            raise RunFailed(
                f"Ray does not start on this machine ({type(e).__name__}: {first_line(e)}); "
                f"see {options['_temp_dir']}/session_latest/logs"
            ) from e
        try:
            yield
        finally:
            ray.shutdown()


def require_cluster(address: str) -> None:
    """Raises UserError within seconds where no Ray head answers. Ray itself waits for minutes, and hears no signal."""
    if "://" in address:
        raise _no_cluster(address, "it is an address for ray jobs or Ray Client, which cannot hold a driver")
    if address == "auto":
        try:
            address = ray._private.services.get_ray_address_from_environment("auto", None)
        except ConnectionError as e:
            raise _no_cluster(address, first_line(e)) from None
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_S) as connection:
            connection.settimeout(PROBE_S)
            if os.environ.get("RAY_USE_TLS", "0") not in ("0", ""):
                return
            connection.sendall(HTTP2_HELLO)
            if connection.recv(9)[3:4] != bytes([SETTINGS]):
                raise _no_cluster(address, "what listens there is not Ray")
    except (OSError, ValueError, OverflowError) as e:
        raise _no_cluster(address, first_line(e)) from None


def _no_cluster(address: str, why: str) -> UserError:
    return UserError(
        f"cluster.address={address}: no Ray cluster there ({why}); give host:port of a head that `ray start --head` "
        "made, or leave cluster.address and RAY_ADDRESS empty for a Ray of this run's own"
    )


def ray_folder() -> Path:
    """Find where a local Ray keeps sockets and logs: its default, or below /tmp if that is too long or shut.

    Raises UserError where there is none.
    """
    default = Path(ray._common.utils.get_default_ray_temp_dir())
    tried = []
    for folder in dict.fromkeys((default, Path("/tmp/ray"), Path(f"/tmp/ray-{os.getuid()}"))):
        trouble = _unfit(folder)
        if not trouble:
            return folder
        tried.append(f"{folder} {trouble}")
    raise UserError(f"Ray has no folder to work in ({'; '.join(tried)}): set RAY_TMPDIR to a short, writable one")


def _unfit(folder: Path) -> str:
    """Why Ray cannot work in a folder that may not be there yet; empty where it can."""
    longest = SOCKET_BYTES - len(BELOW_FOLDER)
    if (length := len(os.fsencode(folder))) > longest:
        return f"is too long ({length} bytes, at most {longest})"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder if folder.exists() else folder.parent):
            return ""
    except OSError as e:
        return f"cannot be written ({e.strerror})"


def _bring_token() -> None:
    """Make the token by which a local Ray is guarded, where Ray could not write it to ~/.ray."""
    try:
        folder = Path.home() / ".ray"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return
    except (OSError, RuntimeError):
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


@contextmanager
def _loopback() -> Iterator[None]:
    """Have every server of a local Ray listen on 127.0.0.1 alone, as Ray has it on macOS, where it builds no clusters.

    The variable is for processes that this one starts, those that join its Ray too; Ray here has read it already.
    """
    name = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    before = os.environ.get(name), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[name], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before[1]
        if before[0] is None:
            del os.environ[name]
        else:
            os.environ[name] = before[0]
