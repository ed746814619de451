"""Products with adapters on CPU, where vLLM's own copy an adapter's matrices for every token of the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

RUNS = 4  # of tokens of one adapter in a row: with more, the tokens of each adapter are copied together


class GroupedProducts(PunicaWrapperCPU):
    """Two products a layer and adapter, each for all of its tokens at once."""

    _groups: Sequence[tuple[int, slice | Tensor]] = ()  # slot, its tokens

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        super().update_metadata(*args, **kwargs)
        self._groups = groups(self.token_lora_indices)

    def add_lora_linear(
        self,
        y: Tensor,
        x: Tensor,
        lora_a_stacked: tuple[Tensor, ...],
        lora_b_stacked: tuple[Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **_: Any,
    ) -> None:
        """Add scale * x A' B' of each token's adapter to y [tokens, outputs], in place.

        A is [slots, 1, rank, inputs] and B [slots, 1, outputs, rank], a pair for each slice of the outputs.
        """
        out, tokens = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        for slot, chosen in self._groups:
            mine, start = tokens[chosen], 0
            for a, b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
                part = out[:, start : start + width]
                low = linear(mine, a[slot, 0])
                if isinstance(chosen, slice):
                    part[chosen].addmm_(low, b[slot, 0].T, alpha=scale)
                else:
                    part.index_add_(0, chosen, linear(low, b[slot, 0]), alpha=scale)
                start += width


def groups(slots: Tensor) -> Sequence[tuple[int, slice | Tensor]]:
    """(slot, its tokens) of `slots` [tokens], of which -1 is no adapter: as few runs, or all of a slot at once."""
    few = runs(slots)
    if len(few) <= RUNS:
        return few
    return [(slot, (slots == slot).nonzero()[:, 0]) for slot in torch.unique(slots).tolist() if slot >= 0]


def runs(slots: Tensor) -> list[tuple[int, slice | Tensor]]:
    """(slot, its tokens) of each run of equal `slots` [tokens], of which -1 is no adapter."""
    values, counts = torch.unique_consecutive(slots, return_counts=True)
    found, start = list[tuple[int, slice | Tensor]](), 0
    for slot, count in zip(values.tolist(), counts.tolist(), strict=True):
        if slot >= 0:
            found.append((slot, slice(start, start + count)))
        start += count
    return found


def group_products(manager: Any) -> None:
    """Have all layers of vLLM's LoRAModelManager multiply so."""
    for prefix, theirs in manager.punica_wrapper_mapping.items():
        ours = GroupedProducts(manager.max_num_batched_tokens, max_batches=manager.max_num_seqs, device=theirs.device)
        manager.punica_wrapper_mapping[prefix] = ours
        for module in manager.modules.values():
            if module.punica_wrapper is theirs:
                module.set_mapping(ours)
