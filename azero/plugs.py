"""Parts that a config names: built-in ones by a word, a user's own by its import path `package.module:name`.

A user's mistake in a part of their own is told in one line, by the key, the name and the place.
"""

from __future__ import annotations

import importlib
import inspect
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from types import ModuleType
from typing import Any

import numpy as np

from azero.errors import RunFailed, UserError, told

SHOWN = 60  # characters of a wrong value


def find(key: str, name: str, known: Mapping[str, Any]) -> Callable[..., Any]:
    """Find what a key's value names: one of `known`, whose import paths are followed, or what stands at an import path.

    Modules are looked up in the working directory too. Raises UserError where the name is neither, where there is no
    such module or nothing of that name in it, where importing fails, and where what is found cannot be called.
    """
    entry = known.get(name, name)
    if not isinstance(entry, str):
        return entry
    module_name, colon, attribute = entry.partition(":")
    if not (module_name and colon and attribute):
        names = f"one of {', '.join(sorted(known))}, or " if known else ""
        raise UserError(f"{key}={name}: unknown; give {names}the import path package.module:name of your own")
    try:
        module = _import(module_name)
    except Exception as e:  # whatever the user's module raises
        if isinstance(e, ModuleNotFoundError) and e.name and f"{module_name}.".startswith(f"{e.name}."):
            raise UserError(
                f"{key}={name}: there is no module {module_name}; run in the folder that holds it, or put that "
                "folder on PYTHONPATH"
            ) from None
        raise UserError(f"{key}={name}: importing {module_name} fails with {told(e)}; repair it") from e
    found = getattr(module, attribute, None)
    if not callable(found):
        what = f"has no {attribute}" if found is None else f"has {attribute}={shown(found)}, which cannot be called"
        raise UserError(f"{key}={name}: {module_name} {what}; give a class or a function that it defines")
    return found


def build(
    key: str,
    name: str,
    known: Mapping[str, Any],
    missing: Callable[[Any], Sequence[str]],
    protocol: str,
    *arguments: Any,
    options: Mapping[str, Any] | None = None,
) -> Any:
    """The object that the class of `find` makes of the arguments, and of options as keywords.

    `missing` gives the parts of `protocol`, which is named with where it is explained, that an object lacks. Raises
    UserError where making the object fails, or a part is missing.
    """
    make, options = find(key, name, known), options or {}
    called = getattr(make, "__name__", name)
    _require_options(key, name, make, options)
    try:
        made = make(*arguments, **options)
    except UserError:
        raise
    except Exception as e:
        needs = "no arguments" if not arguments else f"the arguments {', '.join(type(a).__name__ for a in arguments)}"
        raise UserError(f"{key}={name}: {called}() fails with {told(e)}; it must work with {needs}") from e
    if lacks := missing(made):
        raise UserError(f"{key}={name}: {called} lacks {', '.join(lacks)} of the {protocol}")
    return made


def lacking(*methods: str) -> Callable[[Any], list[str]]:
    """Return a check for `build`: which of these methods an object does not have."""
    return lambda made: [name for name in methods if not callable(getattr(made, name, None))]


def _require_options(key: str, name: str, make: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raises UserError for an option that the callable does not take by its name."""
    takes = inspect.signature(make).parameters.values() if options else ()
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in takes):
        return
    named = [
        p.name for p in takes if p.kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    ]
    for option in options:
        if option not in named:
            raise UserError(f"{key}={name}: takes no option {option}; give {', '.join(named) or 'none'}")


def checked(where: str, call: Callable[..., Any], wrong: Callable[[Any], str]) -> Callable[..., Any]:
    """The same callable, with RunFailed for whatever it raises but UserError, and for a result of which something is
    `wrong`, in words. Both begin with `where`.
    """

    @wraps(call)
    def checked_call(*arguments: Any, **named: Any) -> Any:
        try:
            result = call(*arguments, **named)
        except (UserError, RunFailed):
            raise
        except (Exception, SystemExit) as e:
            raise RunFailed(f"{where} fails with {told(e)}; repair it") from e
        if said := wrong(result):
            raise RunFailed(f"{where} {said}")
        return result

    return checked_call


def no_number(value: Any) -> str:
    """Return what is wrong with a result that must be a finite number; empty where nothing is."""
    is_number = isinstance(value, int | float | np.number) and math.isfinite(value)
    return "" if is_number else f"returns {shown(value)}; it must return a finite number"


def no_numbers(value: Any) -> str:
    """Return what is wrong with a result that must be {name: finite number}; empty where nothing is."""
    if not isinstance(value, Mapping):
        return f"returns {shown(value)}; it must return {{name: number}}"
    for name, number in value.items():
        if not isinstance(name, str) or no_number(number):
            return f"gives {name}={shown(number)}; each must be a name with a finite number"
    return ""


def shown(value: Any) -> str:
    """The beginning of a wrong value, and its type."""
    return f"{' '.join(repr(value).split())[:SHOWN]} ({type(value).__name__})"


def _import(module: str) -> ModuleType:
    """Console scripts do not look in the working directory; Ray's workers look in their driver's by themselves."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    return importlib.import_module(module)
