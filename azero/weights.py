"""Weights as one flat buffer: what travels from learner to engines."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from azero.types import TensorSpec


def flatten(
    state: Mapping[str, Tensor], dtype: torch.dtype, out: np.ndarray | None = None
) -> tuple[np.ndarray, tuple[TensorSpec, ...]]:
    """(bytes [n] uint8, manifest): all tensors cast to `dtype`, one after the other, copied once.

    `out`, of an earlier call with the same state, is overwritten: new memory takes three times as long to fill.
    """
    specs, offset = [], 0
    for name, tensor in state.items():
        specs.append(TensorSpec(name=name, shape=tuple(tensor.shape), offset=offset))
        offset += tensor.numel()
    flat = torch.from_numpy(out).view(dtype) if out is not None and out.size else torch.empty(offset, dtype=dtype)
    for spec, tensor in zip(specs, state.values(), strict=True):
        flat[spec.offset : spec.offset + tensor.numel()].copy_(tensor.detach().reshape(-1))
    return flat.view(torch.uint8).numpy(), tuple(specs)


def unflatten(buffer: np.ndarray, manifest: Sequence[TensorSpec], dtype: str) -> dict[str, Tensor]:
    """name -> tensor, views into `buffer` (which may be read-only shared memory: do not write)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        flat = torch.from_numpy(buffer).view(getattr(torch, dtype))
    return {s.name: flat[s.offset : s.offset + int(np.prod(s.shape))].view(s.shape) for s in manifest}


def owned_state(model: torch.nn.Module) -> dict[str, Tensor]:
    """The state dict with tied tensors once: the first name in order, which for a tied head is the embedding's."""
    seen: set[int] = set()
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            state[name] = tensor.detach()
    return state
