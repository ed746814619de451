"""Weights as one flat buffer: what travels from learner to engines."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from azero.types import TensorSpec

ADAPTER_PART = re.compile(r"\.lora_[AB]\.")


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
    """The state dict with tied tensors once: the first name in order, which for a tied head is the embedding's.

    Adapters on the model (models/adapters.py) are left out, and change no name.
    """
    seen: set[int] = set()
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen and not ADAPTER_PART.search(name):
            seen.add(id(tensor))
            state[name.replace(".base_layer.", ".")] = tensor.detach()
    return state


WORDS = 2**12  # of 8 bytes, to a row of `digest`


def digest(tensor: Tensor) -> int:
    """64 bits of a tensor's bytes in their order: the sum over its words of word times an odd random number.

    A change of any one word changes it; other changes go unseen with the probability of chance. One pass, at the speed
    of memory. Longer tensors are the digest of the sums of their rows.
    """
    raw = tensor.detach().reshape(-1).view(torch.uint8)
    if rest := raw.numel() % 8:
        raw = torch.nn.functional.pad(raw, (0, 8 - rest))
    words = (raw.clone() if raw.storage_offset() % 8 else raw).view(torch.int64)
    while len(words) > WORDS:
        whole = len(words) // WORDS * WORDS
        rows, last = _weighted(words[:whole].view(-1, WORDS)), words[whole:]
        words = torch.cat([rows, _weighted(last[None])]) if len(last) else rows
    return int(_weighted(words[None]))


def value_sum(tensor: Tensor) -> int:
    """64 bits of a tensor's elements in whatever order: the sum of their scrambled bits. A zero adds 0."""
    flat = tensor.detach().reshape(-1)
    total = 0
    for part in flat.view({2: torch.int16, 4: torch.int32}[flat.element_size()]).split(2**16 if flat.is_cpu else 2**24):
        mixed = part.to(torch.int32) * -1640531527
        mixed ^= mixed >> 15
        mixed *= -2048144777
        mixed ^= mixed >> 13
        total += int(mixed.sum(dtype=torch.int64))
    return total % 2**64


def digests(buffer: np.ndarray, manifest: Sequence[TensorSpec], dtype: str) -> dict[str, int]:
    """name -> `digest` of each tensor of a buffer."""
    return {name: digest(tensor) for name, tensor in unflatten(buffer, manifest, dtype).items()}


def exactly(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in `dtype`, where that changes no value; else as it is."""
    cast = tensor.to(dtype)
    return cast if cast is tensor or torch.equal(cast.to(tensor.dtype), tensor) else tensor


def _weighted(words: Tensor) -> Tensor:
    """[rows] sums over [rows, up to WORDS] int64, modulo 2^64."""
    weights = _odd(words.device)[: words.shape[1]]
    if words.is_cpu:
        return words @ weights
    return torch.cat([(part * weights).sum(1) for part in words.split(2**10)])  # no such product on a GPU


@lru_cache
def _odd(device: torch.device) -> Tensor:
    raw = np.random.PCG64(0).random_raw(WORDS) | np.uint64(1)
    return torch.from_numpy(raw.view(np.int64)).to(device)
