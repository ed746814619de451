"""Products with adapters on CPU, where vLLM's own copy an adapter's matrices for every token of the batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU


class Slices(tuple[Tensor, ...]):
    """vLLM's matrices of one layer, a tensor a slice of its outputs, all of which lie in `whole`."""

    whole: Any


class JointProducts(PunicaWrapperCPU):
    """One product with the A of all adapters of a layer, and one with their B for each slice of its outputs.

    A batch that mixes adapters is multiplied by all of them, and what is not of a token's own is masked in between,
    where there are only rank numbers a token.
    """

    _only: int | None = None  # the slot of all tokens; -1: no token has an adapter, None: they differ
    _mask: Tensor  # [tokens, slots], 1 in the token's own

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        super().update_metadata(*args, **kwargs)
        slots = self.token_lora_indices
        low, high = slots.min().item(), slots.max().item()
        self._only = int(low) if low == high else None
        self._mask = (slots[:, None] == torch.arange(int(high) + 1)).float()

    def add_lora_linear(
        self,
        y: Tensor,
        x: Tensor,
        lora_a_stacked: Slices,
        lora_b_stacked: Slices,
        scale: float,
        output_slices: tuple[int, ...],
        **_: Any,
    ) -> None:
        """Add scale * x A' B' of each token's adapter to y [tokens, outputs], in place."""
        if self._only == -1:
            return
        out, tokens, start = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1]), 0
        whole: Tensor = lora_a_stacked.whole  # [slots, slices, rank, inputs]
        if self._only is not None:
            mine = whole[self._only : self._only + 1]
            low = linear(tokens, mine.flatten(0, 2)).view(-1, *mine.shape[:3])  # [tokens, 1, slices, rank]
        else:
            mine = whole[: self._mask.shape[1]]
            low = linear(tokens, mine.flatten(0, 2)).view(-1, *mine.shape[:3])  # [tokens, slots, slices, rank]
            low *= self._mask[:, :, None, None].to(low.dtype)
        first = self._only or 0
        for i, (b, width) in enumerate(zip(lora_b_stacked.whole, output_slices, strict=True)):
            back = b[:, first : first + low.shape[1]].flatten(1)  # [outputs, slots * rank]
            out[:, start : start + width].addmm_(low[:, :, i].flatten(1), back.T, alpha=scale)
            start += width


def joined(module: Any) -> None:
    """Give the layer's matrices a layout in which adapters lie beside each other; vLLM sees the shapes that it made."""
    a, b = module.lora_a_stacked, module.lora_b_stacked
    whole = torch.stack([part[:, 0] for part in a], dim=1)  # [slots, slices, rank, inputs]
    module.lora_a_stacked = Slices(whole[:, i : i + 1] for i in range(len(a)))
    module.lora_a_stacked.whole = whole
    wholes = [part[:, 0].transpose(0, 1).contiguous() for part in b]  # [outputs, slots, rank]
    module.lora_b_stacked = Slices(part.transpose(0, 1)[:, None] for part in wholes)
    module.lora_b_stacked.whole = wholes


def join_products(manager: Any) -> None:
    """Have all layers of vLLM's LoRAModelManager multiply so."""
    for prefix, theirs in manager.punica_wrapper_mapping.items():
        ours = JointProducts(manager.max_num_batched_tokens, max_batches=manager.max_num_seqs, device=theirs.device)
        manager.punica_wrapper_mapping[prefix] = ours
        for module in manager.modules.values():
            if module.punica_wrapper is theirs:
                module.set_mapping(ours)
                joined(module)
