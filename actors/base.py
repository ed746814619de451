"""What both engines share: tokenizer, end tokens, and the check of what `load` is given."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from azero.config import AdapterConfig
from azero.engine import Engine
from azero.errors import SyncError, UserError, first_line, listed
from azero.models.adapters import adapter_shapes
from azero.models.loading import eos_ids, load_configs, load_model, load_tokenizer, positions
from azero.models.weights import owned_state
from azero.types import SHARED, Sampling, WeightVersion


class ModelTexts:
    """Encodes texts as a transformers model folder or Hub id does, and limits their length. It holds no weights."""

    def __init__(self, path: str, max_model_len: int | None = None) -> None:
        self.path = path
        self.use_tokenizer(load_tokenizer(path))
        self.configs = load_configs(path)  # the model's, and that of its generation
        self.max_tokens = min(n for n in (max_model_len, positions(self.configs[0]), sys.maxsize) if n)

    def use_tokenizer(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        whole, bare = (tokenizer.encode("1", add_special_tokens=added) for added in (True, False))
        # What the tokenizer puts before a text. What it appends would end the prompt, and is left off.
        self._begin = tuple(whole[: whole.index(bare[0])] if bare else ())

    def encode(self, text: str, rendered: bool = False, policy: str = SHARED) -> tuple[int, ...]:
        ids = tuple(self.tokenizer.encode(text, add_special_tokens=False))
        written = rendered or ids[: len(self._begin)] == self._begin
        return ids if written else self._begin + ids

    def chat_template(self, user_message: str, policy: str = SHARED) -> str:
        if self.tokenizer.chat_template is None:
            raise UserError(
                f"model.path={self.path}: its tokenizer has no chat template; "
                "use task.protocol=raw and eval.protocol=raw"
            )
        messages = [{"role": "user", "content": user_message}]
        try:
            prompt = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as e:  # a template is a program, and fails as it likes
            why = f"fails on one user message with {type(e).__name__}: {first_line(e)}"
        else:
            if user_message.strip() in prompt:
                return prompt
            why = "leaves out the message of the user"
        raise UserError(
            f"model.path={self.path}: its chat template {why}; repair it, or use task.protocol=raw and "
            "eval.protocol=raw"
        ) from None


class ModelEngine(ModelTexts, Engine):
    """An engine of one transformers model folder or Hub id, and of the adapters on it."""

    def __init__(
        self,
        path: str,
        max_model_len: int | None = None,
        net: str = SHARED,
        adapters: Mapping[str, AdapterConfig] | None = None,
    ) -> None:
        """`net`: the policy of the model's own weights, or the base that the `adapters`, by policy, share."""
        super().__init__(path, max_model_len)
        self.net, self.adapters = net, adapters or {}
        self.versions: dict[str, WeightVersion | None] = dict.fromkeys((net, *self.adapters))
        config, generation_config = self.configs
        self.eos_ids = eos_ids(config, generation_config, self.tokenizer)  # each ends a completion
        self.expected = {net: weight_shapes(config), **(adapter_shapes(config, self.adapters) if self.adapters else {})}
        load_model(path, device="meta")  # raises UserError where weights are missing, which vLLM may fill with noise

    @property
    def version(self) -> WeightVersion | None:
        """That of all policies; None where one has none, or they differ."""
        held = set(self.versions.values())
        return held.pop() if len(held) == 1 else None

    def step_of(self, policy: str) -> int:
        """That of the policy's weights, for its completions; -1 before the first load. Raises KeyError."""
        version = self.versions[policy]
        return -1 if version is None else version.step

    def load(self, version: WeightVersion, weights: Mapping[str, Any], policy: str = SHARED) -> None:
        """Raises SyncError where names or shapes do not fit. Nothing may be in flight."""
        self.idle_for("load")
        tensors = {n: w if isinstance(w, Tensor) else torch.from_numpy(w) for n, w in weights.items()}
        self.check_shapes({name: tuple(tensor.shape) for name, tensor in tensors.items()}, policy)
        self.versions[policy] = None
        self._replace(version, tensors, policy)
        self.versions[policy] = version

    def _replace(self, version: WeightVersion, tensors: Mapping[str, Tensor], policy: str) -> None:
        """Put the checked tensors in the place of the policy's own."""
        raise NotImplementedError

    def forget(self) -> None:
        self.versions = dict.fromkeys(self.versions)

    def keep(self, version: WeightVersion, policy: str = SHARED) -> None:
        assert self.versions[policy] is not None, f"nothing of {policy} was loaded"
        self.versions[policy] = version

    def require_room(self, prompt_ids: Sequence[int], sampling: Sampling) -> None:
        """Raises UserError where prompt and completion do not fit."""
        longest = len(prompt_ids) + sampling.max_new_tokens
        if longest > self.max_tokens:
            raise UserError(
                f"rollout.max_model_len={self.max_tokens}: a prompt of {len(prompt_ids)} tokens and "
                f"{sampling.max_new_tokens} new ones need {longest}; raise it"
            )

    def warm_up(self) -> None:
        """Run every path once, so that the first real call is not several times slower. Draws from the generator."""
        prompt = (0,) * 8
        for temperature, n in ((0.0, 1), (1.0, 2)):  # vLLM takes greedy requests one sample at a time
            for policy in self.versions:
                tag = (temperature, policy)
                self.submit(tag, prompt, n, Sampling(temperature=temperature, max_new_tokens=2), policy)
        while self.busy():
            self.step()
        self.score([prompt], self.net)

    def sleep(self) -> None: ...

    def wake(self) -> None: ...

    def close(self) -> None: ...

    def idle_for(self, what: str) -> None:
        """Raises RuntimeError where requests are in flight."""
        if self.busy():
            raise RuntimeError(f"{what} while requests are in flight: step until busy() is false first")

    def check_shapes(self, given: Mapping[str, tuple[int, ...]], policy: str) -> None:
        """Raises SyncError unless names and shapes are exactly those of the policy."""
        expected = self.expected[policy]
        missing, unknown = expected.keys() - given.keys(), given.keys() - expected.keys()
        if missing or unknown:
            raise SyncError(f"weights do not fit {self.path}: {_some('missing', missing)}, {_some('unknown', unknown)}")
        for name, shape in given.items():
            if shape != expected[name]:
                raise SyncError(f"weights do not fit {self.path}: {name} has shape {shape}, not {expected[name]}")


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


def _some(what: str, names: Collection[str]) -> str:
    return f"{len(names)} {what}" + (f" ({listed(names)})" if names else "")
