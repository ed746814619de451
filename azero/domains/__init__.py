"""The families of problems that a run can be about: built-in ones by name, a user's own by its import path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from azero.domains.base import Domain
from azero.domains.checked import Checked
from azero.plugs import build
from azero.types import Cell

# Import paths, so that a run loads only the domain that it is about.
DOMAINS = {
    "arithmetic": "azero.domains.arithmetic:Arithmetic",
    "code": "azero.domains.code.domain:Code",
    "sorting": "azero.domains.sorting:Sorting",
}


def get_domain(name: str, options: Mapping[str, Any] | None = None) -> Domain:
    """The domain of `task.domain`: a built-in name, or "package.module:Class", looked up in the working directory too.

    The class is called with `task.options` as keywords. Raises UserError as `azero.plugs.build` does. What the domain's
    methods do wrong is RunFailed, with file and line.
    """
    explained = "Domain protocol; see azero/domains/base.py and docs/your-own-domain.md"
    return cast(Domain, Checked(build("task.domain", name, DOMAINS, _missing, explained, options=options), name))


def _missing(domain: object) -> list[str]:
    """Parts of the protocol that the object does not have, or has as something else."""
    cells, judges = getattr(domain, "cells", None), getattr(domain, "judges", 0)
    parts = {
        "name": isinstance(getattr(domain, "name", None), str),
        "cells (a tuple of Cell)": isinstance(cells, tuple) and bool(cells) and all(isinstance(c, Cell) for c in cells),
        "judges (a number of threads)": isinstance(judges, int) and judges >= 0,
    }
    methods = {key: callable(getattr(domain, key, None)) for key in vars(Domain) if not key.startswith("_")}
    return [part for part, is_there in (parts | methods).items() if not is_there]
