"""An object of which Ray has lost the bytes."""

from __future__ import annotations

import time

import numpy as np
import ray
from ray.exceptions import ObjectLostError


@ray.remote(num_cpus=0)
class _Owner:
    def put(self) -> list[ray.ObjectRef]:
        return [ray.put(np.zeros(1_000_000))]


def lost_reference() -> ray.ObjectRef:
    """A reference whose owner is dead: reading it raises an ObjectLostError, as after the death of a node."""
    owner = _Owner.remote()  # type: ignore[attr-defined]
    (ref,) = ray.get(owner.put.remote())
    ray.kill(owner)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            ray.get(ref, timeout=10)
        except ObjectLostError:
            return ref
        time.sleep(0.2)
    raise AssertionError("the object outlives its owner")
