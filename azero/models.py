"""Loading models and tokenizers through transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from azero.errors import UserError, first_line
from azero.gguf import converted, is_gguf
from azero.lfs import require_fetched

if TYPE_CHECKING:
    import torch

EMBEDDED = Path(__file__).parent / "base_model"


def resolve_model_path(path: str) -> str:
    """The folder or Hub id that `model.path` means; a .gguf file is converted first. Raises UserError."""
    if path == "embedded":
        if not (EMBEDDED / "config.json").is_file():
            raise UserError(f"model.path=embedded: {EMBEDDED} holds no model; build it with `make base-model`")
        return str(EMBEDDED)
    require_fetched(Path(path).expanduser(), "model.path")
    if is_gguf(path):
        return str(converted(Path(path).expanduser()))
    folder = Path(path)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"model.path={path}: the folder has no config.json; give a transformers model folder")
        return str(folder.resolve())
    if path.count("/") == 1 and not path.startswith((".", "/", "~")) and not path.endswith("/"):
        return path
    raise UserError(
        f"model.path={path}: no such folder; give embedded, a model folder, a .gguf file, "
        "or a Hub id such as Qwen/Qwen2-0.5B"
    )


def require_weights(path: str) -> None:
    """Raises UserError for a model folder that lacks weights; a Hub id is looked at when it is loaded."""
    folder = Path(path)
    if not folder.is_dir():
        return
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"model.path={path}: the folder has no weights (*.safetensors); give a whole one, saved by save_pretrained"
        )
    index = folder / "model.safetensors.index.json"
    try:
        named = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else set()
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise UserError(f"model.path={path}: {index.name} cannot be read; download the folder again") from None
    if missing := sorted(name for name in named if not (folder / name).is_file()):
        raise UserError(
            f"model.path={path}: {len(missing)} of its {len(named)} files of weights are missing ({missing[0]}, ...); "
            "download the folder again"
        )


def load_tokenizer(path: str) -> Any:
    """The model's own tokenizer. Raises UserError where it cannot be loaded."""
    from transformers import AutoTokenizer

    return _load(AutoTokenizer, path)


def load_model(path: str, dtype: torch.dtype | None = None) -> Any:
    """The causal language model on the CPU, in fp32 by default. Raises UserError where it cannot be loaded.

    A folder's weights have to be safetensors: a checkpoint has no others, and a pickle is not read.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    only = True if Path(path).is_dir() else None  # None: the Hub's safetensors where there are some
    return _load(AutoModelForCausalLM, path, dtype=dtype or torch.float32, use_safetensors=only)


def load_configs(path: str) -> tuple[Any, Any]:
    """(model config, generation config or None). Raises UserError where the first cannot be loaded."""
    from transformers import AutoConfig, GenerationConfig

    config = _load(AutoConfig, path)
    try:
        return config, GenerationConfig.from_pretrained(path)
    except OSError:  # many models have none
        return config, None


def _load(kind: Any, path: str, **options: Any) -> Any:
    from safetensors import SafetensorError

    try:
        return kind.from_pretrained(path, **options)
    except (OSError, ValueError, KeyError, SafetensorError) as e:
        raise UserError(
            f"model.path={path}: not loadable by transformers ({first_line(e)}); without a network give a local folder"
        ) from None


def positions(config: Any) -> int | None:
    """Tokens in a row that the model holds; None where nothing bounds them."""
    found = getattr(config.get_text_config(), "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else None


def eos_ids(*sources: Any) -> tuple[int, ...]:
    """Ids that end a completion: all that the model config, the generation config and the tokenizer name, each once."""
    named = [getattr(source, "eos_token_id", None) for source in sources]
    each = [ids if isinstance(ids, list | tuple) else (ids,) for ids in named if ids is not None]
    return tuple(dict.fromkeys(i for ids in each for i in ids))
