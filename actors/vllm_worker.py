"""What runs inside vLLM's worker process or processes: replacing weights and reading them back, sampling."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from actors.vllm_adapters import AdapterReadback, replace_adapter
from actors.vllm_readback import Placement, Readback, Reading, repack


class WeightLoader:
    """Mixed into vLLM's worker class (`worker_extension_cls`), so its methods are reached by `collective_rpc`."""

    model_runner: Any  # the worker's

    def replace_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Copy all weights (HF names, tied head left out) into the model; the caller resets the prefix cache."""
        self.model_runner.reload_weights(weights_iterator=iter(weights))
        self.refresh_head()

    def learn_placements(self, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> dict[str, Placement]:
        """Learn where each tensor lies. Call once, before the first real weights: those of the model are lost."""
        self.readback = Readback(self.model_runner.get_model(), dtype)
        return self.readback.learn(shapes, self.replace_weights)

    def read_weights(self) -> Reading:
        return self.readback.read()

    def replace_adapter(self, number: int, weights: Sequence[tuple[str, Tensor]]) -> None:
        """Replace an adapter; the caller names it anew in requests, so that no cache of the old one is read."""
        readback = self.adapter_readbacks.get(number)
        replace_adapter(self._adapter_manager, number, readback.noted(weights) if readback else weights)

    def learn_adapter(
        self, number: int, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype
    ) -> dict[str, Placement]:
        """Learn where each tensor of an adapter lies. Call once; its weights are lost."""
        readback = AdapterReadback(self._adapter_manager, number, dtype)
        found = readback.learn(shapes, lambda weights: replace_adapter(self._adapter_manager, number, weights))
        self.adapter_readbacks[number] = readback
        return found

    def read_adapter(self, number: int) -> Reading:
        return self.adapter_readbacks[number].read()

    @property
    def _adapter_manager(self) -> Any:
        return self.model_runner.lora_manager._adapter_manager

    @property
    def adapter_readbacks(self) -> dict[int, AdapterReadback]:
        return vars(self).setdefault("_adapter_readbacks", {})

    def refresh_head(self) -> None:
        """Pack the output head again; call it after any change of the weights."""
        refresh_head(self.model_runner.get_model())

    def sample_on_cpu(self) -> None:
        """Take our sampler; call once, at the start."""
        from actors.vllm_sampler import CpuSampler

        self.model_runner.sampler = CpuSampler()

    def multiply_on_cpu(self) -> None:
        """Take our products with adapters; call once, at the start of an engine that has some."""
        from actors.vllm_products import join_products

        join_products(self._adapter_manager)

    def reseed_sampling(self, seed: int) -> None:
        """Unseeded requests draw from torch's global generator; vLLM's second GPU model runner from numpy's."""
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)


def refresh_head(model: torch.nn.Module) -> None:
    """Pack the output head again, on CPU.

    vLLM packs linear layers for oneDNN. A reload packs again each layer that was given weights; a head that is tied to
    the embedding is given none, and would go on multiplying by the old ones (0.8 to 3 nats off) with no error.
    """
    head = getattr(model, "lm_head", None)
    if head is not None and hasattr(head, "cpu_linear"):
        repack(head)
