"""Ray: found or started, and left as it was."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import ray
from ray._private import ray_constants

from azero.config import ClusterConfig
from azero.errors import UserError

LOCAL = {
    "include_dashboard": False,
    "_system_config": {"task_events_report_interval_ms": 0},  # a list of all tasks, which nobody could look at
}


def cluster_address(config: ClusterConfig) -> str:
    """Where the cluster is; empty for a Ray of this process's own."""
    return config.address or os.environ.get("RAY_ADDRESS", "")


@contextmanager
def ray_session(config: ClusterConfig) -> Iterator[None]:
    """Inside a Ray job or with an address: that cluster. Otherwise a local Ray of its own, gone at the end."""
    address = cluster_address(config)
    # Ray would otherwise copy GPU visibility from what it manages even for actors that ask for none.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # In madvise mode, as Linux has it: a heap of huge pages. New memory then costs one fault for 2 MiB instead of 512.
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    with nullcontext() if address else _loopback():
        try:
            # "local": whatever cluster Ray remembers on this machine.
            ray.init(address=address or "local", **({} if address else LOCAL), **quiet)
        except (ConnectionError, RuntimeError, ValueError) as e:
            if not address:
                raise
            raise UserError(
                f"cluster.address={address}: no Ray cluster there ({str(e).splitlines()[0]}); "
                "start one with `ray start --head`, or leave the address empty"
            ) from None
        try:
            yield
        finally:
            ray.shutdown()


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
