"""Whether a class has the methods of a remote protocol, with the same parameters."""

from __future__ import annotations

import inspect
from typing import Any

RETURN_PAIRS = ("start", "step", "copy_state")  # of a learner, with num_returns=2


def methods(protocol: type) -> dict[str, Any]:
    return {name: value for name, value in vars(protocol).items() if inspect.isfunction(value) and name[0] != "_"}


def require_follows(cls: Any, protocol: type) -> None:
    """The number and order of parameters count, as every call gives them by position."""
    found = cls.__ray_metadata__.modified_class if hasattr(cls, "__ray_metadata__") else cls
    for name, method in methods(protocol).items():
        own = getattr(found, name, None)
        assert own is not None, f"{found.__name__} has no {name}"
        assert _count(own) == _count(method), name
        is_pair = protocol.__name__ == "RemoteLearner" and name in RETURN_PAIRS
        assert getattr(own, "__ray_num_returns__", 1) == 1 + is_pair, name


def _count(method: Any) -> int:
    """Parameters but the one that Ray adds to the methods of its classes."""
    return len(set(inspect.signature(method).parameters) - {"_ray_trace_ctx"})
