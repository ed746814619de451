"""Adapters inside vLLM's worker: loading them from memory, and reading them back where they are multiplied by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from actors.vllm_readback import Placement, Readback, Weights
from azero.models.adapters import PREFIX

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # for which vLLM makes room


def room_for(ranks: Sequence[int]) -> int:
    """The rank for which vLLM is to make room: the smallest of its own that holds all."""
    return next(r for r in RANKS if r >= max(ranks))


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
