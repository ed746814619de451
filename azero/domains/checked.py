"""A domain whose every answer is looked at: a user's mistake is told once, by its name, file and line."""

from __future__ import annotations

from typing import Any

from azero.domains.base import Judgement, Proposal
from azero.plugs import checked, no_numbers, shown
from azero.types import EvalItem, Problem, Verdict

RETURNS: dict[str, type] = {
    "generate": Problem,
    "ask": str,
    "read": Proposal,
    "pose": str,
    "judge": Verdict,
    "explain": Judgement,
}
RETURNS_SOME: dict[str, type] = {"seeds": Problem, "evaluation": EvalItem}  # a list or a tuple, not empty


class Checked:
    """Stands for the domain. Its methods raise UserError as they like, and RunFailed for whatever else goes wrong."""

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
    kind = RETURNS.get(key)
    if kind and not isinstance(result, kind):
        return f"returns {shown(result)}; it must return a {kind.__name__}"
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
