"""What both engines share: tokenizer, end tokens, and the check of what `load` is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from azero.engine import Engine
from azero.errors import SyncError, UserError
from azero.models import eos_ids, load_configs, load_tokenizer
from azero.types import Sampling
from azero.weights import owned_state

LISTED = 3  # names in an error message


class ModelEngine(Engine):
    """An engine of one transformers model folder or Hub id."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.version = -1
        self.tokenizer = load_tokenizer(path)
        config, generation_config = load_configs(path)
        self.eos_ids = eos_ids(config, generation_config)  # each ends a completion
        self.expected = weight_shapes(config)

    def encode(self, text: str) -> tuple[int, ...]:
        bos = self.tokenizer.bos_token
        rendered = bool(bos) and text.startswith(bos)  # by a chat template, which writes it out
        return tuple(self.tokenizer.encode(text, add_special_tokens=not rendered))

    def chat_template(self, user_message: str) -> str:
        if self.tokenizer.chat_template is None:
            raise UserError(
                f"model.path={self.path}: its tokenizer has no chat template; "
                "use task.protocol=raw and eval.protocol=raw"
            )
        messages = [{"role": "user", "content": user_message}]
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def warm_up(self) -> None:
        """Run every path once, so that the first real call is not several times slower. Draws from the generator."""
        prompt = (0,) * 8
        for temperature, n in ((0.0, 1), (1.0, 2)):  # vLLM takes greedy requests one sample at a time
            self.submit(temperature, prompt, n, Sampling(temperature=temperature, max_new_tokens=2))
        while self.busy():
            self.step()
        self.score([prompt])

    def sleep(self) -> None: ...

    def wake(self) -> None: ...

    def close(self) -> None: ...

    def idle_for(self, what: str) -> None:
        """Raises RuntimeError where requests are in flight."""
        if self.busy():
            raise RuntimeError(f"{what} while requests are in flight: step until busy() is false first")

    def checked(self, weights: Mapping[str, Any]) -> dict[str, Tensor]:
        """The weights as tensors. Raises SyncError unless names and shapes are exactly those of the model."""
        tensors = {n: w if isinstance(w, Tensor) else torch.from_numpy(w) for n, w in weights.items()}
        self.check_shapes({name: tuple(tensor.shape) for name, tensor in tensors.items()})
        return tensors

    def check_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raises SyncError unless names and shapes are exactly those of the model."""
        missing, unknown = self.expected.keys() - shapes.keys(), shapes.keys() - self.expected.keys()
        if missing or unknown:
            raise SyncError(f"weights do not fit {self.path}: {_some('missing', missing)}, {_some('unknown', unknown)}")
        for name, shape in shapes.items():
            if shape != self.expected[name]:
                raise SyncError(f"weights do not fit {self.path}: {name} has shape {shape}, not {self.expected[name]}")


def weight_shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every weight that a model of this config owns; tied tensors once. No memory is allocated."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return {name: tuple(tensor.shape) for name, tensor in owned_state(model).items()}


def score_length(sequences: Sequence[Sequence[int]]) -> int:
    """Tokens of the longest sequence. Raises ValueError for a sequence of which nothing can be scored."""
    if any(len(s) < 2 for s in sequences):
        raise ValueError("a sequence to score needs two tokens or more")
    return max(map(len, sequences), default=0)


def _some(what: str, names: set[str]) -> str:
    listed = ", ".join(sorted(names)[:LISTED]) + (", ..." if len(names) > LISTED else "")
    return f"{len(names)} {what}" + (f" ({listed})" if names else "")
