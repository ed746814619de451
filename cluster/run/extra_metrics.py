"""Metrics of a user's own (`run.metrics`): functions of a step's episodes, each giving {name: number}."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from azero.errors import RunFailed
from azero.plugs import checked, find, no_numbers
from azero.types import Episode


class ExtraMetrics:
    """Calls the functions. One that fails, or gives what is no metric, is told once and not called again."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        """`names`: import paths. Raises UserError where there is no such function."""
        self._functions = {
            name: checked(f"run.metrics={name}", find("run.metrics", name, {}), no_numbers) for name in names
        }

    def of(
        self, episodes: Sequence[Episode], metrics: Mapping[str, float], warn: Callable[[str], None]
    ) -> dict[str, float]:
        """`metrics` of the step with those of the functions."""
        found = dict(metrics)
        for name, function in list(self._functions.items()):
            try:
                given = {key: float(value) for key, value in function(episodes).items()}
                if taken := given.keys() & found.keys():
                    raise RunFailed(
                        f"run.metrics={name} gives {min(taken)}, which is a metric already; name it otherwise"
                    )
                found |= given
            except RunFailed as e:
                del self._functions[name]
                warn(f"{e}; the run goes on without it")
        return found
