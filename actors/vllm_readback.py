"""Digests of what vLLM computes with, under the names of the published weights.

vLLM holds weights in forms of its own: query, key and value in one matrix, padded, transposed, interleaved, split over
workers, and on CPU packed for oneDNN, of which no byte can be read again. Where each published tensor lies is learned
from vLLM's own loader, which is given marked weights before the first real ones:

    each tensor filled with a number of its own  ->  which tensors a parameter of vLLM holds, and where
    all tensors with the same random sequence    ->  whether a tensor lies there whole and in its own order

What lies whole and in order has the published digest, byte by byte. The rest is compared as a sum over elements, which
takes no notice of their order: that of a parameter is the sum of those of the tensors that it holds, over all workers.
A packed copy carries the digest of what was packed.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, wraps
from itertools import chain
from math import prod
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from azero.models.weights import digest, exactly, value_sum
from azero.types import HeldWeights

NORMAL = range(0x0080, 0x7F80)  # bits of bfloat16's positive normal numbers; in float32 they are the upper half
SIGN = 0x8000
STALE = -1  # no digest
Weights = Iterable[tuple[str, Tensor]]

# Modules whose packed weight replaces the plain one -> what is to be kept of the plain one.
_readers: WeakKeyDictionary[nn.Module, Callable[[Tensor], Any]] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Placement:
    """The places of published tensors in one parameter of one worker, flattened. Starts and lengths count elements."""

    pieces: tuple[tuple[str, int, int], ...] = ()  # (name, start, length): whole tensors in their own order
    spans: tuple[tuple[int, int], ...] = ()  # (start, length): elements of `members`, in whatever order
    members: Mapping[str, int] = field(default_factory=dict)  # name -> its elements in `spans`


@dataclass(frozen=True, slots=True)
class Reading:
    """The digests of what one worker holds now, and of what it was given."""

    pieces: tuple[tuple[str, int], ...]  # (name, digest)
    sums: Mapping[str, int]  # parameter -> sum over its spans
    given: Mapping[str, tuple[int, int]]  # member -> (digest, sum over its elements), as it came to the worker
    seconds: float  # that reading took since the last time, what was read while packing too


class Readback:
    """Reads the digests of one worker's model."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        self.model, self.dtype = model, dtype
        self.placements: dict[str, Placement] = {}
        self._read: Callable[[str, Tensor], Any] = self._digests
        self._members: set[str] = set()  # tensors that are compared by sums
        self._given: dict[str, tuple[int, int]] = {}
        self._seconds = 0.0

    def learn(self, shapes: Mapping[str, tuple[int, ...]], load: Callable[[Weights], None]) -> dict[str, Placement]:
        """Placements by parameter. Leaves marks in the model, in place of weights."""
        self._record_packing()
        marks = {name: _mark(i, self.dtype) for i, name in enumerate(shapes)}
        names = {mark.item(): name for name, mark in marks.items()}
        runs = self._after(
            load,
            ((name, mark.expand(shapes[name])) for name, mark in marks.items()),
            lambda key, tensor: _runs(tensor, names),
        )
        base = _random(max(map(prod, shapes.values())), self.dtype)
        in_order = self._after(
            load,
            ((name, base[: prod(shape)].view(shape)) for name, shape in shapes.items()),
            lambda key, tensor: [torch.equal(tensor[a : a + n], base[:n]) for _, a, n in runs.get(key, ())],
        )
        self.placements = {key: _placement(runs[key], in_order[key], shapes) for key in in_order if runs[key]}
        self._read = self._digests
        self._members = {name for p in self.placements.values() for name in p.members}
        if self._members:
            self._watch()
        return self.placements

    def _record_packing(self) -> None:
        record_packing()
        for path, module in self.model.named_modules():
            _readers[module] = partial(self._record, _join(path, "weight"))
            if _is_packed(module) and module.weight.numel():
                repack(module)  # with a record: loading may leave out a tied head

    def _after(self, load: Callable[[Weights], None], weights: Weights, read: Callable[[str, Tensor], Any]) -> Any:
        """Load `weights`; returns what `read` then gives of each parameter."""
        self._read = read
        load(weights)
        return {key: found for key, (by, found) in self._readings(lambda key: True) if by is read}

    def read(self) -> Reading:
        pieces: list[tuple[str, int]] = []
        sums: dict[str, int] = {}
        found = {
            key: content if by == self._digests else None  # None: not packed since before the first real weights
            for key, (by, content) in self._readings(self.placements.__contains__)
        }
        whole = {key: c[0][0] for key, c in found.items() if c and self._is_whole(key)}
        for key in self._stale_copies(whole) & found.keys():
            found[key] = None
        for key, content in found.items():
            placement = self.placements[key]
            digests, total = content or ([STALE] * len(placement.pieces), STALE)
            pieces += zip((name for name, _, _ in placement.pieces), digests, strict=True)
            if placement.spans:
                sums[key] = total
        seconds, self._seconds = self._seconds, 0.0
        return Reading(tuple(pieces), sums, dict(self._given), seconds)

    def _is_whole(self, key: str) -> bool:
        """Whether the parameter is one published tensor and nothing else."""
        path, _, name = key.rpartition(".")
        tensor = getattr(self.model.get_submodule(path), name)
        return [n for _, _, n in self.placements[key].pieces] == [tensor.numel()] and tensor.dtype == self.dtype

    def _readings(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, tuple[Any, Any]]]:
        """(parameter, (reader, what it gave)) of all that holds weights; of what is gone, when it was packed."""
        for key, module, tensor in self._tensors():
            if tensor.numel() and wanted(key):
                yield key, self._record(key, tensor)
            elif _is_packed(module) and key.endswith("weight") and wanted(key):
                yield key, getattr(module.cpu_linear, "record", (None, None))

    def _tensors(self) -> Iterator[tuple[str, nn.Module, Tensor]]:
        """(parameter or buffer, its module, tensor); those that share memory once."""
        seen: set[int] = set()
        for path, module in self.model.named_modules():
            for name, tensor in chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False)):
                if not tensor.numel() or tensor.data_ptr() not in seen:
                    seen.add(tensor.data_ptr())
                    yield _join(path, name), module, tensor.detach()

    def _stale_copies(self, wholes: dict[str, int]) -> set[str]:
        """Parameters beside which some packed copy is of other values. `wholes`: digests that are known already."""
        began = time.perf_counter()
        keys = {tensor.data_ptr(): key for key, _, tensor in self._tensors() if tensor.numel()}
        stale = set()
        module: Any
        for module in filter(_is_packed, self.model.modules()):
            if module.weight.numel():
                key = keys[module.weight.data_ptr()]
                whole = wholes[key] if key in wholes else wholes.setdefault(key, digest(module.weight))
                if getattr(module.cpu_linear, "record", None) != whole:
                    stale.add(key)
        self._seconds += time.perf_counter() - began
        return stale

    def _record(self, key: str, tensor: Tensor) -> tuple[Any, Any]:
        """(the present reader, what it gives)."""
        began = time.perf_counter()
        found = self._read(key, exactly(tensor.detach(), self.dtype).flatten())
        self._seconds += time.perf_counter() - began
        return self._read, found

    def _digests(self, key: str, tensor: Tensor) -> tuple[list[int], int]:
        placement = self.placements.get(key, Placement())
        digests = [digest(tensor[a : a + n]) for _, a, n in placement.pieces]
        return digests, sum(value_sum(tensor[a : a + n]) for a, n in placement.spans)

    def _watch(self) -> None:
        """Note what comes to the worker of the tensors that are compared by sums."""
        model: Any = self.model
        load_weights = model.load_weights
        model.load_weights = lambda weights, *args, **kwargs: load_weights(self.noted(weights), *args, **kwargs)

    def noted(self, weights: Weights) -> Weights:
        for name, tensor in weights:
            if name in self._members:
                began = time.perf_counter()
                self._given[name] = digest(tensor), value_sum(tensor)
                self._seconds += time.perf_counter() - began
            yield name, tensor


