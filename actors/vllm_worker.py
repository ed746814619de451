"""What runs inside vLLM's worker process or processes: replacing weights and reading them back, sampling."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from actors.vllm_readback import Placement, Readback, Reading, Weights, repack
from azero.models.adapters import PREFIX

MODEL = 0  # among the numbers of adapters, which begin at 1


class WeightLoader:
    """Mixed into vLLM's worker class (`worker_extension_cls`), so its methods are reached by `collective_rpc`."""

    model_runner: Any  # the worker's

    def replace_weights(self, weights: Weights, number: int = MODEL) -> None:
        """Copy all weights (HF names, tied head left out) into the model, or those of the adapter `number` into it.

        The caller resets the prefix cache, or names the adapter anew in requests, so that no cache of the old is read.
        """
        if number == MODEL:
            self.model_runner.reload_weights(weights_iterator=iter(weights))
            self.refresh_head()
        else:
            readback = self.readbacks.get(number)
            replace_adapter(self._adapter_manager, number, readback.noted(weights) if readback else weights)

    def learn_placements(
        self, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, number: int
    ) -> dict[str, Placement]:
        """Learn where each tensor lies. Call once, before the first real weights: those that are there are lost."""
        readback = Readback(self.model_runner.get_model(), dtype)
        if number != MODEL:
            readback = AdapterReadback(self._adapter_manager, number, dtype)
        found = readback.learn(shapes, partial(self.replace_weights, number=number))
        self.readbacks[number] = readback
        return found

    def read_weights(self, number: int) -> Reading:
        return self.readbacks[number].read()

    @property
    def _adapter_manager(self) -> Any:
        return self.model_runner.lora_manager._adapter_manager

    @property
    def readbacks(self) -> dict[int, Readback]:
        return vars(self).setdefault("_readbacks", {})

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


def refresh_head(model: nn.Module) -> None:
    """Pack the output head again, on CPU.

    vLLM packs linear layers for oneDNN. A reload packs again each layer that was given weights; a head that is tied to
    the embedding is given none, and would go on multiplying by the old ones (0.8 to 3 nats off) with no error.
    """
    head = getattr(model, "lm_head", None)
    if head is not None and hasattr(head, "cpu_linear"):
        repack(head)


class AdapterReadback(Readback):
    """Reads the digests of one adapter in the buffers that vLLM's layers multiply by."""

    def __init__(self, manager: Any, number: int, dtype: torch.dtype) -> None:
        """`manager`: vLLM's LoRAModelManager. `number`: the adapter's, there."""
        super().__init__(manager.model, dtype)
        self.manager, self.number, self.rank = manager, number, 0

    def learn(self, shapes: Mapping[str, tuple[int, ...]], load: Callable[[Weights], None]) -> dict[str, Placement]:
        self.rank = next(shape[0] for name, shape in shapes.items() if ".lora_A." in name)
        return super().learn(shapes, load)

    def _record_packing(self) -> None: ...

    def _watch(self) -> None: ...

    def _stale_copies(self, wholes: dict[str, int]) -> set[str]:
        return set()  # nothing is packed

    def _is_whole(self, key: str) -> bool:
        return False

    def _tensors(self) -> Iterator[tuple[str, nn.Module, Tensor]]:
        slot = self.manager.lora_index_to_id.index(self.number)
        for path, module in self.manager.modules.items():
            for side in ("lora_a", "lora_b"):
                for i, stacked in enumerate(getattr(module, f"{side}_stacked")):
                    mine = stacked[slot]  # with room for a larger rank, which stays 0
                    mine = mine[..., : self.rank, :] if side == "lora_a" else mine[..., : self.rank]
                    yield f"{path}.{side}.{i}", module, mine


def replace_adapter(manager: Any, number: int, weights: Weights) -> None:
    """Have vLLM hold these tensors as the adapter `number`, whose factor is in B already."""
    from vllm.lora.lora_model import LoRAModel
    from vllm.lora.peft_helper import PEFTHelper

    tensors = {PREFIX + name: tensor for name, tensor in weights}
    rank = next(len(t) for name, t in tensors.items() if ".lora_A." in name)
    mapper = getattr(manager.model, "hf_to_vllm_mapper", None)
    adapter = LoRAModel.from_lora_tensors(
        number,
        tensors,
        PEFTHelper(r=rank, lora_alpha=rank, target_modules=[]),
        device="cpu",
        dtype=manager.lora_config.lora_dtype,
        weights_mapper=mapper.get_rename_mapper() if mapper is not None else None,
    )
    manager.remove_adapter(number)
    manager.add_adapter(adapter)
    manager.activate_adapter(number)
