"""The families of problems that a run can be about: built-in ones by name, a user's own by its import path."""

from __future__ import annotations

import importlib
import os
import sys
from inspect import isclass
from types import ModuleType
from typing import cast

from azero.domains.base import Domain
from azero.domains.checked import Checked
from azero.errors import UserError
from azero.failures import told
from azero.types import Cell

# Import paths, so that a run loads only the domain that it is about.
DOMAINS = {
    "arithmetic": "azero.domains.arithmetic:Arithmetic",
    "sorting": "azero.domains.sorting:Sorting",
}


def get_domain(name: str) -> Domain:
    """The domain of `task.domain`: a built-in name, or "package.module:Class", looked up in the working directory too.

    The class is called without arguments. Raises UserError where there is no such module or class, where importing or
    calling it fails, and where the result lacks a part of the `Domain` protocol. What its methods do wrong is
    RunFailed, with file and line.
    """
    path = DOMAINS.get(name, name)
    module_name, colon, class_name = path.partition(":")
    if not (module_name and colon and class_name):
        known = ", ".join(sorted(DOMAINS))
        raise UserError(
            f"task.domain={name}: unknown; give one of {known}, or the import path package.module:Class of your own"
        )
    try:
        module = _import(module_name)
    except Exception as e:  # whatever the user's module raises
        if isinstance(e, ModuleNotFoundError) and e.name and f"{module_name}.".startswith(f"{e.name}."):
            raise UserError(
                f"task.domain={name}: there is no module {module_name}; run in the folder that holds it, or put that "
                "folder on PYTHONPATH"
            ) from None
        raise UserError(f"task.domain={name}: importing {module_name} fails with {told(e)}; repair it") from e
    found = getattr(module, class_name, None)
    if not isclass(found):
        raise UserError(f"task.domain={name}: {module_name} has no class {class_name}; give one that it defines")
    try:
        domain = found()
    except Exception as e:
        raise UserError(f"task.domain={name}: {class_name}() fails with {told(e)}; it must need no arguments") from e
    if missing := _missing(domain):
        raise UserError(
            f"task.domain={name}: {class_name} lacks {', '.join(missing)} of the Domain protocol; "
            "see azero/domains/base.py and docs/your-own-domain.md"
        )
    return cast(Domain, Checked(domain, name))


def _import(module: str) -> ModuleType:
    """Console scripts do not look in the working directory; Ray's workers look in their driver's by themselves."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    return importlib.import_module(module)


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