def held_weights(
    placements: Sequence[Mapping[str, Placement]], readings: Sequence[Reading], shapes: Mapping[str, tuple[int, ...]]
) -> HeldWeights:
    """The digests of all workers as one: a tensor has the published one only where each worker that has it agrees."""
    found: dict[str, set[int]] = {}
    for name, value in chain.from_iterable(r.pieces for r in readings):
        found.setdefault(name, set()).add(value)
    in_order = set(found)
    given: dict[str, set[tuple[int, int]]] = {}
    for name, pair in chain.from_iterable(r.given.items() for r in readings):
        given.setdefault(name, set()).add(pair)
    for key in set(chain.from_iterable(r.sums for r in readings)):
        parts = [r.sums[key] for r in readings if key in r.sums]
        members = _members(placements, key)
        pairs = {name: next(iter(given[name])) if len(given.get(name, ())) == 1 else (STALE, 0) for name in members}
        # A tensor that lies on several workers whole, or that one worker repeats, counts as often.
        expected = sum(pairs[name][1] * (count // prod(shapes[name])) for name, count in members.items())
        agrees = STALE not in parts and (sum(parts) - expected) % 2**64 == 0
        for name, (value, _) in pairs.items():
            found.setdefault(name, set()).add(value if agrees else STALE)
    return HeldWeights(
        digests={name: values.pop() if len(values) == 1 else STALE for name, values in found.items()},
        in_order=len(in_order),
        seconds=max(r.seconds for r in readings),
    )


def unprovable(placements: Sequence[Mapping[str, Placement]], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Published tensors of which no worker holds all elements as they are."""
    found = {name for worker in placements for p in worker.values() for name, _, _ in p.pieces}
    for key in set(chain.from_iterable(placements)):
        members = _members(placements, key)
        uneven = {name for name, count in members.items() if count % prod(shapes[name])}
        found = (found | members.keys()) - uneven
    return [name for name in shapes if name not in found]


def _members(placements: Sequence[Mapping[str, Placement]], key: str) -> Counter[str]:
    """name -> its elements in one parameter, over all workers."""
    return sum((Counter(p[key].members) for p in placements if key in p), Counter[str]())


def record_packing() -> None:
    """Have each packed weight carry a record of what was packed: the digest of a plain weight that stays."""
    from vllm.model_executor.layers import utils

    pack = utils.dispatch_cpu_unquantized_gemm
    if hasattr(pack, "__wrapped__"):
        return

    @wraps(pack)
    def recording(layer: Any, remove_weight: bool) -> None:
        weight, read = layer.weight, _readers.get(layer)
        pack(layer, remove_weight)
        if read is not None and _is_packed(layer):
            layer.cpu_linear.record = digest(weight) if layer.weight.numel() else read(weight)

    utils.dispatch_cpu_unquantized_gemm = recording


def repack(module: nn.Module) -> None:
    """Pack a weight that stays beside its packed copy."""
    from vllm.model_executor.layers import utils

    utils.dispatch_cpu_unquantized_gemm(module, remove_weight=False)


def _is_packed(module: nn.Module) -> bool:
    """Whether vLLM multiplies by a copy, which its function then encloses."""
    function = vars(module).get("cpu_linear")  # its own, and not that of a layer which it wraps
    return isinstance(function, FunctionType) and function.__closure__ is not None


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _mark(index: int, dtype: torch.dtype) -> Tensor:
    """The number of one tensor, the same in both types."""
    sign, place = divmod(index, len(NORMAL))
    bits = torch.tensor(NORMAL[place] - sign * SIGN, dtype=torch.int16)
    return bits.view(torch.bfloat16).to(dtype)


def _runs(tensor: Tensor, names: Mapping[float, str]) -> list[tuple[str, int, int]]:
    """(name, start, length) of each row of equal marks. `names`: by mark."""
    values, counts = torch.unique_consecutive(tensor, return_counts=True)
    starts = counts.cumsum(0) - counts
    rows = zip(values.tolist(), starts.tolist(), counts.tolist(), strict=True)
    return [(names[value], start, count) for value, start, count in rows if value in names]


def _random(count: int, dtype: torch.dtype) -> Tensor:
    """Normal numbers of all sizes, with a generator of their own."""
    integers = {2: torch.int16, 4: torch.int32}[dtype.itemsize]
    low, high = (bits << 8 * (dtype.itemsize - 2) for bits in (NORMAL.start, NORMAL.stop))
    generator = torch.Generator().manual_seed(0)
    return torch.randint(low, high, (count,), dtype=integers, generator=generator).view(dtype)


def _placement(
    runs: Sequence[tuple[str, int, int]], in_order: Sequence[bool], shapes: Mapping[str, tuple[int, ...]]
) -> Placement:
    pieces: list[tuple[str, int, int]] = []
    spans: list[tuple[int, int]] = []
    members = Counter[str]()
    for (name, start, length), is_in_order in zip(runs, in_order, strict=True):
        if is_in_order and length == prod(shapes[name]):
            pieces.append((name, start, length))
            continue
        members[name] += length
        if spans and sum(spans[-1]) == start:
            start, length = spans[-1][0], spans[-1][1] + length
            spans.pop()
        spans.append((start, length))
    return Placement(tuple(pieces), tuple(spans), dict(members))
