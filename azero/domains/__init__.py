"""The families of problems that a run can be about."""

from __future__ import annotations

from collections.abc import Callable

from azero.domains.base import Domain
from azero.errors import UserError


def _arithmetic() -> Domain:
    from azero.domains.arithmetic import Arithmetic

    return Arithmetic()


DOMAINS: dict[str, Callable[[], Domain]] = {"arithmetic": _arithmetic}


def get_domain(name: str) -> Domain:
    """The domain of this name; raises UserError, which lists the known ones."""
    if name not in DOMAINS:
        raise UserError(f"domain {name!r} is unknown; give one of: {', '.join(sorted(DOMAINS))}")
    return DOMAINS[name]()
