"""The families of problems that a run can be about: built-in ones by name, a user's own by its import path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from azero.domains.base import Domain, Judgement, Proposal
from azero.plugs import build, checked, lacking, no_numbers, shown
from azero.types import Cell, EvalItem, Problem, Verdict

# Import paths, so that a run loads only the domain that it is about.
DOMAINS = {
    "arithmetic": "azero.domains.arithmetic:Arithmetic",
    "code": "azero.domains.code.domain:Code",
    "sorting": "azero.domains.sorting:Sorting",
}

RETURNS: dict[str, tuple[type, ...]] = {
    "generate": (Problem,),
    "ask": (str,),
    "read": (Proposal,),
    "pose": (str,),
    "judge": (Verdict, Judgement),
}
RETURNS_SOME: dict[str, type] = {"seeds": Problem, "evaluation": EvalItem}  # a list or a tuple, not empty


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
    methods = [key for key in vars(Domain) if not key.startswith("_")]
    return [part for part, is_there in parts.items() if not is_there] + lacking(*methods)(domain)


class Checked:
    """Stands for the domain, and looks at its every answer.

    Its methods raise UserError as they like, and RunFailed for whatever else goes wrong.
    """

    def __init__(self, domain: object, name: str) -> None:
        self._domain, self._name = domain, name

    def __getattr__(self, key: str) -> Any:
        if key.startswith("__"):  # of a copy that is not filled yet
            raise AttributeError(key)
        value = getattr(self._domain, key)
        if not callable(value):
            return value
        where = f"task.domain={self._name}: {type(self._domain).__name__}.{key}"
        method = self.__dict__[key] = checked(where, value, lambda r: _wrong(key, r) or self._of_no_cell(r))
        return method

    def _of_no_cell(self, result: Any) -> str:
        """Return what is wrong with the cell of a problem; empty where nothing is."""
        cells = self._domain.cells  # type: ignore[attr-defined]
        problem = result.problem if isinstance(result, Proposal) else result
        if not isinstance(problem, Problem) or problem.cell in cells:
            return ""
        return f"returns a problem of {problem.cell}; its cells are {', '.join(map(str, cells))}"


def _wrong(key: str, result: Any) -> str:
    """Return what is wrong with the type of a result; empty where nothing is."""
    kinds = RETURNS.get(key)
    if kinds and not isinstance(result, kinds):
        return f"returns {shown(result)}; it must return a {' or a '.join(kind.__name__ for kind in kinds)}"
    if key == "counts":
        return no_numbers(result)
    if isinstance(result, Proposal) and result.verdict is Verdict.VALID and not isinstance(result.problem, Problem):
        return f"returns a valid proposal whose problem is {shown(result.problem)}; it must be a Problem"
    kind = RETURNS_SOME.get(key)
    if kind and not (isinstance(result, list | tuple) and result):
        return f"returns {shown(result)}; it must return a list of {kind.__name__}, with one at least"
    if kind and (strangers := [item for item in result if not isinstance(item, kind)]):
        return f"returns a list with {shown(strangers[0])}; each must be a {kind.__name__}"
    return ""
