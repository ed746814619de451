"""Self-play of a language model that writes its own problems.

    config = azero.load_config("local", ["run.steps=20"])
    result = azero.train(config)
    evaluation = azero.evaluate(result.path)
    run = azero.read_run(result.path)

The command line is a thin layer over these. docs/python.md shows them.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = [
    "Evaluation",
    "RunFailed",
    "RunRecords",
    "TrainingResult",
    "UserError",
    "__version__",
    "evaluate",
    "load_config",
    "read_run",
    "train",
]

# Where each name is; it is imported when it is asked for, as this package is below the others. Types: __init__.pyi.
_PLACES = {
    **dict.fromkeys(("UserError", "RunFailed"), "azero.errors"),
    **dict.fromkeys(("load_config", "train", "evaluate", "read_run", "Evaluation"), "cluster.api"),
    "TrainingResult": "cluster.commands.train",
    "RunRecords": "cluster.records.reading",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'azero' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
