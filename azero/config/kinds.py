"""What the values of keys may be: ranges of numbers, paths, choices, and parts by name or import path."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

SinkName = Literal["tensorboard", "prometheus", "wandb", "mlflow"]  # cluster/run/sinks.py opens them
EngineName = Literal["vllm", "hf"]
Ladder = Literal["paper", "binary"]
Source = Literal["selfplay", "solver_only", "random", "fixed"]
ProtocolName = Literal["raw", "chat"]
Dtype = Literal["float32", "bfloat16"]
Layout = Literal["disaggregated", "colocated"]
Transfer = Literal["store", "nccl"]
BatchOf = Literal["samples", "signal"]

Count = Annotated[int, Field(gt=0, lt=2**31)]
Whole = Annotated[int, Field(ge=0, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[float, Field(gt=0, lt=1e9, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, lt=1e9, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]


def _file(path: str) -> str:
    """The path with a leading ~ as the home folder."""
    if "\0" in path:
        raise ValueError("must not hold a null character")
    try:
        return str(Path(path).expanduser()) if path.startswith("~") else path
    except RuntimeError as e:  # ~name of nobody
        raise ValueError(f"{e}; give the folder itself") from None


def _resource(amount: float) -> float:
    if amount > 1 and amount != int(amount):
        raise ValueError("must be a whole number where it is above 1, which Ray asks for")
    return amount


def _import_path(name: str) -> str:
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise ValueError("must be an import path such as package.module:name")
    return name


class _Plug:
    """A validator: one of the built-in names, or the import path of a part of the user's own."""

    def __init__(self, *names: str, renamed: dict[str, str] | None = None) -> None:
        self.names, self.renamed = names, renamed or {}

    def __call__(self, name: str) -> str:
        if name in self.renamed:
            raise ValueError(f"is now called {self.renamed[name]}")
        if name not in self.names and ":" not in name:
            raise ValueError(f"must be one of {', '.join(self.names)}, or an import path such as package.module:name")
        return name


def _not_frozen(source: Any) -> Any:
    if source == "frozen":
        raise ValueError(
            "is now called solver_only, which is what it does: solutions alone are trained, and the proposer moves "
            "with them, since it has the same weights"
        )
    return source


File = Annotated[str, AfterValidator(_file)]  # a path, or a name that is none
Resource = Annotated[NotNegative, AfterValidator(_resource)]  # CPUs or GPUs
ImportPath = Annotated[str, AfterValidator(_import_path)]

# Built-in parts by name; docs/your-own-parts.md has an example of each that is a user's own.
LearnabilityName = Annotated[
    str, AfterValidator(_Plug("improvement", "one_minus_rate", "uncertainty", "variance", "none"))
]
GroupingName = Annotated[
    str,
    AfterValidator(
        _Plug("cell", "task", "role", "batch", "problem", renamed={"difficulty": "cell", "global": "batch"})
    ),
]
EstimatorName = Annotated[str, AfterValidator(_Plug("trr"))]
SourceName = Annotated[Source, BeforeValidator(_not_frozen)]
