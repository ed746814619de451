"""Weights from the learner straight to vLLM's workers, by vLLM's own NCCL weight transfer (`rollout.transfer: nccl`).

    RolloutActor, when it wants a version          learner's first worker
      prepare ------------------------------------>  is it held? a port, where the two have not met
      join     <----------- rendezvous ----------->  open
      receive  <----------- broadcast ------------>  send

Every actor has a group of its own with the learner, who is rank 0; the workers of its engine are the others. So an
actor loads when it comes to it and dies alone, as with the object store. A group of all would send once, but everyone
would wait for the slowest, and it would have to be made anew at each death.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import RayError
from torch import Tensor

from azero.errors import VersionGone
from azero.models.weights import unflatten
from azero.types import TensorSpec

SENDING = "sending"  # Ray's concurrency group of the actors' calls to a Sender
# Both sides have to agree. Packed, vLLM sends from streams that all groups of the process share, so that one actor
# that dies in the middle would stop the sending to all.
WIRE = {"packed": False}


@dataclass(slots=True)
class _Channel:
    process: str  # of the actor
    source: _Source
    stream: AbstractContextManager[Any]  # of its own, so that neither an update nor another actor waits for this one
    trainer: Any = None  # vLLM's side of the learner, once it is open


class Sender:
    """Sends weights from the learner's process, beside its updates. Each call runs in a thread of its own."""

    def __init__(self, device: torch.device, keep: int) -> None:
        """Holds the newest `keep` versions in the host's memory, and sends them from `device`."""
        self._device, self._keep = device, keep
        self._versions: dict[int, Mapping[str, Tensor]] = {}
        self._channels: dict[int, _Channel] = {}  # by actor

    def hold(self, version: int, weights: np.ndarray, manifest: Sequence[TensorSpec], dtype: str) -> None:
        """Copies the bytes; forgets the oldest version."""
        for old in sorted(self._versions)[: max(0, len(self._versions) + 1 - self._keep)]:
            del self._versions[old]
        self._versions[version] = unflatten(weights.copy(), manifest, dtype)

    def prepare(self, actor: int, process: str, version: int) -> int | None:
        """Choose what `send` sends next; return a port for `open` if this process is unknown. Raises VersionGone."""
        weights = self._versions.get(version)
        if weights is None:
            raise VersionGone(f"the learner holds versions {sorted(self._versions)}, not {version}")
        known = self._channels.get(actor)
        if known and known.trainer and known.process == process:
            known.source.weights = weights
            return None
        if known and known.trainer:
            known.trainer.shutdown()  # aborts what may still wait for the dead
        self._channels[actor] = _Channel(process, _Source(self._device, weights), _stream(self._device))
        with socket.create_server(("", 0)) as server:
            return int(server.getsockname()[1])

    def open(self, actor: int, host: str, port: int, workers: int) -> None:
        """Returns when the workers of the actor's engine have joined at host:port."""
        from vllm.distributed.weight_transfer import WeightTransferTrainerFactory
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        channel = self._channels[actor]
        info = NCCLTrainerInitInfo(rank=0, master_address=host, master_port=port, world_size=1 + workers, **WIRE)
        with channel.stream:
            trainer = WeightTransferTrainerFactory.trainer_init(info, client=_Nobody(), source=channel.source)
        if not trainer.model_update_group.available:
            raise RuntimeError("NCCL cannot be used in the learner's process; use rollout.transfer=store")
        channel.trainer = trainer

    def send(self, actor: int) -> None:
        """Send what was prepared. Return when the actor's engine has all bytes."""
        channel = self._channels[actor]
        try:
            with channel.stream:
                channel.trainer.send_weights()
        finally:
            channel.source.weights = {}


def joining(host: str, port: int, workers: int) -> dict[str, Any]:
    """Return what vLLM's worker needs to meet `Sender.open`."""
    return {"master_address": host, "master_port": port, "rank_offset": 1, "world_size": 1 + workers, **WIRE}


def announced(manifest: Sequence[TensorSpec], dtype: str) -> dict[str, Any]:
    """Return what vLLM's worker has to expect of `Sender.send`."""
    return {
        "names": [s.name for s in manifest],
        "dtype_names": [dtype] * len(manifest),
        "shapes": [list(s.shape) for s in manifest],
    }


@contextmanager
def together_with(call: Any, timeout_s: float) -> Iterator[None]:
    """Run the actor's half of a transfer while `call`, a reference, runs the learner's half.

    Where that half fails or is late, this process ends: NCCL would wait on, and an engine that has half of the weights
    is of no use.
    """

    def watch() -> None:
        try:
            ray.get(call, timeout=timeout_s)
        except RayError as e:
            print(f"weight transfer: the learner's half failed ({e})", flush=True)
            os._exit(1)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    yield
    watcher.join()


@dataclass(slots=True)
class _Source:
    """vLLM's WeightSource, structurally: the weights that are sent next."""

    device: torch.device
    weights: Mapping[str, Tensor] = field(default_factory=dict)

    def metadata(self) -> list[Any]:
        from vllm.distributed.weight_transfer import ParamMeta

        return [ParamMeta(name, t.dtype, tuple(t.shape)) for name, t in self.weights.items()]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self.weights.items():
            yield name, tensor.to(self.device)


class _Nobody:
    """vLLM's trainer would drive the engine through a client; here the actor drives its own."""

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None: ...

    def start_weight_update(self) -> None: ...

    def update_weights(self, update_info: Any) -> None: ...

    def finish_weight_update(self, weight_version: str | None = None) -> None: ...


def _stream(device: torch.device) -> AbstractContextManager[Any]:
    return nullcontext() if device.type == "cpu" else torch.cuda.stream(torch.cuda.Stream(device))
