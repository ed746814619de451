"""Models in GGUF files: converted once to a plain transformers folder, which is what everything else reads."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import struct
import tempfile
from pathlib import Path

from azero.errors import UserError


def is_gguf(path: str) -> bool:
    return path.lower().endswith(".gguf")


def converted(file: Path) -> Path:
    """The folder with the file's model in fp32 and its tokenizer, made on first use. Raises UserError.

    It lies in $XDG_CACHE_HOME/azero (or ~/.cache/azero), named by the file's content; half a conversion is never seen.
    """
    if not file.is_file():
        raise UserError(f"model.path={file}: no such file; give a .gguf file, a model folder or a Hub id")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "azero"
    with file.open("rb") as f:
        digest = hashlib.file_digest(f, "sha256").hexdigest()[:12]
    folder = cache / f"{file.stem}-{digest}"
    if not folder.is_dir():
        missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
        if missing:
            raise UserError(
                f"model.path={file}: reading GGUF needs {' and '.join(missing)}; install azero[gguf], "
                "or give a model folder or a Hub id"
            )
        try:
            cache.mkdir(parents=True, exist_ok=True)
            aside = Path(tempfile.mkdtemp(dir=cache, prefix=f".{folder.name}."))
        except OSError as e:
            raise UserError(
                f"model.path={file}: {cache} cannot be written ({e.strerror}); set XDG_CACHE_HOME"
            ) from None
        try:
            _convert(file, aside)
            aside.chmod(0o755)  # mkdtemp's is for its owner alone
            os.replace(aside, folder)
        except OSError:
            if not folder.is_dir():  # else another process was first
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return folder


def _convert(file: Path, out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    from azero.models.loading import require_whole

    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        quantised, info = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, LookupError, TypeError, NotImplementedError, struct.error) as e:  # of a damaged file
        why = " ".join(f"{type(e).__name__} {e}".split())[:200]
        raise UserError(f"model.path={file}: not loadable by transformers ({why})") from None
    require_whole(str(file), quantised, info)
    config = quantised.config
    del config.quantization_config  # the weights are plain by now; transformers would refuse to save them with it
    config._name_or_path = ""
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(quantised.state_dict())
    model.generation_config = quantised.generation_config
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
