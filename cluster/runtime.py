"""Ray: found or started, and left as it was."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from azero.config import ClusterConfig
from azero.errors import UserError


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
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as e:
            raise UserError(
                f"cluster.address={address}: no Ray cluster there ({str(e).splitlines()[0]}); "
                "start one with `ray start --head`, or leave the address empty"
            ) from None
    else:
        ray.init(include_dashboard=False, **quiet)
    try:
        yield
    finally:
        ray.shutdown()
