"""Loading models and tokenizers through transformers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from azero.errors import UserError, first_line, listed
from azero.models.gguf import converted, is_gguf

if TYPE_CHECKING:
    import torch

EMBEDDED, EMBEDDED_CODE = (Path(__file__).parents[1] / name for name in ("base_model", "code_model"))
# Model that ships -> its folder, and the target of make that builds it.
SHIPPED = {"embedded": (EMBEDDED, "base-model"), "embedded_code": (EMBEDDED_CODE, "code-model")}
LFS_POINTER = b"version https://git-lfs.github.com/spec/"  # begins a few lines of text in place of a file


def resolve_model_path(path: str) -> str:
    """The folder or Hub id that `model.path` means; a .gguf file is converted first. Raises UserError."""
    if path in SHIPPED:
        folder, target = SHIPPED[path]
        if not (folder / "config.json").is_file():
            raise UserError(f"model.path={path}: {folder} holds no model; build it with `make {target}`")
        return str(folder)
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
        f"model.path={path}: no such folder; give {' or '.join(SHIPPED)}, a model folder, a .gguf file, "
        "or a Hub id such as Qwen/Qwen2-0.5B"
    )


def require_fetched(path: Path, key: str) -> None:
    """Raises UserError where a file, or a file in this folder, is a git-lfs pointer. `key`: what named it."""
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if not file.is_file():
            continue
        try:
            with file.open("rb") as f:
                start = f.read(len(LFS_POINTER))
        except OSError:
            continue  # whoever needs it says so
        if start == LFS_POINTER:
            raise UserError(f"{key}={path}: {file.name} is a git-lfs pointer, not the file; run `git lfs pull`")


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


def load_model(path: str, dtype: torch.dtype | None = None, device: str = "cpu") -> Any:
    """The causal language model, in fp32 by default. Raises UserError where it cannot be loaded, or not all of it.

    A folder's weights have to be safetensors: a checkpoint has no others, and a pickle is not read. On device "meta"
    no weight is read; whether all of them are there is checked all the same.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    said = logging.get_verbosity()
    logging.set_verbosity_error()  # its report of what is missing takes a screen; `require_whole` says it in a line
    try:
        model, info = _load(
            AutoModelForCausalLM,
            path,
            dtype=dtype or torch.float32,
            use_safetensors=True if Path(path).is_dir() else None,  # None: the Hub's safetensors where there are some
            device_map=device if device == "meta" else None,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    finally:
        logging.set_verbosity(said)
    require_whole(path, model, info)
    if any(name.startswith("attn") and "softcap" in name and cap for name, cap in vars(model.config).items()):
        model.set_attn_implementation("eager")  # the others leave the cap out
    return model


def require_whole(path: str, model: Any, info: Mapping[str, Any]) -> None:
    """Raises UserError unless the files held each of the model's weights, and none for a part of it that it lacks.

    `info`: what transformers says of the loading. A weight that is missing would be random, and one that has no place
    (of a layer more than the config has, a bias that it switches off) would be lost; a value head or the like is not
    the model's.
    """
    owners = {_anywhere(name) for name, module in model.named_modules() if module._parameters}
    unknown = sorted(info["unexpected_keys"])
    found = {
        "lack": sorted(info["missing_keys"]),
        "hold in another shape": sorted(key[0] for key in info["mismatched_keys"]),
        "hold without a place in the model": [k for k in unknown if _anywhere(k.rpartition(".")[0]) in owners],
    }
    wrong = [f"{what} {_listed(names)}" for what, names in found.items() if names]
    if not wrong:
        return
    if unknown and not found["hold without a place in the model"]:
        wrong.append(f"hold {_listed(unknown)} that the model does not know")
    raise UserError(
        f"model.path={path}: its files do not fit {type(model).__name__}: they {' and '.join(wrong)}; "
        "give a model whose files and config.json belong together"
    )


def _anywhere(name: str) -> str:
    """The name with each layer's number left out."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name)


def _listed(names: Sequence[str]) -> str:
    return f"{len(names)} weight{'s' * (len(names) > 1)} ({listed(names)})"


def generation_file(path: str) -> bytes | None:
    """The model's generation_config.json as it is, where it has one."""
    from transformers.utils import cached_file

    found = cached_file(
        path,
        "generation_config.json",
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return Path(found).read_bytes() if found else None


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
    except (OSError, ValueError, LookupError, RuntimeError, ImportError, SafetensorError) as e:
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
